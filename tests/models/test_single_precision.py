"""Densities in float32 against float64 at large counts, concentrations and scales: no bias worth a word."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import guides, likelihoods
from pyrovae.models import distributions

FEATURES = 784


def counts(mean):
    return torch.poisson(torch.full((8, FEATURES), float(mean)))


CASES = {  # the part, its numbers and the data
    "Binomial": (
        lambda: likelihoods.Binomial(nn.Identity(), total_count=255),
        lambda: 2 * torch.randn(8, FEATURES),
        lambda: torch.randint(0, 256, (8, FEATURES)).float(),
    ),
    "Binomial of a million": (
        lambda: likelihoods.Binomial(nn.Identity(), total_count=10**6),
        lambda: torch.zeros(8, FEATURES),
        lambda: counts(500_000),
    ),
    "Poisson": (
        lambda: likelihoods.Poisson(nn.Identity()),
        lambda: torch.full((8, FEATURES), 100_000.0).log(),
        lambda: counts(100_000),
    ),
    "Multinomial": (
        lambda: likelihoods.Multinomial(nn.Identity()),
        lambda: torch.randn(8, FEATURES),
        lambda: counts(1000),
    ),
    "StudentT": (
        lambda: likelihoods.StudentT(nn.Identity(), df=1e5, scale=1.0),
        lambda: torch.randn(8, FEATURES),
        lambda: torch.randn(8, FEATURES),
    ),
    "Beta": (
        lambda: likelihoods.Beta(nn.Identity()),
        lambda: torch.cat([torch.zeros(8, FEATURES), torch.full((8, FEATURES), 8.0)], -1),
        lambda: 0.5 + 0.01 * torch.randn(8, FEATURES),
    ),
    "guides.Dirichlet": (
        lambda: guides.Dirichlet(nn.Identity()),
        lambda: 10 + torch.randn(8, 20),
        lambda: torch.distributions.Dirichlet(torch.full((20,), 2e4)).sample((8,)),
    ),
    "guides.LowRankNormal": (
        lambda: guides.LowRankNormal(nn.Identity(), 16, rank=2),
        lambda: torch.cat([torch.zeros(8, 16), torch.full((8, 16), -12.0), torch.randn(8, 32)], -1),
        lambda: 0.002 * torch.randn(8, 16),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_log_densities_of_a_row_are_right_to_a_hundredth_of_a_nat(name):
    """But for what float32 makes of the numbers themselves: a relative 6e-8 of each feature's part."""
    part, numbers, data = (make() for make in CASES[name])
    single = part(numbers).log_prob(data)
    double = part.double()(numbers.double()).log_prob(data.double())
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 0.01 + 2e-7 * double.abs().max()


def test_rates_of_all_but_nought_have_gradients():
    log_rate = torch.tensor([-105.0, -105.0, -90.0], requires_grad=True)
    found = distributions.Poisson(log_rate).log_prob(torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, -105.0, -90.0]))
    (slope,) = torch.autograd.grad(found.sum(), log_rate)
    torch.testing.assert_close(slope, torch.tensor([0.0, 1.0, 1.0]))


def test_kl_of_dirichlets_at_high_concentrations():
    numbers = 10 + torch.randn(8, 20)
    q, p = distributions.Dirichlet(numbers.exp()), distributions.Dirichlet(torch.full((20,), 1e4))
    double = kl_divergence(*(torch.distributions.Dirichlet(each.concentration.double()) for each in (q, p)))
    torch.testing.assert_close(kl_divergence(q, p).double(), double, rtol=1e-6, atol=1e-3)
