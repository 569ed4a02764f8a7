"""fit through compiled graphs: the run of eager steps, up to rounding, with the same guards."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, PRIORS, a_vae, binary
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.compiler.backend import CompiledGraph
from pyrovae.compiler.loss import Compiled
from pyrovae.core.random import generator
from pyrovae.objectives import ELBO, IWAE, kl_weight, warmup
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.step import TrainStep


@pytest.fixture
def as_captured(monkeypatch):
    """Graphs run as they are captured: the compiler has tests of its own, and takes seconds."""
    monkeypatch.setattr(CompiledGraph, "compile", lambda self, tensors: None)


@pytest.fixture
def x():
    return binary(50)


def fit(vae, data, **keywords):
    keywords = {"num_epochs": 3, "batch_size": 16, "progress": False, "compile": True, **keywords}
    return pv.fit(vae.model, vae.guide, data, **keywords)


def weights_of(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def both(make, data, **keywords):
    """History and weights of an eager run and of one through graphs."""
    start, found = make().state_dict(), []
    for compile in (False, True):
        vae = make()
        vae.load_state_dict(start)
        loss = keywords["loss"]() if "loss" in keywords else None
        history = fit(vae, data, **{**keywords, "loss": loss, "compile": compile})
        assert (history.compile_seconds > 0) == compile
        found.append((history, weights_of(vae)))
    return found


def assert_same_run(found, parts=("loss", "elbo", "reconstruction", "kl")):
    (eager, weights), (compiled, others) = found
    for name in parts:
        assert getattr(compiled, name) == pytest.approx(getattr(eager, name), rel=1e-5, nan_ok=True), name
    # Adam divides by small roots, so that rounding of a gradient moves a weight by parts of the rate.
    torch.testing.assert_close(weights, others, rtol=1e-4, atol=1e-5)


LOSSES = {
    "Trace_ELBO": Trace_ELBO,
    "two particles": lambda: Trace_ELBO(num_particles=2),
    "mean field": TraceMeanField_ELBO,
    "without a graph of its own": lambda: RenyiELBO(alpha=0.5, num_particles=2),
    "warm-up by steps": lambda: ELBO(terms=[kl_weight(warmup(6))]),
    "warm-up by epochs": lambda: ELBO(terms=[kl_weight(warmup(2, unit="epochs"))]),
    "IWAE, dreg": lambda: IWAE(3, gradient="dreg"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.usefixtures("as_captured")
def test_the_run_is_that_of_eager_steps(loss, x):
    """50 rows in batches of 16: the last of 2 is ragged."""
    assert_same_run(both(a_vae, x, loss=LOSSES[loss], validation=x))


def test_the_run_is_that_of_eager_steps_through_the_compiler(x):
    assert_same_run(both(a_vae, x, batch_size=25))


@pytest.mark.usefixtures("as_captured")
def test_running_statistics_are_those_of_eager_steps(x):
    def make():
        vae = a_vae()
        layers = vae.likelihood.net.layers
        layers[-1].bias = None  # its gradient would be rounding alone, which Adam makes steps of
        layers.append(nn.BatchNorm1d(FEATURES))
        return vae

    assert_same_run(both(make, x))
    vae = make()
    fit(vae, x, num_epochs=2)
    assert vae.likelihood.net.layers[-1].num_batches_tracked == 8


@pytest.mark.usefixtures("as_captured")
def test_enumerated_and_hand_written_pairs_run_through_graphs():
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([-1.0, 1.0]))

        @config_enumerate
        def forward(self, x):
            with pyro.plate("data", len(x)):
                k = pyro.sample(
                    "k", dist.Categorical(pyro.param("p", torch.ones(2), dist.constraints.simplex))
                )
                pyro.sample("x", dist.Normal(self.loc[k], 1.0), obs=x)

    def guide(x):
        return None

    x, found = torch.randn(40), []
    for compile in (False, True):
        pyro.clear_param_store()
        mixture = Mixture()
        keywords = {"num_epochs": 3, "batch_size": 20, "progress": False, "compile": compile}
        history = pv.fit(mixture, guide, x, loss=TraceEnum_ELBO(max_plate_nesting=1), **keywords)
        store = pyro.get_param_store()._params["p"].detach()
        found.append((history, torch.cat([mixture.loc.detach(), store])))
    assert_same_run(found)
    assert all(math.isnan(kl) for kl in found[1][0].kl)


@pytest.mark.usefixtures("as_captured")
def test_the_same_seed_gives_the_same_run(x):
    start, runs = a_vae().state_dict(), []
    for _ in range(2):
        vae = a_vae()
        vae.load_state_dict(start)
        torch.rand(3)
        before = torch.get_rng_state()
        runs.append((fit(vae, x, seed=3).elbo, weights_of(vae)))
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.usefixtures("as_captured")
def test_loaders_conditions_and_optimisers_of_the_callers_own(x):
    data = DataLoader(TensorDataset(x), batch_size=20, shuffle=True)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)  # noqa: E731
    assert_same_run(both(a_vae, data, optimizer=sgd))


@pytest.mark.usefixtures("as_captured")
def test_what_a_callback_edits_is_noticed(x):
    found = []
    start = a_vae().state_dict()
    for compile in (False, True):
        vae = a_vae()
        vae.load_state_dict(start)

        def freeze(training, vae=vae):
            vae.likelihood.requires_grad_(False)

        fit(vae, x, callbacks=[freeze], compile=compile)
        found.append(weights_of(vae))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("as_captured")
def test_an_infinite_loss_stops_before_the_step_and_names_site_and_batch():
    found = []
    start = a_vae("standard_normal", "normal", "normal").state_dict()
    x = torch.randn(48, FEATURES)
    second = torch.randperm(48, generator=generator("order, train", 2, 0))[16:32]
    x[second[second >= 16][0]] = math.inf  # nor is it in the batch that fit looks for parameters with
    for compile in (False, True):
        vae = a_vae("standard_normal", "normal", "normal")
        vae.load_state_dict(start)
        with pytest.raises(FloatingPointError, match=r"epoch 0, batch 1: site 'z' of the") as raised:
            fit(vae, x, compile=compile, seed=2)
        found.append((str(raised.value), weights_of(vae)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[1][1], nn.utils.parameters_to_vector(start.values()))  # it had steps before


@pytest.mark.usefixtures("as_captured")
def test_a_gradient_that_is_not_finite_is_named_before_the_step(x):
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(LATENTS, FEATURES)
            self.rate = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return dist.Bernoulli(logits=self.net(z) + self.rate.sqrt()).to_event(1)

    vae = pv.VAE(PRIORS["standard_normal"].make(), Root(), a_vae().guide.part)
    before = weights_of(vae)
    with pytest.raises(FloatingPointError, match=r"'likelihood.rate' is not finite at epoch 0, batch 0"):
        fit(vae, x)
    assert torch.equal(weights_of(vae), before)


def test_steps_are_eager_unless_compiled_ones_are_asked_for(x):
    vae = a_vae()
    assert pv.fit(vae.model, vae.guide, x, num_epochs=1, progress=False).compile_seconds == 0


def deferred(optimizer=None, clip=None):
    """A compiled step whose check waits for the next one, as on a GPU; here on the CPU."""
    vae = a_vae("standard_normal", "normal", "normal")
    tracked = TrackedLoss(vae.model, vae.guide, Trace_ELBO())
    parameters = tracked.parameters((torch.zeros(16, FEATURES),))
    adam = (optimizer or torch.optim.Adam)(parameters, fused=True)
    step = TrainStep(tracked, adam, parameters, compile=True, precision="float32", clip=clip)
    assert not step.deferred  # a CPU runs no further than Python
    step.deferred = True
    return vae, step


@pytest.mark.usefixtures("as_captured")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("after", ["a step", "an eager step", "nothing"])
def test_a_deferred_check_names_the_step_and_leaves_the_parameters_as_before_it(clip, after):
    vae, step = deferred(clip=clip)
    good, bad = torch.randn(16, FEATURES), torch.full((16, FEATURES), math.inf)
    for i in range(3):
        step.step((good,), f"batch {i}", check=False)
    before = weights_of(vae)
    step.step((bad,), "batch 3", check=False)
    assert torch.equal(weights_of(vae), before)
    go_on = {
        "a step": lambda: step.step((good,), "batch 4", check=False),
        "an eager step": lambda: step.step((good[:3],), "batch 4", check=False),
        "nothing": step.finish,
    }
    with pytest.raises(FloatingPointError, match=r"the loss is \w+ at batch 3: site 'z' of the"):
        go_on[after]()
    assert torch.equal(weights_of(vae), before)
    assert step.optimizer.found_inf is None
    step.forget()
    step.step((good,), "batch 5", check=False)
    step.finish()
    assert not torch.equal(weights_of(vae), before)


@pytest.mark.usefixtures("as_captured")
def test_deferred_checks_change_no_step():
    x, found = torch.randn(4, 16, FEATURES), []
    start = None
    for defer in (False, True):
        vae, step = deferred()
        start = {k: v.clone() for k, v in (start or vae.state_dict()).items()}
        vae.load_state_dict(start)
        step.deferred = defer
        torch.manual_seed(1)
        for i, batch in enumerate(x):
            step.step((batch,), f"batch {i}", check=i == 0)
        step.finish()
        found.append(weights_of(vae))
    assert torch.equal(*found)


@pytest.mark.usefixtures("as_captured")
def test_what_no_graph_can_do_trains_eagerly_with_one_warning(x):
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(LATENTS, FEATURES)

        def forward(self, z):
            return dist.Bernoulli(logits=self.net(z if z.mean() > 0 else -z)).to_event(1)

    vae = pv.VAE(PRIORS["standard_normal"].make(), Turning(), a_vae().guide.part)
    with pytest.warns(UserWarning, match="the value of a tensor decides what runs") as caught:
        history = fit(vae, x)
    assert len(caught) == 1
    assert history.compile_seconds == 0
    assert len(history) == 3


@pytest.mark.usefixtures("as_captured")
def test_a_compiled_elbo_asks_for_compiled_steps(x):
    start, found = a_vae().state_dict(), []
    for loss in (Trace_ELBO(), Compiled(Trace_ELBO())):
        vae = a_vae()
        vae.load_state_dict(start)
        found.append((fit(vae, x, loss=loss, compile=False), weights_of(vae)))
    assert found[1][0].compile_seconds > 0
    assert_same_run(found)


@pytest.mark.usefixtures("as_captured")
def test_networks_train_in_bfloat16(x):
    start, found = a_vae().state_dict(), []
    for precision, compile in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        vae = a_vae()
        vae.load_state_dict(start)
        history = fit(vae, x, precision=precision, compile=compile)
        found.append((history, weights_of(vae)))
    assert found[1][0].loss == pytest.approx(found[0][0].loss, rel=0.01)
    assert found[1][0].loss != pytest.approx(found[0][0].loss, rel=1e-7)
    assert found[2][0].loss == pytest.approx(found[1][0].loss, rel=1e-5)


def test_other_values_are_refused(x):
    with pytest.raises(ValueError, match="compile is 'yes': pass True or False"):
        fit(a_vae(), x, compile="yes")
    with pytest.raises(ValueError, match="compile is 'auto': pass True or False"):
        fit(a_vae(), x, compile="auto")
    with pytest.raises(ValueError, match="precision is 'half'"):
        fit(a_vae(), x, precision="half")
