"""Codes, words and counts: exact sums, values that are none of theirs, and large parameters."""

from __future__ import annotations

import math

import pytest
import torch
from densities import SURE
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import likelihoods, priors
from pyrovae.models.distributions import Autoregressive, Bits, OneHots, Words


def all_bits(size, dtype=None):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * size).reshape(-1, size)


class TestOneHots:
    def test_other_vectors_have_no_density(self):
        """Two ones, none, a soft code, one code too many: -inf for that row alone."""
        p = OneHots(torch.randn(2, 3))
        good = torch.tensor([0.0, 1, 0, 1, 0, 0])
        bad = torch.tensor(
            [[1.0, 1, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0.5, 0.5, 0, 1, 0, 0], [0, 2, 0, 1, 0, 0]]
        )
        bad = torch.cat([bad, torch.full((1, 6), torch.nan)])
        expected = p.logits[0, 1] + p.logits[1, 0]
        found = p.log_prob(torch.cat([good[None], bad]))
        torch.testing.assert_close(found, torch.cat([expected[None], torch.full((5,), -math.inf)]))
        assert p.support.check(torch.cat([good[None], bad])).tolist() == [True, *[False] * 5]

    def test_values_and_rows_broadcast(self):
        p = OneHots(torch.randn(5, 2, 3))
        every = p.enumerate_support(expand=False)
        assert every.shape == (9, 1, 6)
        together = p.log_prob(every)
        assert together.shape == (9, 5)
        torch.testing.assert_close(together.exp().sum(0), torch.ones(5))
        torch.testing.assert_close(p.log_prob(every[4, 0]), together[4])
        assert torch.equal(p.enumerate_support()[:, 3], every[:, 0])

    def test_logits_are_free_up_to_a_constant_of_each_variable(self):
        logits, codes = torch.randn(2, 3), OneHots(torch.zeros(2, 3)).sample((20,))
        moved = OneHots(logits + torch.tensor([[100.0], [-7.0]]))
        torch.testing.assert_close(moved.log_prob(codes), OneHots(logits).log_prob(codes), rtol=0, atol=1e-4)


class TestBits:
    def test_single_precision_is_enough_where_a_probability_rounds_to_one(self):
        logits = torch.tensor([30.0, -200.0, 0.0])
        expected = torch.tensor([-30.0, 0.0, -math.log(2)])
        for i, each in enumerate(expected):
            value = torch.tensor([0.0, 0.0, 1.0])[i : i + 1]
            torch.testing.assert_close(Bits(logits[i : i + 1]).log_prob(value), each, rtol=0, atol=1e-6)

    def test_too_many_bits_are_not_enumerated(self):
        with pytest.raises(ValueError, match="2\\^17 values are too many to enumerate"):
            Bits(torch.zeros(17)).enumerate_support()


@pytest.mark.parametrize(
    ("family", "shape", "every"),
    [(Bits, (3,), all_bits(3)), (OneHots, (2, 3), OneHots(torch.zeros(2, 3)).enumerate_support())],
)
class TestDivergenceAndEntropy:
    def test_they_are_the_sums_over_all_values(self, family, shape, every):
        p, q = (family(3 * torch.randn(4, *shape)) for _ in range(2))
        values = every[:, None]
        log_p, log_q = p.log_prob(values), q.log_prob(values)
        torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum(0))
        torch.testing.assert_close(p.entropy(), -(log_p.exp() * log_p).sum(0))
        torch.testing.assert_close(p.mean, (log_p.exp()[..., None] * values).sum(0))
        torch.testing.assert_close(p.variance, p.mean - p.mean**2)

    def test_extreme_probabilities_leave_no_nan(self, family, shape, every):
        p, q = family(200 * torch.randn(4, *shape)), family(200 * torch.randn(4, *shape))
        assert kl_divergence(p, q).isfinite().all()
        assert (kl_divergence(p, q) >= 0).all()
        assert (p.entropy().abs() < 3).all()


class Chain(nn.Module):
    """Logits of three bits: the second depends on the first, the third on both."""

    def forward(self, z):
        first, second = z[..., 0], z[..., 1]
        return torch.stack([torch.full_like(first, 0.4), 2 * first - 1, 3 * first * second - 0.5], -1)


class TestAutoregressive:
    def test_density_is_the_product_of_the_conditionals(self):
        p = Autoregressive(Chain(), Bits, 3, 3, torch.zeros(()))
        z = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        sigmoid = lambda at: 1 / (1 + math.exp(-at))  # noqa: E731
        expected = [sigmoid(0.4) * sigmoid(-1.0) * sigmoid(-0.5), sigmoid(0.4) * sigmoid(1.0) * sigmoid(-2.5)]
        torch.testing.assert_close(p.log_prob(z).exp(), torch.tensor(expected))

    def test_draws_of_a_batch_are_independent_and_follow_the_conditionals(self):
        """Frequencies of all 8 vectors in each of 2 rows: false alarms 7 in a million each."""
        p = Autoregressive(Chain(), Bits, 3, 3, torch.zeros(())).expand([2])
        z = p.sample((20_000,))
        assert z.shape == (20_000, 2, 3)
        every = all_bits(3)
        known = p.log_prob(every[:, None]).exp()
        assert known.shape == (8, 2)
        found = (z[:, None] == every[:, None]).all(-1).double().mean(0)
        assert ((found - known).abs() < SURE * (known * (1 - known) / 20_000).sqrt()).all()
        assert abs(torch.corrcoef(z[..., 2].T)[0, 1]) < SURE / 20_000**0.5

    @pytest.mark.parametrize(
        "make",
        [lambda: priors.AutoregressiveBernoulli(4), lambda: priors.AutoregressiveCategorical(2, size=3)],
    )
    def test_a_variable_does_not_see_itself_or_those_after_it(self, make):
        """The Jacobian of variable i's logits by the value of variable j is zero where j >= i."""
        p = make()()
        width = p.event_shape[0]
        each = width // p.size
        value = torch.rand(width)
        jacobian = torch.autograd.functional.jacobian(p.logits, value).reshape(p.size, -1, p.size, each)
        reach = jacobian.abs().sum((1, 3))
        assert (reach.triu() == 0).all()
        assert (reach.tril(-1) + torch.ones_like(reach).triu() > 0).all()


class TestWords:
    def test_rows_of_any_total_and_without_a_word(self):
        p = Words(torch.randn(3, 4), total_count=7)
        x = torch.tensor([[0.0, 0, 0, 0], [2, 0, 1, 0], [0, 9, 0, 3]])
        expected = [0.0]
        for row in (1, 2):
            known = torch.distributions.Multinomial(int(x[row].sum()), logits=p.logits[row])
            expected.append(known.log_prob(x[row]).item())
        torch.testing.assert_close(p.log_prob(x), torch.tensor(expected))
        assert p.support.check(x).all()
        assert (p.sample((50,)).sum(-1) == 7).all()

    def test_a_word_of_no_probability_may_be_absent_and_not_present(self):
        logits = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
        p = Words(logits)
        assert p.log_prob(torch.tensor([1.0, 1.0, 1.0])) == -math.inf
        found = p.log_prob(torch.tensor([1.0, 1.0, 0.0]))
        torch.testing.assert_close(found, Words(logits[:2]).log_prob(torch.ones(2)))
        (gradient,) = torch.autograd.grad(found, logits)
        assert gradient[:2].isfinite().all()

    def test_other_rows_are_outside(self):
        x = torch.tensor([[-1.0, 2.0], [0.5, 1.0], [torch.nan, 1.0], [3.0, 0.0]])
        assert Words(torch.zeros(2)).support.check(x).tolist() == [False, False, False, True]


@pytest.mark.parametrize("name", ["NegativeBinomial", "ZeroInflatedNegativeBinomial"])
@pytest.mark.parametrize("dispersion", [1e-2, 1.0, 1e3, 1e5, 1e7])
def test_single_precision_is_enough_for_counts_at_any_dispersion(name, dispersion):
    """A dispersion that is learned rises without end on counts that are Poisson's.

    The logits, and rounding of a count times a logit, leave 2e-6 of the count.
    """
    features = 500
    numbers = torch.cat([torch.randn(features) + 2, torch.randn(features)]).float()
    numbers = numbers[:features] if name == "NegativeBinomial" else numbers
    single = getattr(likelihoods, name)(nn.Identity(), features=features).float()
    single.log_dispersion.data.fill_(math.log(dispersion))
    double = getattr(likelihoods, name)(nn.Identity(), features=features).double()
    double.log_dispersion.data = single.log_dispersion.data.double()
    x = double(numbers.double()).sample((20,))
    found, exact = (
        single(numbers).base_dist.log_prob(x.float()),
        double(numbers.double()).base_dist.log_prob(x),
    )
    assert found.dtype == torch.float32
    assert ((found - exact).abs() < 3e-6 * (x + 10)).all()
    if dispersion == 1e7 and name == "NegativeBinomial":
        poisson = torch.distributions.Poisson(numbers.double().exp()).log_prob(x)
        torch.testing.assert_close(exact, poisson, rtol=0, atol=1e-2)
