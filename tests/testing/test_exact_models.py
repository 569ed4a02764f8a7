"""Exact models have the stated log p(x), and check_density integrates over any support."""

from __future__ import annotations

import math
import re

import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.models.distributions import PowerSpherical, UniformSphere
from pyrovae.testing import LinearGaussian, Quadrature
from pyrovae.testing.densities import check_density
from pyrovae.testing.integrals import ALARM, slack


@pytest.fixture
def oracle():
    torch.manual_seed(0)
    weight = torch.randn(2, 1, dtype=torch.float64)
    return LinearGaussian(weight, mean=torch.tensor([0.3, -0.1]).double(), noise=torch.tensor([0.2, 0.5]))


def test_evidence_integrates_to_one(oracle):
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    density = oracle.log_evidence(torch.cartesian_prod(axis, axis)).exp()
    assert (density.sum() * (24 / 600) ** 2).item() == pytest.approx(1, abs=1e-10)


def test_bayes_rule_holds_at_any_z(oracle):
    x, z = oracle.sample(5), torch.randn(5, 1, dtype=torch.float64)
    normal = torch.distributions.Normal
    joint = normal(0.0, 1.0).log_prob(z).sum(-1) + normal(
        z @ oracle.weight.T + oracle.mean, oracle.noise.sqrt()
    ).log_prob(x).sum(-1)
    torch.testing.assert_close(joint - oracle.posterior(x).log_prob(z), oracle.log_evidence(x))


def test_gap_is_the_divergence_of_two_normals(oracle):
    assert oracle.gap(oracle.sample(3)).abs().max() < 1e-12
    moved = LinearGaussian(oracle.weight, noise=0.5, shift=0.3, widen=2.0)
    s = moved.posterior_covariance[0, 0].item()
    expected = 0.5 * (4 - 1 + 0.3**2 / s) - math.log(2)
    assert moved.gap(moved.sample(1)).item() == pytest.approx(expected)


def test_draws_have_the_evidence_as_their_density(oracle):
    """-2 (log p(x) - log p(mu)) is chi-squared with as many degrees as features."""
    x = oracle.sample(20_000, seed=3)
    distance = -2 * (oracle.log_evidence(x) - oracle.log_evidence(oracle.mean[None]))
    assert abs(distance.mean() - 2) < 4 * 2 / math.sqrt(20_000)
    assert abs(distance.var() - 4) < 4 * 20 / math.sqrt(20_000)


@pytest.mark.parametrize("latents", [1, 2])
def test_quadrature_of_a_linear_gaussian_is_its_closed_form(latents):
    weight = torch.randn(3, latents, dtype=torch.float64)
    exact = LinearGaussian(weight, noise=0.3)
    likelihood = lambda z: torch.distributions.Independent(  # noqa: E731
        torch.distributions.Normal(z @ weight.T, exact.noise.sqrt()), 1
    )
    x = exact.sample(6)
    found = Quadrature(likelihood, latents=latents).log_evidence(x)
    torch.testing.assert_close(found, exact.log_evidence(x), rtol=0, atol=1e-10)


def test_quadrature_sums_to_one_over_all_binary_data():
    net = pv.networks.MLP(2, 5, hidden=[8], activation=torch.nn.Tanh)
    oracle = Quadrature(pv.likelihoods.Bernoulli(net))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    assert oracle.log_evidence(every).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_quadrature_of_three_latents_is_refused():
    with pytest.raises(ValueError, match="latents must be 1 or 2, got 3"):
        Quadrature(torch.nn.Identity(), latents=3)


def test_models_generate(oracle):
    assert oracle.model(size=4).shape == (4, 2)
    quadrature = Quadrature(pv.likelihoods.Bernoulli(pv.networks.MLP(2, 5)))
    assert quadrature.model(size=4).shape == (4, 5)


@pytest.mark.parametrize(
    ("noise", "shift", "message"),
    [(1e-4, 0.0, "half the points change it by .*: ask for more points"), (1.0, 16.0, "a larger limit")],
)
def test_quadrature_refuses_what_its_grid_does_not_hold(noise, shift, message):
    likelihood = lambda z: torch.distributions.Independent(  # noqa: E731
        torch.distributions.Normal(z, noise**0.5), 1
    )
    oracle = Quadrature(likelihood, latents=1, points=201)
    with pytest.raises(ValueError, match=message):
        oracle.log_evidence(torch.tensor([[0.013 + shift]], dtype=torch.float64))


def test_draws_of_another_seed_are_others(oracle):
    assert not torch.equal(oracle.sample(5, seed=0), oracle.sample(5, seed=1))


class Moved(dist.TorchDistribution):
    """A distribution with its log_prob moved by a constant."""

    arg_constraints = {}  # noqa: RUF012 (the tables are torch's)

    def __init__(self, base, by):
        self.base, self.by = base, by
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self):
        return self.base.support

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value) + self.by


SUPPORTS = {
    "real": lambda: dist.Cauchy(torch.zeros(2), torch.tensor([1.0, 100.0])),
    "peaks on a plain": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.5, 0.5])), dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.1]))
    ),
    "positive": lambda: dist.Gamma(torch.tensor([0.5, 3.0]), 1.0),
    "unit interval": lambda: dist.Beta(torch.tensor([0.7, 3.0]), torch.tensor([2.0, 0.8])),
    "an interval": lambda: dist.Uniform(torch.tensor([-1.0, 2.0]), torch.tensor([0.0, 5.0])),
    "an angle": lambda: dist.VonMises(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 5.0])),
    "correlated": lambda: dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.99], [0.99, 1.0]])),
    "heavy tails": lambda: dist.MultivariateStudentT(3.0, torch.zeros(3), torch.eye(3)),
    "proportions": lambda: dist.Dirichlet(torch.tensor([0.1, 0.5, 2.0])),
    "a sphere": lambda: UniformSphere(torch.zeros(4)),
    "a bump on it": lambda: PowerSpherical(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor(20.0)),
    "counts": lambda: dist.Poisson(torch.tensor([0.5, 300.0])),
    "few values": lambda: dist.OneHotCategorical(torch.tensor([0.2, 0.8])),
    "vectors of counts": lambda: dist.Multinomial(3, torch.tensor([0.2, 0.3, 0.5])),
}


@pytest.mark.parametrize("make", SUPPORTS.values(), ids=SUPPORTS)
@pytest.mark.parametrize("by", [0.0, 0.3, -0.3])
def test_an_integral_is_found_whatever_the_support(make, by):
    distribution = make()
    if not by:
        assert check_density("it", distribution, 2000).verified
        return
    # e ** 0.3 = 1.35 and e ** -0.3 = 0.74; the largest standard error is 0.02.
    found = r"integrates to 1\.[34]\d* " if by > 0 else r"integrates to 0\.7\d* "
    with pytest.raises(ValueError, match=rf"^it \(Moved\): its density {found}.*, not to 1"):
        check_density("it", Moved(distribution, by), 2000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dist.Gamma(torch.tensor(0.01, dtype=torch.float32), 1.0), "draws repeat, by rounding"),
        (lambda: dist.Delta(torch.zeros(2)).to_event(1), "a point has no density"),
        (lambda: dist.MultivariateNormal(torch.zeros(60), torch.eye(60)), "60 numbers need num_samples=600"),
        (
            lambda: dist.Multinomial(50, torch.ones(20)),
            r"known to \+-.* only, over the values drawn: ask for",
        ),
        (
            lambda: dist.MixtureSameFamily(
                dist.Categorical(torch.ones(2)),
                dist.Normal(torch.tensor([0.0, 100.0]), torch.tensor([1.0, 1.0])),
            ),
            "only, by bridge sampling",
        ),
    ],
)
def test_what_cannot_be_verified_is_no_error_and_says_why(make, reason):
    finding = check_density("it", make(), 500)
    assert not finding.verified
    assert re.search(reason, finding.text)


def test_draws_of_one_element_among_many_are_held_against_its_density():
    scale = torch.ones(50)
    scale[37] = 1.5

    class Elements(dist.Normal):
        def expand(self, batch_shape, _instance=None):
            return Elements(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

        def rsample(self, sample_shape=()):
            return super().rsample(sample_shape) * scale

    q = Elements(torch.zeros(2, 50), torch.ones(2, 50)).to_event(1)
    with pytest.raises(ValueError, match=r"in row \d, element 37: the spread is .* among draws"):
        check_density("it", q, 2000)


def test_slack_is_bernsteins_bound():
    variance, spread, count, tests = 0.4, 3.0, 700, 12
    t = slack(torch.tensor(variance).double(), spread, count, tests).item()
    bound = 2 * math.exp(-count * t**2 / 2 / (variance + spread * t / 3))
    assert bound <= ALARM / tests
    assert bound >= (ALARM / tests) ** 2  # and not far below
