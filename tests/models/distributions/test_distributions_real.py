"""The normal density that is summed before it is scaled, against the simple form."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyrovae.models import distributions

SCALES = {
    "one": (),
    "one in a list": (1,),
    "of each dim": (784,),
    "of each row": (3, 5, 1),
    "of each value": (3, 5, 784),
}


@pytest.fixture(params=SCALES.values(), ids=SCALES)
def parameters(request):
    torch.manual_seed(0)
    loc, log_scale = torch.randn(3, 5, 784, dtype=torch.float64), torch.randn(request.param).double() - 2
    return loc, log_scale


def simple(loc, log_scale):
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def test_the_value_is_the_simple_forms(parameters):
    x = torch.randn(5, 784, dtype=torch.float64)
    exact = simple(*parameters).log_prob(x)
    torch.testing.assert_close(distributions.Normal(*parameters).log_prob(x), exact, rtol=1e-12, atol=1e-9)
    found = distributions.Normal(*(each.float() for each in parameters)).log_prob(x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-3)


def test_gradients_are_the_simple_forms(parameters):
    x = torch.randn(5, 784, dtype=torch.float64)
    wanted = [each.requires_grad_() for each in (*parameters, x)]
    found, exact = (
        torch.autograd.grad(form(*parameters).log_prob(x).sum(), wanted)
        for form in (distributions.Normal, simple)
    )
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-8)


def test_it_is_the_same_distribution(parameters):
    ours, theirs = distributions.Normal(*parameters), simple(*parameters)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert torch.equal(ours.variance, theirs.variance)
    torch.manual_seed(0)
    drawn = ours.rsample((2,))
    torch.manual_seed(0)
    assert torch.equal(drawn, theirs.rsample((2,)))
    wide = ours.expand((7, 3, 5))
    assert wide.batch_shape == (7, 3, 5)
    x = drawn[0]
    torch.testing.assert_close(wide.log_prob(x)[6], theirs.log_prob(x))
    apart = torch.distributions.kl_divergence(ours, theirs)
    torch.testing.assert_close(apart, torch.zeros_like(apart))
