"""What the tests of compiled losses share: equality with eager ones on the same noise."""

from __future__ import annotations

import warnings

import pytest
import torch

import pyrovae as pv

TOLERANCE = 1e-5  # the order of sums differs under the compiler; as captured, the graph gives every bit


def gradients_of(loss, *args, seed=1):
    """Loss and gradients by name on the noise of a seed."""
    loss.zero_grad()
    torch.manual_seed(seed)
    value = loss(*args)
    value.backward()
    return value.detach(), {name: p.grad for name, p in loss.named_parameters()}


def assert_same(eager, compiled, *args, seed=1):
    (value, gradients), (other, others) = (gradients_of(loss, *args, seed=seed) for loss in (eager, compiled))
    assert compiled.graphs.cause is None
    assert other.item() == pytest.approx(value.item(), rel=TOLERANCE)
    assert gradients.keys() == others.keys()
    size = max(gradient.abs().max().item() for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        if gradient is None:
            assert others[name] is None, name
        else:
            torch.testing.assert_close(others[name], gradient, rtol=TOLERANCE, atol=TOLERANCE * size)


def compiled_of(loss, *args, backend="none", **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pv.compile(loss, args, backend=backend, **keywords)
