"""Codes of data, against a model whose posterior and aggregate posterior are known."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import ks_2samp

from pyrovae import diagnostics
from pyrovae.evaluation.diagnostics import Codes
from pyrovae.evaluation.diagnostics.codes import principal_axes
from pyrovae.models.vae import Guide, Model
from pyrovae.testing import LinearGaussian


def test_means_are_the_posterior_s_and_draws_lie_about_them():
    oracle = LinearGaussian(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), noise=0.5)
    x = oracle.sample(600, seed=1)  # of two batches
    found = diagnostics.codes(oracle.model, oracle.guide, x)
    q = oracle.posterior(x)
    torch.testing.assert_close(found.means, q.mean.double(), rtol=0, atol=1e-5)
    white = torch.linalg.solve_triangular(
        q.scale_tril.double(), (found.draws - found.means)[..., None], upper=False
    )[..., 0]
    # 600 standard normal draws of each dim: three standard errors of a variance are 0.17, of a mean 0.12
    assert (white.var(0) - 1).abs().max() < 0.17
    assert white.mean(0).abs().max() < 0.12


def test_the_aggregate_posterior_of_the_model_s_own_data_is_the_prior():
    oracle = LinearGaussian(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), noise=0.5)
    near = diagnostics.codes(oracle.model, oracle.guide, oracle.sample(600, seed=1)).apart
    far = diagnostics.codes(oracle.model, oracle.guide, oracle.sample(600, seed=1) + 4).apart
    assert near.max() < 1.63 * (2 / 600) ** 0.5  # Kolmogorov and Smirnov's bound at 1%
    assert far.min() > 0.5


def test_distance_is_scipy_s():
    draws, prior = torch.randn(40, 3).round(decimals=1), 1.5 * torch.randn(40, 3).round(decimals=1)
    found = Codes(draws, draws, prior, ("a", "b", "c")).apart
    expected = [ks_2samp(a, b).statistic for a, b in zip(draws.T, prior.T, strict=True)]
    torch.testing.assert_close(found.tolist(), expected)


def test_a_guide_without_a_mean_has_one_of_draws():
    """exp(N(x, 1)), whose mean this distribution does not tell."""

    class Unsaid(dist.TransformedDistribution):
        @property
        def mean(self):
            raise NotImplementedError

    exp = dist.transforms.ExpTransform()
    guide = Guide(lambda x: Unsaid(dist.Normal(x, 0.1), [exp]).to_event(1))
    model = Model(dist.LogNormal(torch.zeros(2), 1.0).to_event(1), lambda z: dist.Normal(z, 1.0).to_event(1))
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    found = diagnostics.codes(model, guide, x, num_samples=10_000)
    expected = (x + 0.005).exp().double()
    # the spread of exp(N(x, 0.1)) is a tenth of its mean: four errors of 10,000 draws
    torch.testing.assert_close(found.means, expected, rtol=0.004, atol=0)


def test_codes_of_a_seed_are_the_same_and_of_another_are_others():
    oracle = LinearGaussian(torch.ones(3, 1))
    x = oracle.sample(5)
    one, same, other = (diagnostics.codes(oracle.model, oracle.guide, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.draws, same.draws)
    assert torch.equal(one.prior, same.prior)
    assert not torch.equal(one.draws, other.draws)
    with pytest.raises(ValueError, match="the guide has no site 'w'"):
        diagnostics.codes(oracle.model, oracle.guide, x, site="w")


def test_the_furthest_dimension_of_draws_that_do_not_differ_is_as_far_as_chance_has_it():
    """Over seeds the median of 100 such distances is 0.89 to 1.03 of what it is said to be."""
    torch.manual_seed(0)
    for dims in (1, 40):
        n = 200
        found = [
            Codes(torch.zeros(n, dims), torch.randn(n, dims), torch.randn(n, dims), ("z",) * dims)
            for _ in range(100)
        ]
        furthest = torch.stack([each.apart.max() for each in found]).median().item()
        assert furthest == pytest.approx(found[0].chance, rel=0.15)


def test_principal_axes_do_not_depend_on_a_sign():
    torch.manual_seed(0)
    points = torch.randn(60, 4, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5])
    axes, shares = principal_axes(points)
    for other in (points.flip(0), -points):
        for again, before in zip(principal_axes(other), (axes, shares), strict=True):
            torch.testing.assert_close(again, before)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 3)])
def test_few_points_have_two_axes_all_the_same(shape):
    torch.manual_seed(0)
    axes, shares = principal_axes(torch.randn(shape))
    assert (axes.shape, shares.shape) == ((2, shape[1]), (2,))
    torch.testing.assert_close(shares.sum(), torch.tensor(float(shape[0] > 1)))
