"""The cheap forms of independent bits against the simple one: values, gradients, their gradients, edges."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyrovae.core.context import captured
from pyrovae.models import distributions


@pytest.fixture(params=[False, True], ids=["eager", "captured"])
def form(request):
    token = captured.set(request.param)
    yield request.param
    captured.reset(token)


def simple(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("features", [1, 7, 8, 64, 784, 787])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1e4])
def test_the_value_is_the_simple_forms(features, spread):
    logits = spread * torch.randn(3, 5, features, dtype=torch.float64)
    x = torch.bernoulli(torch.full((5, features), 0.3, dtype=torch.float64))
    exact = simple(logits).log_prob(x)
    torch.testing.assert_close(distributions.Bernoulli(logits).log_prob(x), exact, rtol=1e-9, atol=1e-7)
    # In float32 neither form may lose more than a few roundings of the largest terms.
    found = distributions.Bernoulli(logits.float()).log_prob(x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-4)


@pytest.mark.usefixtures("form")
def test_gradients_of_logits_and_of_grey_values_and_theirs():
    logits = torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    x = torch.rand(3, 16, dtype=torch.float64, requires_grad=True)

    def density(logits, x):
        return distributions.Bernoulli(logits).log_prob(x)

    assert torch.autograd.gradcheck(density, (logits, x))
    assert torch.autograd.gradgradcheck(density, (logits, x))
    assert torch.autograd.gradcheck(density, (logits[0, 0].detach().requires_grad_(), x))  # x has the dims


@pytest.mark.usefixtures("form")
def test_it_is_the_same_distribution():
    logits = torch.randn(5, 8)
    ours, theirs = distributions.Bernoulli(logits), simple(logits)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.manual_seed(0)
    a = ours.sample((4,))
    torch.manual_seed(0)
    assert torch.equal(a, theirs.sample((4,)))
    wide = ours.expand((3, 5))
    assert wide.batch_shape == (3, 5)
    x = torch.bernoulli(torch.full((5, 8), 0.5))
    torch.testing.assert_close(wide.log_prob(x), theirs.log_prob(x).expand(3, 5))
    assert torch.isfinite(distributions.Bernoulli(torch.full((1, 64), 200.0)).log_prob(torch.ones(64))).all()
