"""k-hat: that of ArviZ, on known tails, and guarded where ArviZ is not."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import IS_OLD_ARVIZ, psislw_of_arviz
from pyro.ops.stats import fit_generalized_pareto

import pyrovae as pv
from pyrovae.evaluation.weights import khat_threshold
from pyrovae.testing import LinearGaussian


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("num_samples", [30, 100, 900, 2500])  # tails of whole length: 1.x rounds it down
def test_agrees_with_arviz(scale, num_samples):
    weights = scale * torch.randn(num_samples, 4, dtype=torch.float64) - 90
    ours = pv.pareto_khat(weights)
    for datum in range(4):
        assert ours[datum].item() == pytest.approx(psislw_of_arviz(weights[:, datum])[1], abs=1e-6)


@pytest.mark.parametrize("k", [-0.4, -0.2, 0.1, 0.5, 0.7, 1.0, 1.5])
def test_finds_the_shape_of_pareto_weights(k):
    """w = 1 + (u ** -k - 1) / k is generalised Pareto with shape k; ten sets of 20,000 draws."""
    u = torch.rand(20_000, 10, dtype=torch.float64)
    found = pv.pareto_khat(torch.log1p(torch.expm1(-k * u.log()) / k))
    # One set's k-hat spreads by about (1 + k) / sqrt(425 draws in the tail): 0.03 to 0.12. The prior, of
    # ten draws at 0.5, pulls by up to 0.021.
    assert abs(found.mean() - k) < 4 * (1 + k) / math.sqrt(425 * 10) + abs(0.5 - k) * 10 / 435


def test_agrees_with_pyros_fit_where_that_is_right():
    weights = 2 * torch.randn(1000, 1, dtype=torch.float64)
    tail = weights[:, 0].sort().values[-math.ceil(3 * math.sqrt(1000)) - 1 :].exp()
    k, _ = fit_generalized_pareto(tail[1:] - tail[0])
    n = len(tail) - 1
    pulled = (n * k + 5) / (n + 10)  # the prior that Pyro's fit has not
    assert pv.pareto_khat(weights).item() == pytest.approx(float(pulled), abs=0.02)


def test_per_datum_and_not_of_the_batch():
    """Trap: Pyro's k of a batch is that of summed weights, and grows with the batch."""
    oracle = LinearGaussian(torch.randn(4, 2, dtype=torch.float64), noise=1.0, widen=1.3)
    x = oracle.sample(200)
    alone = pv.log_weights(oracle.model, oracle.guide, x, num_samples=1000)
    khat = pv.pareto_khat(alone)
    assert khat.max() < khat_threshold(1000)
    assert pv.pareto_khat(alone.sum(1, keepdim=True)).item() > 0.7
    torch.testing.assert_close(pv.pareto_khat(alone[:, 5:6]), khat[5:6])


def test_a_guide_too_narrow_is_flagged_and_a_wide_one_is_not():
    weight = torch.randn(4, 3, dtype=torch.float64)
    khats = {}
    for widen in (0.5, 1.2):
        oracle = LinearGaussian(weight, noise=1.0, widen=widen)
        weights = pv.log_weights(oracle.model, oracle.guide, oracle.sample(50), num_samples=2000)
        khats[widen] = pv.pareto_khat(weights)
    # A guide of half the scale has weights with k = 1 - 0.5 ** 2 in each direction.
    assert khats[0.5].median() > 0.6
    assert khats[1.2].max() < 0.5


@pytest.mark.parametrize(
    ("log_weights", "expected"),
    [
        (torch.zeros(100), -math.inf),  # a perfect guide
        (torch.full((100,), -1e5), -math.inf),
        (1e-14 * torch.randn(100, dtype=torch.float64) - 3, -math.inf),
        (torch.cat([torch.full((97,), -math.inf), torch.randn(3)]), math.inf),
        (torch.full((100,), -math.inf), math.inf),
        (torch.cat([torch.zeros(1), torch.full((99,), -2000.0)]), math.inf),  # one draw has it all
        (torch.cat([torch.zeros(1), torch.full((99,), -708.2)]), math.inf),
        (torch.cat([torch.full((4,), math.log(2)), torch.zeros(996)]), -math.inf),  # a discrete latent
    ],
)
def test_degenerate_weights(log_weights, expected):
    assert pv.pareto_khat(log_weights[:, None]).item() == expected


@pytest.mark.parametrize(
    "log_weights",
    [torch.randn(24), torch.randn(1), torch.randn(100).index_fill(0, torch.tensor([5]), math.nan)],
)
def test_unknown_is_nan(log_weights):
    assert pv.pareto_khat(log_weights[:, None]).isnan().all()


def test_twenty_five_draws_are_enough():
    assert pv.pareto_khat(torch.randn(25, 1)).isfinite().all()


def test_huge_range_stays_a_number():
    weights = torch.linspace(-1e5, 0, 1000, dtype=torch.float64)[:, None]
    assert not pv.pareto_khat(weights).isnan().any()


def test_degenerate_data_do_not_disturb_their_neighbours():
    good = torch.randn(100, 1, dtype=torch.float64)
    bad = torch.zeros(100, 1, dtype=torch.float64)
    both = pv.pareto_khat(torch.cat([bad, good], 1))
    torch.testing.assert_close(both[1:], pv.pareto_khat(good))


@pytest.mark.skipif(not IS_OLD_ARVIZ, reason="ArviZ 1.x counts ties with the cutoff into the tail")
def test_ties_of_discrete_weights():
    """Few distinct weights: the strictly larger ones make the tail, as in ArviZ."""
    weights = torch.randint(0, 40, (400, 3)).double() / 10
    ours = pv.pareto_khat(weights)
    for datum in range(3):
        assert ours[datum].item() == pytest.approx(psislw_of_arviz(weights[:, datum])[1], abs=1e-6)


def test_threshold():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(2200) == pytest.approx(0.7, abs=1e-3)
    assert khat_threshold(10**6) == 0.7
    assert khat_threshold(10) == -math.inf
