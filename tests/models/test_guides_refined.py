"""Refined: each datum's own steps raise its bound, and touch nothing else."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from densities import SURE
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.testing import LinearGaussian

ROWS = 6
FAMILIES = {
    "normal": lambda: guides.Normal(networks.MLP(8, 4)),
    "full_rank": lambda: guides.FullRankNormal(networks.MLP(8, 5), 2),
    "mixture": lambda: guides.GaussianMixture(networks.MLP(8, 15), 2, components=3),
}


def a_vae(family="normal"):
    """Of a decoder that says much about z, and an untrained net."""
    decoder = nn.Linear(2, 8)
    decoder.weight.data = 2 * torch.randn(8, 2)
    return pv.VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decoder), FAMILIES[family]())


def refined(vae, **keywords):
    return guides.Refined(vae.guide.part, vae.model, **keywords)


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((ROWS, 8), 0.5))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_steps_raise_the_elbo_of_every_datum(family, x):
    """By more than the noise, and never above log p(x): 4.5 standard errors of 500 draws."""
    vae = a_vae(family)
    before = pv.log_weights(vae.model, vae.guide, x, num_samples=500)
    vae.guide = refined(vae, steps=40)
    after = pv.log_weights(vae.model, vae.guide, x, num_samples=500)
    error = (before.var(0) + after.var(0)).div(500).sqrt()
    assert (after.mean(0) - before.mean(0) > 0.5 * SURE * error).all()
    assert (after - before).mean() > 0.5
    axis = torch.linspace(-7, 7, 301)
    z = torch.cartesian_prod(axis, axis)[:, None]
    exact = (vae.prior().log_prob(z) + vae.decode(z).log_prob(x)).logsumexp(0) + 2 * torch.tensor(
        14 / 300
    ).log()
    assert (after.mean(0) < exact + SURE * after.std(0) / 500**0.5).all()


def test_it_is_a_function_of_x_and_leaves_the_callers_noise_alone(x):
    q = refined(a_vae())
    pyro.set_rng_seed(1)
    first = q(x)
    drawn = torch.rand(3)
    pyro.set_rng_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    torch.rand(7)
    second = q(x)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.stddev, second.stddev)
    assert not torch.equal(refined(a_vae(), seed=1)(x).mean, first.mean)


def test_it_touches_no_gradient_and_owns_no_parameter_of_the_model(x):
    vae = a_vae()
    for parameter in vae.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    q = refined(vae)
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    q(x)
    assert all((parameter.grad == 7).all() for parameter in vae.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))
    assert {id(each) for each in q.parameters()} == {id(each) for each in vae.guide.parameters()}
    assert not {id(each) for each in q.parameters()} & {id(each) for each in vae.model.parameters()}


def test_the_net_gets_the_gradient_at_the_refined_parameters(x):
    """As if the steps had moved its output by a constant."""
    vae = a_vae()
    q = refined(vae)
    (mean, variance), net = (q(x).mean, q(x).variance), vae.guide.part.net
    found = torch.autograd.grad((mean.square() + variance).sum(), list(net.parameters()))
    start = net(x)
    at_start = torch.cat([2 * mean, variance], -1).detach()  # of loc, and of log variance
    expected = torch.autograd.grad(start, list(net.parameters()), at_start)
    for each, value in zip(found, expected, strict=True):
        torch.testing.assert_close(each, value)


def test_training_moves_model_and_net(x):
    vae = a_vae()
    vae.guide = refined(vae, steps=3)
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    losses = pv.fit(vae.model, vae.guide, x, num_epochs=2, progress=False)
    assert losses is not None
    assert all(not torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))


class TestWithAHandWrittenModel:
    @pytest.fixture
    def oracle(self):
        return LinearGaussian(0.7 * torch.randn(8, 2), noise=1.0)

    def test_many_steps_find_the_posterior_from_a_bad_start(self, oracle):
        """A net that says N(0, I) of every datum loses nats; after the steps every weight is log p(x)."""
        x = oracle.sample(ROWS)
        net = nn.Linear(8, 5)
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        q = guides.Refined(guides.FullRankNormal(net, 2), oracle.model, 200, learning_rate=0.1)

        def guide(x):
            posterior = q(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", posterior)

        result = pv.evaluate(oracle.model, guide, x, num_samples=100, progress=False)
        assert (oracle.log_evidence(x) - result.elbo).abs().max() < 0.02
        difference = result.log_evidence - oracle.log_evidence(x)
        assert (difference.abs() < SURE * result.standard_error + 1e-3).all()
        found, exact = q(x), oracle.posterior(x)
        torch.testing.assert_close(found.mean.detach(), exact.mean, rtol=0, atol=0.05)

    @pytest.mark.parametrize("particles", [3, 8])
    def test_a_plate_within_the_data_is_left_room_for(self, oracle, particles):
        """Features in a plate of their own: as many draws as features must not be taken for them."""

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                with pyro.plate("features", 8, dim=-2):
                    loc = (z * oracle.weight[:, None]).sum(-1)
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x.T)

        x, q = oracle.sample(ROWS), guides.Normal(networks.MLP(8, 4))
        in_plate = guides.Refined(q, model, num_particles=particles)(x)
        in_event = guides.Refined(q, oracle.model, num_particles=particles)(x)
        torch.testing.assert_close(in_plate.mean, in_event.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(in_plate.stddev, in_event.stddev, rtol=1e-4, atol=1e-5)


def test_particles_and_draws_in_dims_of_their_own_agree(x):
    """Looped and vectorised ELBOs by 4.5 standard errors; weights whatever is scored at once."""
    vae = a_vae()
    vae.guide = refined(vae, steps=5)
    looped = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(20)])
    together = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    vectorised = torch.tensor([together.loss(vae.model, vae.guide, x) for _ in range(20)])
    error = ((looped.var() + vectorised.var()) / 20).sqrt()
    assert abs(looped.mean() - vectorised.mean()) < SURE * error
    found = []
    for chunk_size in (None, 1):
        pyro.set_rng_seed(3)
        with torch.no_grad():
            found.append(pv.log_weights(vae.model, vae.guide, x, num_samples=5, chunk_size=chunk_size))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-5)


def test_evaluation_reports_the_refined_bound(x):
    vae = a_vae()
    plain = pv.evaluate(vae.model, vae.guide, x, num_samples=500, progress=False)
    vae.guide = refined(vae, steps=40)
    better = pv.evaluate(vae.model, vae.guide, x, num_samples=500, progress=False)
    assert better.elbo.mean() > plain.elbo.mean() + 0.5
    assert better.standard_error.mean() < plain.standard_error.mean()


def test_a_model_without_the_site_is_refused(x):
    with pytest.raises(ValueError, match="Refined: the model has no site 'code': name its latent with site="):
        refined(a_vae(), site="code")(x)
