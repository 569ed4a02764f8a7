"""VAE: one contract over every combination of parts, parts of other kinds, what people do with it."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, PRIORS, a_vae, to_z
from helpers import all_moved, snapshot
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pyrovae as pv
from pyrovae import guides, networks, priors


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((20, FEATURES), 0.4))


# ------------------------------------------------------------------------------ other parts


def test_any_callable_or_distribution_is_a_part(x):
    """Trap: pyro.sample refuses a raw torch Distribution."""
    net = nn.Linear(LATENTS, FEATURES)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(FEATURES, LATENTS)

        def forward(self, x):
            q = torch.distributions.Normal(self.net(x), 1.0)
            return torch.distributions.Independent(q, 1)

    prior = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(LATENTS), torch.ones(LATENTS)), 1
    )

    def likelihood(z):
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=net(z)), 1)

    vae = pv.VAE(prior, likelihood, Encoder())
    ours = pv.VAE(
        lambda: dist.Normal(torch.zeros(LATENTS), 1).to_event(1),
        lambda z: dist.Bernoulli(logits=net(z)).to_event(1),
        lambda x: dist.Normal(vae.guide.part.net(x), 1).to_event(1),
    )
    found = []
    for each in (vae, ours):
        pyro.set_rng_seed(2)
        found.append(pv.log_weights(each.model, each.guide, x, num_samples=4))
    torch.testing.assert_close(*found)
    assert vae.sample(3).shape == (3, FEATURES)
    before = vae.guide.part.net.weight.detach().clone()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
    assert not torch.equal(before, vae.guide.part.net.weight)


def a_raw_vae() -> pv.VAE:
    """Parts that return torch's own distributions."""
    net = nn.Linear(LATENTS, FEATURES)
    normal, independent = torch.distributions.Normal, torch.distributions.Independent
    return pv.VAE(
        lambda: independent(normal(torch.zeros(LATENTS), 1.0), 1),
        lambda z: independent(torch.distributions.Bernoulli(logits=net(z)), 1),
        guides.Normal(to_z()),
    )


def test_parts_of_raw_torch_serve_all_of_pyro(x):
    vae = a_raw_vae()
    assert Predictive(vae.model, num_samples=2)(size=3)["x"].shape == (2, 3, FEATURES)
    guide = AutoNormal(vae.model)
    SVI(vae.model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
    mcmc = MCMC(NUTS(vae.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(x[:3])
    assert mcmc.get_samples()["z"].shape == (5, 3, LATENTS)


def test_swapping_a_part_by_assignment(x):
    vae = a_vae()
    names = set(vae.state_dict())
    wide = pv.priors.StandardNormal(LATENTS)
    vae.prior = wide
    assert vae.prior is wide
    assert vae.model.prior is wide
    vae.likelihood = lambda z: dist.Bernoulli(logits=10 + z.sum(-1, True).expand(*z.shape[:-1], 6)).to_event(
        1
    )
    assert vae.sample(100).mean() > 0.9
    assert set(vae.state_dict()) < names


def test_a_bayesian_part_draws_its_weights_once_for_all_data(x):
    """A PyroSample site of a part belongs to no datum: it is outside the data plate."""
    decoder = PyroModule[nn.Linear](LATENTS, FEATURES)
    decoder.weight = PyroSample(dist.Normal(0.0, 1.0).expand([FEATURES, LATENTS]).to_event(2))

    class Likelihood(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = decoder

        def forward(self, z):
            return dist.Bernoulli(logits=self.net(z)).to_event(1)

    vae = pv.VAE(PRIORS["standard_normal"].make(), Likelihood(), guides.Normal(to_z()))
    trace = poutine.trace(vae.model).get_trace(x)
    (weight,) = (site for name, site in trace.nodes.items() if name.endswith("net.weight"))
    assert weight["value"].shape == (FEATURES, LATENTS)
    assert not weight["cond_indep_stack"]


def test_support_is_checked_only_while_pyro_validates(x):
    vae = a_vae()
    with pyro.validation_enabled(False):
        assert vae.model(torch.full_like(x, 0.5)) is not None


def test_a_zuko_flow_is_a_prior_as_it_is(x):
    zuko = pytest.importorskip("zuko")
    vae = pv.VAE(
        zuko.flows.MAF(LATENTS, hidden_features=(8,)), LIKELIHOODS["bernoulli"].make(), guides.Normal(to_z())
    )
    before = snapshot(vae.prior)
    pv.fit(vae.model, vae.guide, x, num_epochs=2, progress=False)
    assert all_moved(before, vae.prior)
    assert vae.sample(4).shape == (4, FEATURES)


# ------------------------------------------------------------------------------ what people do


def test_reconstruct_decodes_the_mean(x):
    vae = a_vae()
    q, p = vae.encode(x), vae.decode(vae.encode(x).mean)
    torch.testing.assert_close(vae.reconstruct(x), torch.sigmoid(p.base_dist.logits))
    assert q.mean.shape == (20, LATENTS)


def test_interpolation_ends_at_the_reconstructions(x):
    vae = a_vae()
    line = vae.interpolate(x[0], x[1], steps=5)
    assert line.shape == (5, FEATURES)
    torch.testing.assert_close(line[[0, -1]], vae.reconstruct(x[:2]))
    middle = vae.decode(vae.encode(x[:2]).mean.mean(0)).mean
    torch.testing.assert_close(line[2], middle)
    lines = vae.interpolate(x[:4], x[4:8], steps=5)
    assert lines.shape == (5, 4, FEATURES)
    torch.testing.assert_close(lines[:, 0], vae.interpolate(x[0], x[4], steps=5))


def test_samples_have_the_models_mean():
    vae = a_vae()
    with torch.no_grad():
        expected = vae.decode(torch.randn(20_000, LATENTS)).mean.mean(0)
    assert (vae.sample(20_000).mean(0) - expected).abs().max() < 5 * (0.5 / 20_000**0.5) * 2**0.5


def test_sampling_leaves_no_trace_in_an_outer_handler():
    vae = a_vae()
    with poutine.trace() as tracer:
        vae.sample(2)
    assert not list(tracer.trace.stochastic_nodes)


# ------------------------------------------------------------------------------ parts that are shared


def a_vamp_vae() -> pv.VAE:
    q = guides.Normal(to_z())
    return pv.VAE(pv.priors.VampPrior(q, torch.rand(3, FEATURES)), LIKELIHOODS["bernoulli"].make(), q)


def test_a_vamp_prior_shares_the_guide_and_a_step_moves_it_once(x):
    """Under SVI too, whose parameter store knows the guide's weights by two names."""
    vae = a_vamp_vae()
    assert vae.prior.guide is vae.guide.part
    twin = copy.deepcopy(vae)
    assert twin.prior.guide is twin.guide.part
    weight, same = (each.guide.part.net.layers[0].weight for each in (vae, twin))
    before = weight.detach().clone()

    svi = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-3}), loss=Trace_ELBO())
    pyro.set_rng_seed(1)
    svi.step(x)
    pyro.set_rng_seed(1)
    Trace_ELBO()(twin.model, twin.guide)(x).backward()
    torch.testing.assert_close(weight.detach(), before - 1e-3 * same.grad)


def test_a_vamp_prior_is_the_mixture_of_the_guide_at_its_inputs():
    vae, z = a_vamp_vae(), torch.randn(7, LATENTS)
    each = torch.stack([vae.encode(u[None]).log_prob(z) for u in vae.prior.pseudo_inputs])
    torch.testing.assert_close(vae.prior().log_prob(z), each.logsumexp(0) - math.log(3))
    with torch.no_grad():
        vae.guide.part.net.layers[-1].bias.add_(1.0)
    assert not torch.allclose(vae.prior().log_prob(z), each.logsumexp(0) - math.log(3))


def test_a_vamp_prior_of_full_rank_normals_has_the_density_and_gradients_of_torchs_mixture():
    q = guides.FullRankNormal(networks.MLP(5, 8 + 6), 4).double()
    prior = priors.VampPrior(q, torch.rand(4, 5, dtype=torch.float64))
    parameters = list(prior.parameters())
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=torch.zeros(4).double()), q(prior.pseudo_inputs)
    )
    z = torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)
    for value in (z, z[0], z[0, 0]):
        expected = theirs.log_prob(value)
        expected_gradients = torch.autograd.grad(expected.sum(), [*parameters, z], retain_graph=True)
        for expanded in (prior(), prior().expand([3]), prior().expand([1, 1]).expand([7, 3])):
            found = expanded.log_prob(value)
            assert found.shape == torch.broadcast_shapes(value.shape[:-1], expanded.batch_shape)
            torch.testing.assert_close(found, expected.expand(found.shape), rtol=1e-12, atol=0)
        gradients = torch.autograd.grad(prior().log_prob(value).sum(), [*parameters, z])
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12)


def test_a_vamp_prior_of_full_rank_normals_keeps_its_dtype_and_takes_no_draws():
    q = guides.FullRankNormal(nn.Identity(), 8)
    numbers = torch.randn(20, q.net_width(8))
    z = q(numbers).sample((50,))
    single, double = (priors.VampPrior(q, each)().log_prob(z) for each in (numbers, numbers.double()))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert priors.VampPrior(q, numbers)().log_prob(z[:0]).shape == (0, 20)


def test_a_vamp_prior_of_normals_of_another_kind_has_their_density():
    class Halving(dist.MultivariateNormal):
        def log_prob(self, value):
            return super().log_prob(value) / 2

    prior = priors.VampPrior(lambda u: Halving(u, torch.eye(3)), torch.randn(4, 3))
    z = torch.randn(5, 3)
    each = torch.stack(
        [dist.MultivariateNormal(u, torch.eye(3)).log_prob(z) / 2 for u in prior.pseudo_inputs]
    )
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


def test_a_vamp_vae_comes_back_from_disk_with_its_parts_shared(x, tmp_path):
    vae, other = a_vamp_vae(), a_vamp_vae()
    pv.save(vae, tmp_path)
    pv.load(tmp_path, other)
    assert other.prior.guide is other.guide.part
    found = []
    for each in (vae, other):
        pyro.set_rng_seed(0)
        found.append(pv.log_weights(each.model, each.guide, x))
    assert torch.equal(*found)


def test_a_guide_is_swapped_by_assignment(x):
    vae = a_vae()
    narrow = vae.encode(x).variance
    vae.guide = guides.Widened(vae.guide.part, 2.0)
    torch.testing.assert_close(vae.encode(x).variance, 4 * narrow)
    assert pv.log_weights(vae.model, vae.guide, x).isfinite().all()


def test_the_guide_program_stands_for_its_part(x):
    vae = a_vae()
    part = vae.guide.part
    for guide in (
        guides.Widened(vae.guide, 2.0),
        guides.Defensive(vae.guide, vae.prior),
        pv.VAE(vae.prior, vae.likelihood, vae.guide).guide.part,
        guides.Refined(vae.guide, vae.model, 1),
    ):
        assert getattr(guide, "guide", guide) is part
    assert pv.priors.VampPrior(vae.guide, x[:3]).guide is part
    bits = a_vae("bernoulli", "bernoulli", "bernoulli")
    assert guides.StraightThrough(bits.guide).guide is bits.guide.part


class OneBatchDim(nn.Module):
    """A network that counts dims from the left, as one with convolutions does."""

    def __init__(self, flatten: str) -> None:
        super().__init__()
        self.linear, self.conv, self.flatten = nn.Linear(LATENTS, FEATURES), nn.Conv1d(1, 1, 1), flatten

    def forward(self, z):
        if self.flatten == "by_rows":
            layers = nn.Sequential(self.linear, nn.Unflatten(1, (1, FEATURES)), self.conv, nn.Flatten())
            return pv.networks.by_rows(layers, z, FEATURES)
        rows = -1 if self.flatten == "all" else len(z)
        return self.conv(self.linear(z).view(rows, 1, FEATURES)).flatten(1)


@pytest.mark.parametrize("flatten", ["all", "len(z)"])
def test_networks_of_one_batch_dim_are_told_to_keep_the_others(x, flatten):
    vae = a_vae()
    vae.likelihood = pv.likelihoods.Bernoulli(OneBatchDim(flatten))
    pv.fit(vae.model, vae.guide, x, num_epochs=1, progress=False)
    for call in (
        lambda: pv.evaluate(vae.model, vae.guide, x, num_samples=9, progress=False),
        lambda: pv.objectives.IWAE(3).loss(vae.model, vae.guide, x),
    ):
        with pytest.raises(
            (ValueError, RuntimeError), match=r"likelihood.*keep its leading dims, as networks.by_rows"
        ):
            call()
    vae.likelihood = pv.likelihoods.Bernoulli(OneBatchDim("by_rows"))
    assert pv.log_weights(vae.model, vae.guide, x, num_samples=3).isfinite().all()


def test_a_bare_network_is_told_to_be_wrapped(x):
    vae = a_vae()
    vae.likelihood = nn.Linear(LATENTS, FEATURES)
    with pytest.raises(
        TypeError, match="a part returned a Tensor, expected a Distribution: wrap a bare network"
    ):
        pv.log_weights(vae.model, vae.guide, x)
