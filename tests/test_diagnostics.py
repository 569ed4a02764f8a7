"""Variances of codes against those known, with a mean in closed form and with draws."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv

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
    guide = pv.vae.Guide(Line(told))
    found = pv.diagnostics.code_variances(guide, x)
    exact = x.double().var() * SLOPES.double().square()
    # Of the noise left of 100 draws: a variance of 0.01 over 3,000 rows, known to 3%.
    torch.testing.assert_close(found, exact, rtol=1e-6 if told else 0.01, atol=1e-6 if told else 1.5e-3)
    assert pv.diagnostics.active_units(guide, x) == 2
    assert pv.diagnostics.active_units(guide, x, threshold=2.0) == 1
    assert pv.diagnostics.active_units(guide, x, threshold=1e-3 if told else 0.02) == (3 if told else 2)


def test_the_site_is_named():
    vae, x = a_vae(), binary(50)
    assert pv.diagnostics.code_variances(vae.guide, x).shape == (4,)
    with pytest.raises(ValueError, match="the guide has no site 'code': name its latent with site="):
        pv.diagnostics.code_variances(vae.guide, x, site="code")
