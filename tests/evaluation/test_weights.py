"""Reductions of log-weights: invariants, degenerate weights, and sums joined from chunks."""

from __future__ import annotations

import math

import pytest
import torch

import pyrovae as pv
from pyrovae.evaluation.weights import WeightSums

REDUCTIONS = [pv.log_evidence, pv.elbo, pv.ess, pv.standard_error, pv.pareto_khat]


@pytest.fixture
def log_weights():
    return 3 * torch.randn(200, 7, dtype=torch.float64) - 500


def test_two_draws_by_hand():
    weights = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log() - 1000
    assert pv.log_evidence(weights).item() == pytest.approx(math.log(2) - 1000, abs=1e-12)
    assert pv.elbo(weights).item() == pytest.approx(math.log(3) / 2 - 1000, abs=1e-12)
    assert pv.ess(weights).item() == pytest.approx(16 / 10)
    assert pv.standard_error(weights).item() == pytest.approx(0.5)  # weights 1 and 3: sd sqrt(2), mean 2


def test_bound_is_below_evidence(log_weights):
    assert (pv.elbo(log_weights) < pv.log_evidence(log_weights)).all()


def test_shift_moves_both_bounds_and_nothing_else(log_weights):
    shifted = log_weights + 123.0
    torch.testing.assert_close(pv.log_evidence(shifted), pv.log_evidence(log_weights) + 123)
    torch.testing.assert_close(pv.elbo(shifted), pv.elbo(log_weights) + 123)
    for unmoved in (pv.ess, pv.standard_error, pv.pareto_khat):
        torch.testing.assert_close(unmoved(shifted), unmoved(log_weights))


def test_effective_sample_size_is_between_one_and_all(log_weights):
    assert ((pv.ess(log_weights) >= 1) & (pv.ess(log_weights) <= 200)).all()
    assert pv.ess(torch.zeros(200, 1)).item() == pytest.approx(200)
    one_takes_all = torch.full((200, 1), -1e4).index_fill(0, torch.tensor([3]), 0.0)
    assert pv.ess(one_takes_all) == 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_order_of_draws_does_not_matter(reduction, log_weights):
    torch.testing.assert_close(reduction(log_weights.flip(0)), reduction(log_weights))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("chunk", [1, 30, 64, 200])
def test_joined_sums_give_what_the_tensor_gives(reduction, chunk, log_weights):
    pieces = [WeightSums.of(piece, num_samples=200) for piece in log_weights.split(chunk)]
    sums = pieces[0]
    for piece in pieces[1:]:
        sums = sums.join(piece, num_samples=200)
    assert sums.num_samples == 200
    torch.testing.assert_close(reduction(sums), reduction(log_weights), rtol=1e-10, atol=1e-10)


def test_sums_are_small():
    sums = WeightSums.of(torch.randn(10_000, 2))
    assert len(sums.largest) == 301  # 3 sqrt(10,000), and the cutoff


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_float64_whatever_comes_in(reduction):
    assert reduction(torch.randn(50, 2)).dtype == torch.float64


def test_float32_weights_far_from_zero_keep_their_evidence():
    weights = torch.full((10_000, 1), -98_304.0)
    assert pv.log_evidence(weights).item() == pytest.approx(-98_304.0, abs=1e-9)


def test_some_weights_zero():
    weights = torch.tensor([[0.0], [-math.inf], [0.0], [-math.inf]])
    assert pv.log_evidence(weights).item() == pytest.approx(math.log(0.5))
    assert pv.elbo(weights).item() == -math.inf
    assert pv.ess(weights).item() == pytest.approx(2)
    assert pv.standard_error(weights).item() == pytest.approx(math.sqrt(1 / 3))


def test_all_weights_zero():
    weights = torch.full((30, 1), -math.inf)
    assert pv.log_evidence(weights).item() == -math.inf
    assert pv.elbo(weights).item() == -math.inf
    assert pv.ess(weights).item() == 0
    assert pv.standard_error(weights).item() == math.inf
    assert pv.pareto_khat(weights).item() == math.inf


def test_a_single_draw_says_nothing_of_its_error():
    assert pv.log_evidence(torch.tensor([[-3.0]])).item() == -3
    assert pv.standard_error(torch.tensor([[-3.0]])).isnan().all()


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="at least 1 is needed"):
        pv.log_evidence(torch.zeros(0, 3))
