"""psis: ArviZ's weights, raw ones where ArviZ stumbles. expectation: exact answers within stated errors."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import psislw_of_arviz
from pyro import poutine

import pyrovae as pv
from pyrovae.core.programs import inspect
from pyrovae.core.random import stream
from pyrovae.evaluation.importance import pass_size
from pyrovae.testing import LinearGaussian


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("num_samples", [30, 100, 900, 2500])  # tails of whole length: 1.x rounds it down
def test_agrees_with_arviz(scale, num_samples):
    weights = scale * torch.randn(num_samples, 4, dtype=torch.float64) - 90
    ours = pv.psis(weights)
    for datum in range(4):
        theirs, _ = psislw_of_arviz(weights[:, datum])
        torch.testing.assert_close(ours[:, datum], theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("k", [-0.4, 0.3, 0.9, 1.5])
def test_only_the_tail_changes_and_stays_below_the_largest_weight(k):
    u = torch.rand(1000, 5, dtype=torch.float64)
    weights = torch.log1p(torch.expm1(-k * u.log()) / k)
    # The normalisation is one shift per datum, which the body shows.
    smoothed, order = pv.psis(weights), weights.argsort(0, descending=True)
    difference = (smoothed - weights).gather(0, order)
    shift = difference[-1]
    torch.testing.assert_close(difference[95:], shift.expand(905, 5), rtol=0, atol=1e-12)
    assert (difference[:95] - shift).abs().max() > 0.01  # of 1,000 draws 95 are the tail
    assert (smoothed - shift).max() <= weights.max() + 1e-12
    ranked = smoothed.gather(0, order)
    assert (ranked[:-1] >= ranked[1:]).all()  # the order of the draws is kept


def test_shifted_weights_are_smoothed_alike():
    weights = 2 * torch.randn(400, 3, dtype=torch.float64)
    torch.testing.assert_close(pv.psis(weights - 1e4), pv.psis(weights), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "log_weights",
    [
        torch.zeros(100),  # a perfect guide
        torch.full((100,), -1e5),
        1e-14 * torch.randn(100, dtype=torch.float64) - 3,
        torch.randn(24),  # too few draws
        torch.randn(1),
        torch.cat([torch.full((97,), -math.inf), torch.randn(3)]),
        torch.cat([torch.zeros(1), torch.full((99,), -2000.0)]),  # one draw has it all
        torch.cat([torch.full((4,), math.log(2)), torch.zeros(996)]),  # a discrete latent
    ],
)
def test_raw_weights_where_no_tail_can_be_fitted(log_weights):
    raw = log_weights.double().log_softmax(0)
    torch.testing.assert_close(pv.psis(log_weights[:, None])[:, 0], raw)


@pytest.mark.parametrize(
    "log_weights",
    [
        torch.full((100,), -math.inf),
        torch.randn(100).index_fill(0, torch.tensor([5]), math.nan),
        torch.randn(100).index_fill(0, torch.tensor([5]), math.inf),
        torch.full((3,), math.nan),
    ],
)
def test_unknown_is_nan_and_does_not_spread(log_weights):
    good = torch.randn(len(log_weights), 1, dtype=torch.float64)
    smoothed = pv.psis(torch.cat([log_weights[:, None].double(), good], 1))
    assert smoothed[:, 0].isnan().any()
    torch.testing.assert_close(smoothed[:, 1:], pv.psis(good))


@pytest.mark.parametrize("num_samples", [25, 100, 1000])
def test_huge_ranges_and_lost_draws_still_add_up_to_one(num_samples):
    wide = torch.linspace(-1e5, 0, num_samples, dtype=torch.float64)
    holes = torch.randn(num_samples, dtype=torch.float64)
    holes[: num_samples // 3] = -math.inf
    ties = torch.randint(0, 6, (num_samples,)).double()
    smoothed = pv.psis(torch.stack([wide, holes, ties], 1))
    torch.testing.assert_close(smoothed.exp().sum(0), torch.ones(3, dtype=torch.float64))
    assert torch.equal(smoothed[:, 1].exp() == 0, holes.isinf())


def test_smoothing_brings_heavy_tailed_means_nearer():
    """Weights of k = 0.6 have no variance; 400 means of a value that is N(0, 1) whatever the weight."""
    u = torch.rand(500, 400, dtype=torch.float64)
    values = torch.randn(500, 400, dtype=torch.float64)
    raw, smoothed = (
        pv.expectation(-0.6 * u.log(), values, smooth=smooth).mean.square().mean().sqrt()
        for smooth in (False, True)
    )
    assert smoothed < 0.9 * raw  # over ten seeds the ratio was 0.69 to 0.82


@pytest.mark.parametrize("smooth", [False, True])
def test_posterior_mean_and_its_error(smooth):
    """On the linear-Gaussian model: the mean of z within the stated errors, at the normal's rate."""
    oracle = LinearGaussian(torch.randn(4, 2, dtype=torch.float64), noise=1.0, shift=0.3, widen=1.2)
    x = oracle.sample(200)
    with stream("test", 3):
        weights, z = weigh_and_keep(oracle, x, 1000)
    found = pv.expectation(weights, z, smooth=smooth)
    scores = (found.mean - oracle.posterior(x).loc) / found.standard_error
    assert found.mean.shape == found.standard_error.shape == (200, 2)
    # Mean square of 400 standard normal scores: 1 with a spread of sqrt(2 / 400).
    assert scores.square().mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 400))


def weigh_and_keep(oracle, x, num_samples):
    """Log-weights, and the draws that they are of."""
    kept = []

    def guide(x):
        kept.append(poutine.trace(oracle.guide).get_trace(x).nodes["z"]["value"])

    weights = pv.log_weights(oracle.model, guide, x, num_samples=num_samples)
    at_once = pass_size(inspect(oracle.model, oracle.guide, x), (x,))
    return weights, torch.cat(kept[-math.ceil(num_samples / at_once) :])


def test_equal_weights_give_the_sample_mean_and_its_error():
    values = torch.randn(50, 3, 2, dtype=torch.float64)
    found = pv.expectation(torch.full((50, 3), -7.0), values)
    torch.testing.assert_close(found.mean, values.mean(0))
    torch.testing.assert_close(found.standard_error, values.std(0) / math.sqrt(50))


def test_values_of_no_weight_count_for_nothing():
    weights = torch.tensor([[0.0], [-math.inf], [0.0]])
    found = pv.expectation(weights, torch.tensor([[1.0], [math.nan], [2.0]]))
    assert found.mean.item() == 1.5


def test_a_single_draw_knows_no_error():
    found = pv.expectation(torch.randn(1, 3), torch.ones(1, 3))
    assert torch.equal(found.mean, torch.ones(3, dtype=torch.float64))
    assert found.standard_error.isnan().all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="draws come first, then data"):
        pv.expectation(torch.zeros(10, 3), torch.zeros(3, 10))


def test_smoothed_weights_are_no_estimate_of_log_evidence():
    """They are normalised, so that nobody takes their mean for p(x)."""
    assert pv.log_evidence(pv.psis(torch.randn(100, 1) - 50)).item() == pytest.approx(-math.log(100))
