"""VAE: one contract over every combination of parts, parts of other kinds, what people do with it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, GUIDES, LATENTS, LIKELIHOODS, PRIORS, a_vae
from helpers import all_moved, snapshot
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pyrovae as pv

EVERY_COMBINATION = [(p, x, q) for p in PRIORS for x in LIKELIHOODS for q in GUIDES]


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((20, FEATURES), 0.4))


# ---------------------------------------------------------------- a contract over all combinations


@pytest.mark.parametrize("parts", EVERY_COMBINATION)
class TestEveryCombination:
    def test_shapes(self, parts, x, device):
        vae, x = a_vae(*parts).to(device), x.to(device)
        trace = poutine.trace(vae.model).get_trace(x)
        assert trace.nodes["z"]["fn"].batch_shape == (20,)
        assert trace.nodes["z"]["fn"].event_shape == (LATENTS,)
        assert trace.nodes["x"]["fn"].batch_shape == (20,)
        assert trace.nodes["x"]["fn"].event_shape == (FEATURES,)
        (frame,) = trace.nodes["z"]["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, 20)
        assert vae.sample(7).shape == (7, FEATURES)
        assert vae.encode(x).rsample().shape == (20, LATENTS)
        assert vae.decode(torch.randn(5, 4, LATENTS, device=device)).batch_shape == (5, 4)

    def test_every_parameter_gets_a_gradient(self, parts, x, device):
        vae, x = a_vae(*parts).to(device), x.to(device)
        Trace_ELBO()(vae.model, vae.guide)(x).backward()
        for name, parameter in vae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_vectorised_particles_agree_with_looped_ones(self, parts, x):
        vae = a_vae(*parts)
        losses = {}
        for vectorised in (False, True):
            elbo = Trace_ELBO(num_particles=5, vectorize_particles=vectorised)
            losses[vectorised] = torch.tensor([elbo.loss(vae.model, vae.guide, x) for _ in range(30)])
        error = (losses[False].var() / 30 + losses[True].var() / 30).sqrt()
        assert abs(losses[False].mean() - losses[True].mean()) < 4 * error

    def test_mean_field_elbo_agrees_with_the_sampled_one(self, parts, x):
        vae = a_vae(*parts)
        keywords = {"num_particles": 2000, "vectorize_particles": True}
        analytic = TraceMeanField_ELBO(**keywords).loss(vae.model, vae.guide, x)
        weights = pv.log_weights(vae.model, vae.guide, x, num_samples=4000).sum(1)
        assert abs(-analytic - weights.mean()) < 6 * weights.std() / 2000**0.5

    def test_state_dict_round_trip_gives_the_same_log_weights(self, parts, x):
        first, second = a_vae(*parts), a_vae(*parts)
        second.load_state_dict(first.state_dict())
        found = []
        for vae in (first, second):
            pyro.set_rng_seed(1)
            found.append(pv.log_weights(vae.model, vae.guide, x, num_samples=3))
        assert torch.equal(*found)

    def test_generated_data_are_in_the_support(self, parts):
        vae = a_vae(*parts)
        draws = vae.sample(50)
        with torch.no_grad():
            assert vae.decode(torch.zeros(LATENTS)).support.check(draws).all()


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
        GUIDES["normal"](),
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

    vae = pv.VAE(PRIORS["standard_normal"](), Likelihood(), GUIDES["normal"]())
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
        zuko.flows.MAF(LATENTS, hidden_features=(8,)), LIKELIHOODS["bernoulli"](), GUIDES["normal"]()
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
