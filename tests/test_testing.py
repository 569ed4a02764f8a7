"""The oracles are right: densities integrate to 1, two closed forms agree, and draws fit them."""

from __future__ import annotations

import math

import pytest
import torch

import pyrovae as pv
from pyrovae.testing import LinearGaussian, Quadrature


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
