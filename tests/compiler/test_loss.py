"""Compiled losses: the loss and the gradients of the eager ones on the same noise, and nothing frozen."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import TOLERANCE, assert_same, compiled_of, gradients_of
from components import FEATURES, GUIDES, LIKELIHOODS, PAIRS, PRIORS, a_vae, binary
from objectives import EVERY
from pyro import poutine
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import pyrovae as pv
from pyrovae.compiler.loss import Compiled, CompiledLoss
from pyrovae.objectives import (
    ELBO,
    TVO,
    WakeSleep,
    capacity,
    cyclical,
    free_bits,
    kl_weight,
    mmd,
    total_correlation,
    warmup,
)


def first_fitting(position):
    """Each prior, or each guide, once, with the first of the others that it fits."""
    return list({pair[position]: pair for pair in reversed(PAIRS)}.values())


def seeds_itself(guide):
    return guide == "refined"


ONCE_EACH = dict.fromkeys(
    [(p, "bernoulli", q) for p, q in (*first_fitting(0), *first_fitting(1)) if not seeds_itself(q)]
    + [("standard_normal", x, "normal") for x in LIKELIHOODS]
)


@pytest.mark.parametrize(("prior", "likelihood", "guide"), ONCE_EACH)
def test_every_part_gives_the_loss_and_gradients_of_eager(prior, likelihood, guide):
    vae, x = a_vae(prior, likelihood, guide), LIKELIHOODS[likelihood].data(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    assert_same(eager, compiled_of(eager, x), x)


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "likelihood", "guide"), ONCE_EACH)
def test_the_compiler_takes_every_part(prior, likelihood, guide):
    vae, x = a_vae(prior, likelihood, guide), LIKELIHOODS[likelihood].data(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    assert_same(eager, compiled_of(eager, x, backend="inductor"), x)


def test_every_part_is_in_the_list():
    assert {part[0] for part in ONCE_EACH} == set(PRIORS)
    assert {part[1] for part in ONCE_EACH} == set(LIKELIHOODS)
    assert {part[2] for part in ONCE_EACH} | {"refined"} == set(GUIDES)


LOSSES = {
    "Trace_ELBO": Trace_ELBO,
    "three particles": lambda: Trace_ELBO(num_particles=3),
    "three at once": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "mean field": TraceMeanField_ELBO,
    "enumerated": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "with baselines": TraceGraph_ELBO,
    "Pyro's Renyi": lambda: RenyiELBO(alpha=0.5, num_particles=2),
    "wake": lambda: WakeSleep(3),
    "wake-sleep": lambda: WakeSleep(3, sleep=0.5),
    "TVO": lambda: TVO(3),
    "warm-up": lambda: ELBO(terms=[kl_weight(warmup(10, start=0.3))]),
    "terms": lambda: ELBO(2, terms=[kl_weight(0.5), free_bits(0.1), capacity(cyclical(7), weight=2.0)]),
    "of the batch": lambda: ELBO(terms=[total_correlation(2.0, num_data=100), mmd(3.0)]),
    **{
        f"{name}, {gradient}": lambda name=name, gradient=gradient: EVERY[name](gradient=gradient)
        for name in EVERY
        for gradient in EVERY[name]().gradients
        if gradient in ("standard", "stl", "dreg")
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_objective_gives_the_loss_and_gradients_of_eager(name):
    vae, x = a_vae(), binary(5)
    compiled = compiled_of(LOSSES[name]()(vae.model, vae.guide), x)
    if hasattr(LOSSES[name](), "differentiable_loss"):
        assert_same(LOSSES[name]()(vae.model, vae.guide), compiled, x)
        return
    value, gradients = gradients_of(compiled, x)  # eager Pyro has no such module: hold it against SVI's
    vae.zero_grad()
    torch.manual_seed(1)
    assert LOSSES[name]().loss_and_grads(vae.model, vae.guide, x) == pytest.approx(
        value.item(), rel=TOLERANCE
    )
    for key, gradient in gradients.items():
        torch.testing.assert_close(dict(compiled.named_parameters())[key].grad, gradient)


@pytest.mark.parametrize("gradient", ["score", "vimco"])
def test_score_estimators_of_discrete_draws_are_captured(gradient):
    vae, x = a_vae("bernoulli", "bernoulli", "bernoulli"), binary(5)
    loss = EVERY["iwae"](gradient=gradient)(vae.model, vae.guide)
    assert_same(EVERY["iwae"](gradient=gradient)(vae.model, vae.guide), compiled_of(loss, x), x)


class Hierarchy(PyroModule):
    """Two latents, of which one is shared, a condition y, labels, and a plate of other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.scale = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    def forward(self, x, y):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample=x), poutine.scale(scale=0.7):
            z = pyro.sample("z", dist.Normal(top + y, self.scale).to_event(1))
            pyro.sample("x", dist.Normal(self.norm(self.net(z)), 1.0).to_event(1), obs=x)
        for i in pyro.plate("rows", 2):
            pyro.sample(f"row_{i}", dist.Normal(top, 1.0 + i), obs=y[i, 0])


class HierarchyGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.place = PyroParam(torch.tensor(0.1))

    def forward(self, x, y):
        pyro.sample("top", dist.Normal(self.place, 0.3))
        width = pyro.param("width", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("data", 100, subsample=x):
            pyro.sample("z", dist.Normal(self.net(x), width).to_event(1))


@pytest.mark.parametrize("backend", ["none", pytest.param("inductor", marks=pytest.mark.slow)])
def test_hand_written_pairs_with_everything_in_them(backend):
    """Several sites, a subsampled and a sequential plate, scales, conditions, lazy parameters, BatchNorm."""
    model, guide = Hierarchy(), HierarchyGuide()
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    eager = Trace_ELBO()(model, guide)
    compiled = compiled_of(eager, x, y, backend=backend)
    before = model.norm.running_mean.clone()
    assert_same(eager, compiled, x, y)
    assert model.norm.num_batches_tracked == 2  # once by each, and not at the capture
    once = model.norm.running_mean.clone()
    model.norm.running_mean.copy_(before)
    torch.manual_seed(5)
    eager(x, y)
    want = model.norm.running_mean.clone()
    model.norm.running_mean.copy_(before)
    torch.manual_seed(5)
    compiled(x, y)
    torch.testing.assert_close(model.norm.running_mean, want)
    assert not torch.equal(once, before)
    store = pyro.get_param_store()
    for name in ("width",):
        gradients = []
        for loss in (eager, compiled):
            store._params[name].grad = None
            gradients_of(loss, x, y)
            gradients.append(store._params[name].grad)
        torch.testing.assert_close(*gradients)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 1.0]))
        self.logits = nn.Parameter(torch.tensor([0.3, 0.1]))

    @config_enumerate
    def forward(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.loc[k], 1.0), obs=x)


class Assignment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.2]))

    @config_enumerate
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.weight * x[:, None]))


@pytest.mark.parametrize("guide", [lambda x: None, Assignment()], ids=["in the model", "in the guide"])
def test_discrete_latents_are_summed_out(guide):
    x = torch.randn(6)
    eager = TraceEnum_ELBO(max_plate_nesting=1)(Mixture(), guide)
    assert_same(eager, compiled_of(eager, x), x)


def test_guides_and_latents_of_pyros_own_are_captured():
    """Parameters made at the first run, and latents that are attributes of modules."""

    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def forward(self, x, y):
            weight = self.weight
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)

    x, y = torch.randn(6, 3), torch.randn(6)
    for guide in (AutoNormal, AutoDelta):
        model = Regression()
        loss = Trace_ELBO()(model, guide(model))
        compiled = compiled_of(loss, x, y)
        assert_same(loss, compiled, x, y)
        assert len(list(compiled.parameters())) == (2 if guide is AutoNormal else 1)


def test_parameters_of_functions_are_found():
    net = nn.Linear(3, 1)

    def model(x):
        loc = pyro.param("loc", lambda: torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(net(x)[:, 0], z.exp()), obs=x[:, 0])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], scale))

    x = torch.randn(6, 3)
    compiled, eager = (Trace_ELBO()(model, guide) for _ in range(2))
    compiled = compiled_of(compiled, x)
    found = []
    for loss in (eager, compiled):
        torch.manual_seed(2)
        loss(x).backward()
        store = pyro.get_param_store()._params
        found.append([p.grad for p in (store["loc"], store["scale"], net.weight, net.bias)])
        for parameter in (store["loc"], store["scale"], net.weight, net.bias):
            parameter.grad = None
    torch.testing.assert_close(*found)
    assert all(gradient is not None for gradient in found[0])


def test_draws_are_live_and_seeded():
    vae, x = a_vae(), binary(5)
    compiled = compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    before = torch.get_rng_state()
    compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    assert torch.equal(torch.get_rng_state(), before)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values += [compiled(x).item(), compiled(x).item()]
    assert values[:2] == values[2:4]
    assert len(set(values)) == 4


def test_weights_saved_from_one_are_loaded_into_the_other():
    vae, other, x = a_vae(), a_vae(), binary(5)
    compiled = compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    eager = Trace_ELBO()(other.model, other.guide)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    other_value = gradients_of(eager, x)[0]
    assert compiled(x).item() != other_value.item()
    compiled.load_state_dict(eager.state_dict())
    assert_same(eager, compiled, x)
    assert len(compiled.graphs._graphs) == 1


def test_two_compiled_models_side_by_side():
    x = binary(5)
    vaes = [a_vae(), a_vae()]
    losses = [Trace_ELBO()(vae.model, vae.guide) for vae in vaes]
    compiled = [compiled_of(loss, x) for loss in losses]
    for _ in range(2):
        for one, other in zip(losses, compiled, strict=True):
            assert_same(one, other, x)
    assert gradients_of(compiled[0], x)[0] != gradients_of(compiled[1], x)[0]


def test_losses_can_be_weighed_summed_and_had_without_gradients():
    vae, x = a_vae(), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)
    found = []
    for loss in (eager, compiled):
        torch.manual_seed(1)
        vae.zero_grad()
        (2 * loss(x) + loss(x) / 3).backward()
        found.append([p.grad for p in vae.parameters()])
        with torch.no_grad():
            found[-1].append(loss(x))
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=1e-6)
    value = compiled(x)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="its gradients were taken already"):
        value.backward()


def test_gradients_reach_the_arguments():
    vae = a_vae("standard_normal", "normal", "normal")
    eager = Trace_ELBO()(vae.model, vae.guide)
    x = torch.randn(5, FEATURES, requires_grad=True)
    compiled = compiled_of(eager, x)
    found = []
    for loss in (eager, compiled):
        x.grad = None
        gradients_of(loss, 2 * x)
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_stock_svi_takes_it_for_an_elbo():
    x, start = binary(20), a_vae().state_dict()
    losses, weights = [], []
    for elbo in (Trace_ELBO(), pv.compile(Trace_ELBO(), backend="none")):
        vae = a_vae()
        vae.load_state_dict(start)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo)
        torch.manual_seed(3)
        losses.append([svi.step(x) for _ in range(5)] + [svi.evaluate_loss(x)])
        weights.append(nn.utils.parameters_to_vector(vae.parameters()).detach())
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)  # Adam divides by small roots
    assert not torch.allclose(weights[1], nn.utils.parameters_to_vector(start.values()))


def test_bfloat16_is_near_and_its_gradients_are_of_float32():
    vae, x = a_vae(), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    rough = compiled_of(eager, x, precision="bfloat16")
    (value, gradients), (other, others) = gradients_of(eager, x), gradients_of(rough, x)
    assert 0 < abs(value.item() - other.item()) < 0.02 * value.item()  # 8 bits of digits
    assert all(gradient.dtype == torch.float32 for gradient in others.values())
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() < 0.03 * gradient.norm(), name


def test_the_compiler_gives_the_loss_and_gradients_of_eager():
    """Of convolutions, whose gradients lie in memory as the compiler likes."""
    vae = pv.VAE(
        pv.priors.StandardNormal(3),
        pv.likelihoods.Bernoulli(pv.networks.ConvDecoder(3, (4, 4), channels=[2])),
        pv.guides.Normal(pv.networks.ConvEncoder((4, 4), 6, channels=[3])),
    )
    x = torch.bernoulli(torch.full((5, 16), 0.4))
    loss = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(loss, x, backend="inductor")
    for seed in (1, 2):
        assert_same(loss, compiled, x, seed=seed)
    assert all(p.grad.stride() == p.stride() for p in compiled.parameters())
    assert compiled.graphs.seconds > 0


def test_without_a_compiler_there_is_one_warning_and_the_mend():
    from torch._inductor import config

    vae, x = a_vae(), binary(5)
    nothing = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with nothing, pytest.warns(UserWarning, match=r"no C\+\+ compiler: install g\+\+") as caught:
        compiled = pv.compile(Trace_ELBO()(vae.model, vae.guide), (x,))
    assert len(caught) == 1
    assert math.isfinite(compiled(x).item())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda vae, x: pv.compile(Trace_ELBO(), (x,)), r"with example_args, loss is the ELBO of a pair"),
        (lambda vae, x: pv.compile(vae, (x,)), "loss must be a Pyro ELBO"),
        (lambda vae, x: pv.compile(Trace_ELBO()(vae.model, vae.guide), x), "example_args is a tuple"),
        (lambda vae, x: Compiled(vae), r"takes a Pyro ELBO, such as Trace_ELBO\(\)"),
    ],
)
def test_other_things_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make(a_vae(), binary(3))
    with pytest.raises(ValueError, match="precision is 'float16'"):
        CompiledLoss(None, None, Trace_ELBO(), precision="float16")
