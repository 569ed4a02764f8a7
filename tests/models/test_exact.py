"""log p(x) of models that are integrated by hand: conjugate pairs, sphere, and any prior on a plane.

An estimate is off by less than 4.5 of its standard errors: false alarms 7 in a million a datum. Where
the guide is the posterior every single weight is p(x).
"""

from __future__ import annotations

import math

import components
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LIKELIHOODS, PRIORS
from densities import SURE, shaken
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.models.distributions import as_pyro
from pyrovae.testing import LinearGaussian


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, value):
        return self.function(value)


@torch.no_grad()
def check_estimate(vae, x, exact, *, num_samples=2000, precision=0.15):
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=num_samples)
    error = pv.standard_error(weights)
    assert error.max() < precision  # else the comparison would say nothing
    assert ((pv.log_evidence(weights) - exact).abs() < SURE * error + 1e-4).all()


@torch.no_grad()
def check_every_weight(vae, x, exact, tolerance=1e-9):
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=50)
    torch.testing.assert_close(weights, exact.double().expand(50, -1), rtol=0, atol=tolerance)


class TestNormalNormal:
    """The posterior's loc is linear in x, its covariance the same for all: a linear net gives both."""

    @pytest.fixture
    def oracle(self):
        weight = torch.randn(5, 3, dtype=torch.float64)
        return LinearGaussian(weight, mean=torch.randn(5).double(), noise=0.2 + torch.rand(5).double())

    def vae(self, oracle, *, widen=1.0):
        decoder, encoder = nn.Linear(3, 5).double(), nn.Linear(5, 3 + 3 + 3).double()
        decoder.weight.data, decoder.bias.data = oracle.weight, oracle.mean
        gain = oracle.posterior_covariance @ (oracle.weight.T / oracle.noise)
        root = widen * torch.linalg.cholesky(oracle.posterior_covariance)
        unit = root / root.diagonal()[:, None]  # each row of the factor has its scale
        below = torch.stack([unit[1, 0], unit[2, 0], unit[2, 1]])
        encoder.weight.data = torch.cat([gain, torch.zeros(6, 5).double()])
        encoder.bias.data = torch.cat([-gain @ oracle.mean, 2 * root.diagonal().log(), below])
        likelihood = likelihoods.Normal(decoder, scale=oracle.noise.sqrt())
        return pv.VAE(priors.StandardNormal(3), likelihood, guides.FullRankNormal(encoder, 3)).double()

    def test_every_weight_is_the_evidence(self, oracle):
        """To the 1e-7 of a scale that is held in float32."""
        x = oracle.sample(6)
        check_every_weight(self.vae(oracle), x, oracle.log_evidence(x), 1e-5)

    def test_estimate_of_a_wider_guide_agrees_and_its_elbo_falls_short_by_the_divergence(self, oracle):
        x, vae = oracle.sample(6), self.vae(oracle, widen=1.3)
        check_estimate(vae, x, oracle.log_evidence(x))
        with torch.no_grad():
            weights = pv.log_weights(vae.model, vae.guide, x, num_samples=4000)
        wider = LinearGaussian(oracle.weight, mean=oracle.mean, noise=oracle.noise, widen=1.3)
        shortfall = oracle.log_evidence(x) - pv.elbo(weights)
        assert ((shortfall - wider.gap(x)).abs() < SURE * weights.std(0) / 4000**0.5).all()


class TestBetaBernoulli:
    a, b = torch.tensor([1.5]).double(), torch.tensor([0.7]).double()

    def vae(self, extra):
        ones = lambda x: x.sum(-1, keepdim=True)  # noqa: E731
        guide = lambda x: dist.Beta(self.a + ones(x) + extra, self.b + 6 - ones(x) + extra).to_event(1)  # noqa: E731
        net = Apply(lambda z: z.logit().expand(*z.shape[:-1], 6))
        return pv.VAE(dist.Beta(self.a, self.b).to_event(1), likelihoods.Bernoulli(net), guide)

    def exact(self, x):
        log_beta = lambda a, b: a.lgamma() + b.lgamma() - (a + b).lgamma()  # noqa: E731
        ones = x.sum(-1)
        return log_beta(self.a + ones, self.b + 6 - ones) - log_beta(self.a, self.b)

    def test_every_weight_of_the_posterior_is_the_evidence(self):
        """Also of rows that are all zero or all one, and over all rows they sum to 1."""
        x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6)
        assert self.exact(x).exp().sum().item() == pytest.approx(1)
        check_every_weight(self.vae(0.0), x, self.exact(x))

    def test_estimate_of_another_beta_agrees(self):
        x = torch.tensor([[0.0] * 6, [1.0] * 6, [1.0, 0, 0, 1, 0, 0]]).double()
        check_estimate(self.vae(0.4), x, self.exact(x), num_samples=8000)


class TestGammaPoisson:
    shape, rate = torch.tensor([2.0, 0.8, 5.0]).double(), torch.tensor([1.0, 0.5, 2.0]).double()

    def vae(self, guide):
        prior = dist.Gamma(self.shape, self.rate).to_event(1)
        return pv.VAE(prior, likelihoods.Poisson(Apply(torch.log)), guide)

    def exact(self, x):
        """Negative binomials."""
        return dist.NegativeBinomial(self.shape, logits=-self.rate.log()).log_prob(x).sum(-1)

    x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0], [12.0, 0.0, 4.0]]).double()

    def test_every_weight_of_the_posterior_is_the_evidence(self):
        vae = self.vae(lambda x: dist.Gamma(self.shape + x, self.rate + 1).to_event(1))
        check_every_weight(vae, self.x, self.exact(self.x))

    def test_estimate_of_a_log_normal_agrees(self):
        """Its log has the posterior's mean and variance, widened: a Gamma's left tail is the heavier."""

        def net(x):
            shape = self.shape + x
            return torch.cat([shape.digamma() - (self.rate + 1).log(), 1.5 * shape.polygamma(1)], -1)

        def polynomial(x):
            loc, variance = net(x).chunk(2, -1)
            return torch.cat([loc, variance.log()], -1)

        check_estimate(self.vae(guides.LogNormal(Apply(polynomial))), self.x, self.exact(self.x))


class TestDirichletMultinomial:
    x = torch.tensor([[0.0, 0, 0, 0], [3, 0, 1, 2], [0, 40, 1, 0]]).double()

    def vae(self, guide):
        prior = priors.Dirichlet(4, concentration=0.7).double()
        return pv.VAE(prior, likelihoods.Multinomial(Apply(torch.log)), guide)

    def exact(self, x):
        """The Polya distribution of each row's total."""
        total, alpha = x.sum(-1), torch.tensor(0.7).float().double()
        orders = (total + 1).lgamma() - (x + 1).lgamma().sum(-1)
        rising = (alpha + x).lgamma().sum(-1) - 4 * alpha.lgamma()
        return orders + (4 * alpha).lgamma() - (4 * alpha + total).lgamma() + rising

    def test_every_weight_of_the_posterior_is_the_evidence(self):
        """To the 1e-8 of a concentration that is held in float32 at first."""
        guide = guides.Dirichlet(Apply(lambda x: (0.7 + x).log()))
        check_every_weight(self.vae(guide), self.x, self.exact(self.x), 1e-5)

    def test_estimate_of_a_logistic_normal_agrees(self):
        """Breaks of a Dirichlet's stick are Beta; the normals have their log odds' means and variances."""

        def net(x):
            first = 0.7 + x
            rest = first.flip(-1).cumsum(-1).flip(-1)[:, 1:]
            first = first[:, :-1]
            loc = first.digamma() - rest.digamma() + torch.arange(3, 0, -1).double().log()
            return torch.cat([loc, (1.5 * (first.polygamma(1) + rest.polygamma(1))).log()], -1)

        check_estimate(self.vae(guides.LogisticNormal(Apply(net))), self.x, self.exact(self.x))


@pytest.mark.parametrize("width", [2, 3])
def test_sphere_agrees_with_the_integral_over_angles(width):
    """Around the circle the trapezoid rule, on the sphere equal steps of height and angle.

    The guide gives next to nothing opposite its direction: some of its draws are the prior's.
    """
    likelihood = shaken(
        likelihoods.Normal(networks.MLP(width, 2 * 3, hidden=[5], activation=nn.Tanh))
    ).double()
    guide = guides.PowerSpherical(shaken(networks.MLP(3, width + 1)), width).double()
    prior = priors.UniformSphere(width).double()
    vae = pv.VAE(prior, likelihood, guides.Defensive(guide, prior, 0.3))
    x = torch.randn(4, 3, dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1]
    if width == 2:
        z = torch.stack([angle.cos(), angle.sin()], -1)
    else:
        height = (torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1
        height, angle = torch.cartesian_prod(height, angle).unbind(-1)
        across = (1 - height**2).sqrt()
        z = torch.stack([across * angle.cos(), across * angle.sin(), height], -1)
    with torch.no_grad():
        exact = torch.stack([likelihood(z).log_prob(each).logsumexp(0) for each in x]) - math.log(len(z))
    check_estimate(vae, x, exact, num_samples=4000)


REAL = [name for name in PRIORS if PRIORS[name].values == "real"]


@pytest.mark.parametrize("name", REAL)
@torch.no_grad()
def test_any_prior_on_a_plane_agrees_with_the_integral(name, monkeypatch):
    """On a grid that steps wider the further out it goes, so that heavy tails end within it.

    The guide is untrained and half of its draws are the prior's, which reach wherever the prior does.
    """
    monkeypatch.setattr(components, "LATENTS", 2)
    monkeypatch.setattr(components, "to_z", lambda width=4: components.net(FEATURES, width))
    prior, likelihood = shaken(PRIORS[name].make()).double(), shaken(LIKELIHOODS["normal"].make()).double()
    guide = guides.Defensive(shaken(guides.Normal(networks.MLP(FEATURES, 4))).double(), prior, 0.5)
    t = torch.linspace(-5.5, 5.5, 401, dtype=torch.float64)
    axis, step = t.sinh(), t.cosh() * (t[1] - t[0])
    z = torch.cartesian_prod(axis, axis)
    log_prior = as_pyro(prior()).log_prob(z) + torch.cartesian_prod(step, step).log().sum(-1)
    assert log_prior.logsumexp(0).item() == pytest.approx(0, abs=2e-3)  # flows and Laplace have kinks
    x = LIKELIHOODS["normal"].data(3).double()
    exact = torch.stack([(log_prior + likelihood(z).log_prob(each)).logsumexp(0) for each in x])
    vae = pv.VAE(prior, likelihood, guide)
    check_estimate(vae, x, exact, num_samples=10_000)
