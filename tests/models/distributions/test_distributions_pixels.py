"""Distributions of grey values at the parameters where formulas cancel, overflow or end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from densities import SURE
from scipy import stats

from pyrovae import likelihoods
from pyrovae.models.distributions import ContinuousBernoulli, DiscretizedLogistic, Levels, OpenBeta

LOGITS = [0.0]
LOGITS += [s * size for size in (1e-8, 1e-4, 0.01, 0.05, 0.0999, 0.1, 1.0, 20.0, 200.0) for s in (1, -1)]


def exact_log_density(x, logit):
    """In float64, from the defining formula alone."""
    return x * logit + (np.log(logit / np.expm1(logit)) if logit else 0.0)


def exact_mean(logit):
    """The formula's own rounding is 1e-16 over the logit: near zero its first terms do better."""
    if abs(logit) < 1e-3:
        return 0.5 + logit / 12
    return -1 / np.expm1(-logit) - 1 / logit


@pytest.mark.parametrize("logit", LOGITS)
class TestContinuousBernoulli:
    def test_density_is_the_exact_one(self, logit):
        x = np.linspace(0, 1, 101)
        exact = torch.as_tensor(exact_log_density(x, logit))
        for dtype, tolerance in ((torch.float32, 3e-7), (torch.float64, 1e-10)):
            found = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)).log_prob(
                torch.tensor(x, dtype=dtype)
            )
            assert (found.double() - exact).abs().max() < tolerance * max(1, abs(logit))

    def test_mean_is_the_exact_one(self, logit):
        found = ContinuousBernoulli(torch.tensor(logit)).mean.item()
        assert found == pytest.approx(exact_mean(logit), abs=2e-6)

    def test_draws_have_the_density(self, logit):
        """Kolmogorov-Smirnov: 19 tests of 1e-6 false alarms."""
        draws = ContinuousBernoulli(torch.tensor(logit)).sample((20_000,)).double().numpy()
        cdf = (lambda x: np.expm1(logit * x) / np.expm1(logit)) if abs(logit) > 1e-7 else (lambda x: x)
        if logit == 200:
            cdf = lambda x: np.exp(logit * (x - 1))  # noqa: E731
        assert stats.kstest(draws, cdf).pvalue > 1e-6

    def test_gradients_of_the_density_are_the_exact_ones(self, logit):
        """By the logit it is x less the mean."""
        x = torch.linspace(0, 1, 101, requires_grad=True)
        logits = torch.full((101,), logit, requires_grad=True)
        p = ContinuousBernoulli(logits)
        by_logit, by_x = torch.autograd.grad(p.log_prob(x).sum(), (logits, x))
        torch.testing.assert_close(by_logit, x - exact_mean(logit), rtol=0, atol=1e-5)
        torch.testing.assert_close(by_x, logits)
        (of_mean,) = torch.autograd.grad(p.mean.sum(), logits)
        assert of_mean.isfinite().all()

    def test_gradient_of_a_draw_is_the_implicit_one(self, logit):
        """dx/dl = -(dF/dl) / p(x) for each draw: at l = 0 it is x (1 - x) / 2, and not 0."""
        logits = torch.full((500,), logit, requires_grad=True)
        draws = ContinuousBernoulli(logits).rsample()
        (found,) = torch.autograd.grad(draws.sum(), logits)
        x = draws.detach().double()
        if abs(logit) < 1e-3:
            exact = x * (1 - x) / 2
        else:
            length = torch.tensor(logit, dtype=torch.float64)
            # Of F(x) = (e^(lx) - 1) / (e^l - 1), divided by p(x), arranged so that nothing overflows.
            at_x, at_1 = -torch.expm1(-length * x), -torch.expm1(-length)
            exact = -(x - at_x / at_1) / length
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-4)


def exact_probabilities(loc, scale, levels):
    """Of every level in float64, by differences on the side where they do not cancel."""
    edges = (np.arange(levels - 1) + 0.5) / (levels - 1)
    with np.errstate(over="ignore"):
        below = 1 / (1 + np.exp(-np.r_[-np.inf, (edges - loc) / scale, np.inf]))
        above = 1 / (1 + np.exp(np.r_[-np.inf, (edges - loc) / scale, np.inf]))
    return torch.as_tensor(np.where(below[1:] < 0.5, np.diff(below), -np.diff(above)))


EXTREMES = [
    (loc, scale) for loc in (-100.0, -1.0, 0.0, 0.3, 1.0, 5.0, 100.0) for scale in (1e-6, 1e-3, 0.1, 1e3)
]


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize(("loc", "scale"), EXTREMES)
class TestDiscretizedLogistic:
    def test_probabilities_are_the_exact_ones(self, loc, scale, levels):
        """Those too small for a number fall as the distance to the nearest edge over the scale."""
        x = torch.arange(levels, dtype=torch.float64) / (levels - 1)
        parameters = torch.tensor([loc, scale], dtype=torch.float64)
        p = DiscretizedLogistic(*parameters, levels)
        found, exact = p.log_prob(x), exact_probabilities(loc, scale, levels)
        torch.testing.assert_close(found.exp(), exact, rtol=1e-9, atol=1e-13)
        assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)
        tiny = exact < 1e-200
        to_edge = (x - loc).abs() - 0.5 / (levels - 1)
        torch.testing.assert_close(-found[tiny] * scale, to_edge[tiny], rtol=1e-2, atol=1e-4)

    def test_single_precision_and_gradients_hold(self, loc, scale, levels):
        """Rounding of x - loc is 1e-5 at most, in units of the scale."""
        x = torch.arange(levels) / (levels - 1)
        parameters = [torch.full((levels,), each, requires_grad=True) for each in (loc, scale)]
        found = DiscretizedLogistic(*parameters, levels).log_prob(x)
        exact = DiscretizedLogistic(*[each.detach().double() for each in parameters], levels).log_prob(
            x.double()
        )
        assert ((found - exact).abs() <= 1e-5 * max(1, abs(loc)) / scale + 1e-5 * exact.abs() + 1e-5).all()
        for gradient in torch.autograd.grad(found.sum(), parameters):
            assert gradient.isfinite().all()

    def test_draws_and_mean_have_the_probabilities(self, loc, scale, levels):
        p = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), levels)
        exact = exact_probabilities(loc, scale, levels)
        x = torch.arange(levels) / (levels - 1)
        assert p.mean.item() == pytest.approx((exact * x).sum().item(), abs=1e-5)
        draws = p.sample((5000,))
        assert p.support.check(draws).all()
        error = draws.double().std() / 5000**0.5
        assert abs(draws.double().mean() - (exact * x).sum()) <= SURE * error + 1e-3


def test_mixture_of_rounded_logistics_is_the_weighted_sum():
    """The network's blocks are M of locs, M of log scales, M of weights, each of D features."""
    numbers = torch.randn(1, 3 * 3 * 2)
    likelihood = likelihoods.DiscretizedLogistic(torch.nn.Identity(), components=3)
    loc, log_scale, logits = numbers.reshape(3, 3, 2)
    x = torch.tensor([[3 / 255, 1.0]])
    each = DiscretizedLogistic(loc + 0.5, log_scale.exp() / 8).log_prob(x).exp()
    expected = (logits.softmax(0) * each).sum(0).log().sum()
    torch.testing.assert_close(likelihood(numbers).log_prob(x)[0], expected)


def test_levels_take_the_logits_of_their_level():
    logits = torch.randn(4, 7)
    p = Levels(logits)
    x = torch.tensor([0.0, 2 / 6, 5 / 6, 1.0])
    expected = logits.log_softmax(-1)[torch.arange(4), torch.tensor([0, 2, 5, 6])]
    torch.testing.assert_close(p.log_prob(x), expected)
    assert p.support.check(x).all()
    assert not p.support.check(torch.tensor([-1 / 6, 7 / 6, 0.4, torch.nan])).any()


def test_open_beta_is_the_beta_without_its_ends():
    """Its draws are inside, however low the concentrations."""
    p = OpenBeta(torch.tensor(0.05), torch.tensor(0.02))
    x = torch.rand(100) * 0.98 + 0.01
    torch.testing.assert_close(p.log_prob(x), torch.distributions.Beta(0.05, 0.02).log_prob(x))
    assert p.support.check(p.sample((10_000,))).all()
    assert p.support.check(torch.tensor([0.0, 1.0, 0.5, torch.nan])).tolist() == [False, False, True, False]
    assert p.expand([3]).support.check(torch.zeros(3)).any().logical_not()
