"""Every likelihood of the list sums or integrates to 1, and its draws have its density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS
from densities import Observed, chi_square, shaken
from scipy import stats

from pyrovae.models.distributions import support_of

DRAWS = 40_000


def points_of(support, width):
    """Values of one feature that hold all its probability, ``[n, 1, 1]``, and what each stands for."""
    support = getattr(support, "base_constraint", support)  # of a mixture
    kind = type(support).__name__
    if kind == "_Boolean":
        x, volume = torch.tensor([0.0, 1.0]).double(), 1.0
    elif kind == "_Grid":
        x, volume = torch.arange(support.levels).double() / (support.levels - 1), 1.0
    elif kind in ("_IntegerGreaterThan", "_IntegerInterval"):
        x, volume = torch.arange(256 if kind == "_IntegerInterval" else 5000).double(), 1.0
    else:
        # Evenly over all reals in coordinates t; the trapezoid rule then converges fast.
        t = torch.linspace(-16, 16, 8001, dtype=torch.float64)
        step = (t[1] - t[0]).item()
        if kind == "_Real":
            x, volume = t.sinh(), t.cosh() * step
        else:
            x = (2 * t).sigmoid()
            volume = 2 * x * (-2 * t).sigmoid() * step
            x, volume = x[x < 1], volume[x < 1]
    return x[:, None, None].expand(-1, *width), volume


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "multinomial"])
@torch.no_grad()
def test_likelihood_sums_to_one_in_every_feature(name):
    """Features are independent, so that x's density is the product over them.

    The tolerance is for the kink of Laplace's density, which the rule's points miss; the others come
    within 1e-9.
    """
    likelihood = Observed(name).double()()
    base = likelihood.base_dist
    assert base.batch_shape == (2, FEATURES)
    x, volume = points_of(support_of(base), base.batch_shape)
    density = base.log_prob(x).exp() * torch.as_tensor(volume).reshape(-1, 1, 1)
    tolerance = 1e-4 if name == "laplace" else 1e-8
    torch.testing.assert_close(density.sum(0), torch.ones(2, FEATURES).double(), rtol=0, atol=tolerance)
    picked = x[torch.randint(len(x), (7,))]
    torch.testing.assert_close(likelihood.log_prob(picked), base.log_prob(picked).sum(-1))


@torch.no_grad()
def test_multinomial_sums_to_one_over_all_counts_of_a_total():
    """For every total, the one it was built with or not."""
    likelihood = Observed("multinomial").double()()
    every = torch.cartesian_prod(*[torch.arange(5.0, dtype=torch.float64)] * FEATURES)
    for total in (0, 1, 4):
        counts = every[every.sum(-1) == total]
        assert len(counts) == math.comb(total + FEATURES - 1, total)
        sums = likelihood.log_prob(counts[:, None]).exp().sum(0)
        torch.testing.assert_close(sums, torch.ones(2).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "multinomial"])
@torch.no_grad()
def test_draws_of_a_likelihood_have_its_density(name):
    """Chi-square where values are discrete, else Kolmogorov-Smirnov: 12 tests of 1e-7 false alarms."""
    base = Observed(name).double()().base_dist
    x, volume = points_of(support_of(base), base.batch_shape)
    mass = (base.log_prob(x).exp() * torch.as_tensor(volume).reshape(-1, 1, 1)).flatten(1).T
    axis = x[:, 0, 0]
    for masses, drawn in zip(mass, base.sample((DRAWS,)).flatten(1).T.contiguous(), strict=True):
        if torch.is_tensor(volume):
            below = (masses.cumsum(0) - masses / 2).numpy()  # a point stands for both of its sides
            cdf = lambda at, below=below: np.interp(at, axis.numpy(), below)  # noqa: E731
            p_value = stats.kstest(drawn.numpy(), cdf).pvalue
        else:
            which = torch.bucketize(drawn, (axis[1:] + axis[:-1]) / 2)
            assert (axis[which] - drawn).abs().max() < 1e-9
            p_value = chi_square(which.bincount(minlength=len(axis)), masses)
        assert p_value > 1e-7


@torch.no_grad()
def test_draws_of_the_multinomial_have_its_probabilities():
    """Chi-square over the 126 count vectors of total 4: 1e-7 false alarms."""
    likelihood = LIKELIHOODS["multinomial"].make()
    likelihood.total_count = 4
    distribution = shaken(likelihood)(torch.randn(LATENTS))
    every = torch.cartesian_prod(*[torch.arange(5.0)] * FEATURES)
    every = every[every.sum(-1) == 4]
    found = (distribution.sample((DRAWS,))[:, None] == every).all(-1).sum(0)
    assert found.sum() == DRAWS
    assert chi_square(found, distribution.log_prob(every).exp()) > 1e-7
