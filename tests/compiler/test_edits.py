"""What changes after a loss was compiled is noticed: edits, schedules, shapes of batches."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import assert_same, compiled_of, gradients_of
from components import FEATURES, LIKELIHOODS, PRIORS, a_vae, binary
from pyro import poutine
from pyro.infer import (
    Trace_ELBO,
)
from torch import nn

import pyrovae as pv
from pyrovae.objectives import ELBO, kl_weight, warmup


def edits():
    def swap(vae):
        vae.likelihood = LIKELIHOODS["bernoulli"].make()

    def replace(vae):
        layer = vae.likelihood.net.layers[0]
        layer.weight = nn.Parameter(2 * layer.weight.detach())

    def freeze(vae):
        vae.guide.requires_grad_(False)

    def evaluate(vae):
        vae.eval()

    def attribute(vae):
        vae.likelihood.net.layers[-1].p = 0.9

    def hook(vae):
        vae.likelihood.net.register_forward_hook(lambda module, args, output: 2 * output)

    return [swap, replace, freeze, evaluate, attribute, hook]


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize("edit", edits(), ids=lambda edit: edit.__name__)
def test_an_edit_is_noticed(edit):
    vae, x = a_vae(), binary(50)
    vae.likelihood.net.layers.append(nn.Dropout(0.2))
    compiled = compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    before = gradients_of(compiled, x)
    edit(vae)
    assert_same(Trace_ELBO()(vae.model, vae.guide), compiled, x)
    after = gradients_of(compiled, x)
    assert any(
        (a is None) != (b is None) or (a is not None and not torch.equal(a, b))
        for a, b in zip(before[1].values(), after[1].values(), strict=True)
    )


class Halved(nn.Module):
    """Of z the part that a mask names, and all of it once a flag is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, FEATURES)
        self.register_buffer("mask", torch.tensor([True, False, True, False]))
        self.register_buffer("flag", torch.tensor(0))

    def forward(self, z):
        part = self.net(z[..., torch.nonzero(input=self.mask).squeeze(-1)] + z[..., self.mask])
        return dist.Bernoulli(logits=part + z.sum(-1, keepdim=True) if self.flag else part).to_event(1)


def test_buffers_may_decide_and_their_change_is_noticed():
    vae, x = pv.VAE(PRIORS["standard_normal"].make(), Halved(), a_vae().guide.part), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)
    assert_same(eager, compiled, x)
    first = gradients_of(compiled, x)[0]
    vae.likelihood.mask.logical_not_()
    assert_same(eager, compiled, x)
    second = gradients_of(compiled, x)[0]
    vae.likelihood.flag += 1
    assert_same(eager, compiled, x)
    assert len({first, second, gradients_of(compiled, x)[0]}) == 3


def test_a_buffer_that_a_callback_changes_decides_from_the_next_step_on():
    class Raising:
        steps = 0

        def step(self, training):
            self.steps += 1
            if self.steps == 3:
                vae.likelihood.flag.fill_(1)

        def __call__(self, training):
            pass

    elbos = []
    for compile in (False, True):
        pyro.set_rng_seed(0)
        vae = pv.VAE(PRIORS["standard_normal"].make(), Halved(), a_vae().guide.part)
        keywords = {"num_epochs": 1, "batch_size": 4, "callbacks": [Raising()], "progress": False}
        elbos.append(pv.fit(vae.model, vae.guide, binary(40), compile=compile, **keywords).elbo[0])
    assert elbos[0] == pytest.approx(elbos[1], rel=1e-4)


def test_one_edit_of_a_buffer_is_one_though_it_makes_many_graphs_stale():
    vae = pv.VAE(PRIORS["standard_normal"].make(), Halved(), a_vae().guide.part)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, binary(1))
    for _ in range(3):
        for rows in range(1, 7):
            assert_same(eager, compiled, binary(rows))
        vae.likelihood.mask.logical_not_()
    assert compiled.graphs.edits == 2


def test_a_buffer_that_decides_anew_each_time_is_no_graphs():
    vae, x = pv.VAE(PRIORS["standard_normal"].make(), Halved(), a_vae().guide.part), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)

    def agree_once_more(seed):
        vae.likelihood.flag += 1
        torch.testing.assert_close(*(gradients_of(loss, x, seed=seed)[0] for loss in (eager, compiled)))

    for seed in range(8):
        agree_once_more(seed)
    with pytest.warns(UserWarning, match="decides what runs is edited again and again"):
        agree_once_more(8)
    agree_once_more(9)  # and no further warning


def test_a_number_that_a_function_closes_over_is_noticed():
    weight = 1.0

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            pyro.sample("z", dist.Normal(x, 1.0))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            with pyro.plate("data", len(x)), poutine.scale(scale=weight):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(6)
    loss = Trace_ELBO()(Model(), guide)
    compiled = compiled_of(loss, x)
    first = gradients_of(compiled, x)[0]
    weight = 0.5
    assert gradients_of(compiled, x)[0].item() == pytest.approx(0.5 * first.item())


def test_what_is_edited_again_and_again_runs_as_before_with_one_warning():
    vae, x = a_vae(), binary(5)
    vae.likelihood.net.beta = 0
    compiled = compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    for beta in range(1, 9):
        vae.likelihood.net.beta = beta
        compiled(x)
    vae.likelihood.net.beta = 9
    with pytest.warns(UserWarning, match="'likelihood.net.beta' is edited again and again"):
        compiled(x)
    for beta in (10, 11):
        vae.likelihood.net.beta = beta
        compiled(x)


def test_a_schedule_goes_on():
    """What a clock's schedule gives is an input of the graph."""
    vae, x = a_vae(), binary(5)
    objectives = [ELBO(terms=[kl_weight(warmup(3))]) for _ in range(2)]
    eager = objectives[0](vae.model, vae.guide)
    compiled = compiled_of(objectives[1](vae.model, vae.guide), x)
    assert objectives[1].clock.step == 0
    for _ in range(5):
        assert_same(eager, compiled, x)
    assert [objective.clock.step for objective in objectives] == [5, 5]
    assert len(compiled.graphs._graphs) == 1


def test_a_term_that_reads_the_clock_itself_is_refused():
    vae, x = a_vae(), binary(5)

    def term(drawn, clock):
        return clock.step * drawn.log_q

    loss = ELBO(terms=[term])(vae.model, vae.guide)
    with pytest.warns(UserWarning, match=r"reads clock.step itself.*test_edits.py:\d+: return clock.step"):
        compiled = pv.compile(loss, (x,), backend="none")
    assert compiled(x).requires_grad


def test_ragged_batches_get_a_graph_each_and_no_more_than_eight():
    vae, x = a_vae(), binary(20)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)
    for rows in range(1, 8):
        assert_same(eager, compiled, x[:rows])
    assert len(compiled.graphs._graphs) == 8
    with pytest.warns(UserWarning, match="8 shapes of arguments have a graph each"):
        compiled(x[:8])
    assert_same(eager, compiled, x[:9])  # and no further warning
    assert_same(eager, compiled, x[:3])
