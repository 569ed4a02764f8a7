"""Variances of codes against those known, with a mean in closed form and with draws."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae.models import vae
from pyrovae.testing import LinearGaussian

SLOPES = torch.tensor([2.0, 0.05, 0.0, -1.0])


class Line(torch.nn.Module):
    """q(z | x) = N(slopes * x, 1), with a mean or without."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.told = told

    def forward(self, x):
        q = dist.Normal(x * SLOPES, 1.0).to_event(1)
        return q if self.told else Untold(q)


class Untold(dist.TorchDistribution):
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, shape=()):
        return self.base.sample(shape)

    def log_prob(self, value):
        return self.base.log_prob(value)


@pytest.mark.parametrize("told", [True, False])
def test_variance_of_each_dimension(told):
    x = torch.randn(3000, 1)
    guide = vae.Guide(Line(told))
    found = pv.diagnostics.code_variances(guide, x)
    exact = x.double().var() * SLOPES.double().square()
    # Of the noise left of 100 draws: a variance of 0.01 over 3,000 rows, known to 3%.
    torch.testing.assert_close(found, exact, rtol=1e-6 if told else 0.01, atol=1e-6 if told else 1.5e-3)
    assert pv.diagnostics.active_units(guide, x) == 2
    assert pv.diagnostics.active_units(guide, x, threshold=2.0) == 1
    assert pv.diagnostics.active_units(guide, x, threshold=1e-3 if told else 0.02) == (3 if told else 2)


def test_curve_of_active_units_has_the_steps_of_the_variances():
    x = torch.randn(3000, 1)
    guide = vae.Guide(Line(told=True))
    curve = pv.diagnostics.active_units_curve(guide, x)
    torch.testing.assert_close(curve.variances, pv.diagnostics.code_variances(guide, x))
    assert len(curve.thresholds) == len(curve.counts) == 51
    for threshold, count in zip(curve.thresholds.tolist(), curve.counts.tolist(), strict=True):
        assert pv.diagnostics.active_units(guide, x, threshold=threshold) == count
    low, high = curve.stretch()  # between slopes of 0.05 and of 1
    assert low == curve.variances[1].item()
    assert high == curve.variances[3].item()
    assert curve.stretch(100.0) == (curve.variances[0].item(), math.inf)
    lines = str(curve).splitlines()
    assert len(lines) == 2 + 4  # counts 3, 2, 1, 0
    assert lines[1].split() == ["0.0001", "3", "of", "4"]
    assert lines[-1].startswith("at 0.01: 2, the same from 0.002")
    own = pv.diagnostics.active_units_curve(guide, x, thresholds=torch.tensor([0.01, 2.0]))
    assert own.counts.tolist() == [2, 1]


def test_the_site_is_named():
    vae, x = a_vae(), binary(50)
    assert pv.diagnostics.code_variances(vae.guide, x).shape == (4,)
    with pytest.raises(ValueError, match="the guide has no site 'code': name its latent with site="):
        pv.diagnostics.code_variances(vae.guide, x, site="code")


def test_information_of_a_linear_gaussian_lies_between_its_bounds():
    """I = log det(1 + W' W / noise) / 2, all of the rate, for data of the model and its exact posterior."""
    oracle = LinearGaussian(0.7 * torch.randn(5, 2))
    precision = torch.eye(2) + oracle.weight.T @ (oracle.weight / oracle.noise[:, None])
    exact = 0.5 * torch.logdet(precision).item()
    found = pv.diagnostics.information(oracle.model, oracle.guide, oracle.sample(1500))
    assert found.error < 0.05
    assert abs(found.rate - exact) < 4.5 * found.error
    assert found.lower - 4.5 * found.error < exact < found.upper + 4.5 * found.error
    assert found.upper - found.lower < 0.1
    assert f"{found.lower:.3f} to {min(found.upper, found.rate):.3f}" in str(found)
    assert "take more" not in str(found)
    low, high = found.marginal_kl
    assert low <= high
    assert abs(low) < 4.5 * found.error + 0.1


def test_codes_that_tell_every_datum_apart_are_beyond_the_bounds_and_say_so():
    x = torch.eye(8) * 50
    vae = pv.VAE(
        pv.priors.StandardNormal(8),
        pv.likelihoods.Normal(torch.nn.Identity(), scale=1.0),
        lambda x: dist.Normal(x, 1.0).to_event(1),
    )
    found = pv.diagnostics.information(vae.model, vae.guide, x)
    assert found.lower == pytest.approx(found.distinct) == pytest.approx(math.log(8))
    assert found.upper > 1000
    assert f"{found.lower:.3f} to {found.rate:.3f}" in str(found)  # as I(x; z) is at most the rate
    assert "near log of the number of data, 2.08, which it cannot exceed: take more" in str(found)
    silent = pv.VAE(vae.prior, vae.likelihood, lambda x: dist.Normal(0 * x, 1.0).to_event(1))
    found = pv.diagnostics.information(silent.model, silent.guide, x)
    assert found.lower == pytest.approx(0, abs=1e-5)
    assert found.upper == pytest.approx(0, abs=1e-5)
    assert found.rate == pytest.approx(0, abs=1e-5)


def test_information_asks_for_rows_and_a_site():
    vae = a_vae()
    with pytest.raises(ValueError, match="1 row tells nothing of others: at least 2 are needed"):
        pv.diagnostics.information(vae.model, vae.guide, binary(1))
    with pytest.raises(ValueError, match="the guide has no site 'u'"):
        pv.diagnostics.information(vae.model, vae.guide, binary(9), site="u")
