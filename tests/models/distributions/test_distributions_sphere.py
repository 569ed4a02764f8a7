"""Directions: the density on the sphere, its draws and their gradients, also at the poles."""

from __future__ import annotations

import math

import pytest
import torch
from densities import SURE
from scipy import stats
from torch.distributions import kl_divergence

from pyrovae.models.distributions import PowerSpherical, UniformSphere

CONCENTRATIONS = [0.0, 1.0, 50.0, 1e4]
TILTS = {"pole": 0.0, "near_pole": 1e-3, "oblique": 1.0, "equator": math.pi / 2, "south": math.pi}


def tilted(angle, width):
    """A direction at this angle to the first axis."""
    loc = torch.zeros(width, dtype=torch.float64)
    loc[0], loc[1] = math.cos(angle), math.sin(angle)
    return loc


def area(width):
    return 2 * math.pi ** (width / 2) / math.gamma(width / 2)


def by_angle(concentration, width):
    """Angles to loc, unit vectors at them, and the sphere's area for each: what Simpson would ask."""
    reach = min(math.pi, 20 / math.sqrt(max(concentration, 1)))
    angle = torch.linspace(0, reach, 20_001, dtype=torch.float64)
    z = torch.stack([angle.cos(), angle.sin(), *[torch.zeros_like(angle)] * (width - 2)], -1)
    volume = area(width - 1) * angle.sin() ** (width - 2) * reach / 20_000
    volume[[0, -1]] /= 2
    return z, volume


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
class TestDensity:
    def test_integrates_to_one(self, concentration, width):
        z, volume = by_angle(concentration, width)
        q = PowerSpherical(tilted(0.0, width), torch.tensor(concentration).double())
        assert (q.log_prob(z).exp() * volume).sum().item() == pytest.approx(1, abs=1e-6)
        uniform = UniformSphere(torch.zeros(width).double()).log_prob(z)
        if concentration <= 1:
            assert (uniform.exp() * volume).sum().item() == pytest.approx(1, abs=1e-6)
        if concentration == 0:
            torch.testing.assert_close(q.log_prob(z), uniform)

    def test_single_precision_is_enough(self, concentration, width):
        """The cosine itself is rounded by 6e-8, which the concentration multiplies; opposite loc by more."""
        q = PowerSpherical(tilted(1.0, width), torch.tensor(concentration).double())
        single = PowerSpherical(q.loc.float(), q.concentration.float())
        z = q.sample((1000,)).float()
        difference = single.log_prob(z) - q.log_prob(z.double())
        assert difference.abs().max() < 2e-5 + 2e-7 * concentration
        assert abs(single.entropy() - q.entropy()) < 1e-5
        assert single.log_prob(z).dtype == single.entropy().dtype == torch.float32

    def test_divergence_from_the_uniform_is_the_integral(self, concentration, width):
        z, volume = by_angle(concentration, width)
        q = PowerSpherical(tilted(0.0, width), torch.tensor(concentration).double())
        p = UniformSphere(torch.zeros(width).double())
        log_ratio = q.log_prob(z) - p.log_prob(z)
        exact = (volume * q.log_prob(z).exp() * log_ratio).nan_to_num().sum()
        torch.testing.assert_close(kl_divergence(q, p), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
@pytest.mark.parametrize("tilt", TILTS)
def test_draws_have_the_density(tilt, concentration, width):
    """Along loc they are Beta, across it uniform: 4 tests of each of 60 cases, 1e-7 false alarms."""
    loc = tilted(TILTS[tilt], width)
    q = PowerSpherical(loc, torch.tensor(concentration).double())
    z = q.sample((5000,))
    assert q.support.check(z).all()
    along = (1 + z @ loc) / 2
    known = stats.beta((width - 1) / 2 + concentration, (width - 1) / 2)
    assert stats.kstest(along, known.cdf).pvalue > 1e-7
    across = z - (z @ loc)[:, None] * loc
    across = across / across.norm(dim=-1, keepdim=True)
    directions = [tilted(TILTS[tilt] + math.pi / 2, width)]
    directions += [torch.eye(width).double()[-1]] if width > 2 else []
    for direction in directions:
        part = (1 + across @ direction) / 2
        if width == 2:
            assert stats.binomtest(int((part > 0.5).sum()), 5000).pvalue > 1e-7
        else:
            assert stats.kstest(part, stats.beta((width - 2) / 2, (width - 2) / 2).cdf).pvalue > 1e-7
    assert (z.mean(0) - q.mean).abs().max() < SURE * z.std(0).max() / 5000**0.5


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("tilt", TILTS)
def test_gradients_of_draws_are_those_of_the_mean(tilt, width):
    """Of E[(a z)^2 + b z] by loc and concentration, which is known: false alarms 7 in a million each.

    The spread of a single draw's gradient stays below 10 wherever loc is, the poles not excepted.
    """
    a, b = (torch.randn(width, dtype=torch.float64) for _ in range(2))
    free = (1.7 * tilted(TILTS[tilt], width)).requires_grad_()
    concentration = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def exact_mean(loc, concentration):
        beta = (width - 1) / 2
        alpha = beta + concentration
        first = alpha / (alpha + beta)
        cosine = 2 * first - 1
        square = 4 * first * (alpha + 1) / (alpha + beta + 1) - 4 * first + 1
        along = a @ loc
        return along**2 * square + (a @ a - along**2) * (1 - square) / (width - 1) + cosine * (b @ loc)

    exact = torch.autograd.grad(exact_mean(free / free.norm(), concentration), (free, concentration))
    n = 20_000
    rows = [each.detach().expand(n, *each.shape).clone().requires_grad_() for each in (free, concentration)]
    z = PowerSpherical(rows[0] / rows[0].norm(dim=-1, keepdim=True), rows[1]).rsample()
    found = torch.autograd.grad(((z @ a) ** 2 + z @ b).sum(), rows)
    for each, expected in zip(found, exact, strict=True):
        spread = each.std(0)
        assert (spread < 10).all()
        assert ((each.mean(0) - expected).abs() < SURE * spread / n**0.5 + 1e-6).all()


def test_uniform_draws_are_unit_vectors_of_no_preferred_direction():
    z = UniformSphere(torch.zeros(2, 4)).sample((20_000,))
    assert z.shape == (20_000, 2, 4)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(20_000, 2))
    assert (z.mean(0).abs() < SURE * 0.5 / 20_000**0.5).all()
    covariance = z[:, 0].T.cov()
    assert (covariance - torch.eye(4) / 4).abs().max() < SURE * 0.25 / 20_000**0.5
