"""What is looked at every few steps, on a device that runs ahead: here on the CPU, which waits for itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pyrovae.training.adam import DirectStep
from pyrovae.training.ahead import EVERY, Ahead, runs_ahead

GOOD, BAD = torch.tensor(1.0), torch.tensor(float("nan"))


def taken(totals):
    """What the optimiser was told at each step, and which step was blamed."""
    optimizer, told, blamed = SimpleNamespace(found_inf=None), [], []
    ahead = Ahead(optimizer)
    for number, total in enumerate(totals):
        ahead.step(total, (number,), blamed.append)
        told.append(None if optimizer.found_inf is None else optimizer.found_inf.item())
    ahead.look(blamed.append)
    assert optimizer.found_inf is None
    return told, blamed


@pytest.mark.parametrize("first", [0, 3, EVERY - 1, EVERY, EVERY + 4])
def test_the_first_bad_step_is_blamed_and_none_is_taken_from_it_on(first):
    totals = [GOOD] * first + [BAD] + [GOOD] * 3
    told, blamed = taken(totals)
    assert blamed == [first]
    turn = first // EVERY * EVERY + EVERY - 1  # where it is looked at, and would raise
    wanted = [None if (number + 1) % EVERY == 0 else float(number >= first) for number in range(len(totals))]
    assert told[: turn + 1] == wanted[: turn + 1]


def test_the_kernel_of_adam_leaves_the_parameters_alone():
    weights = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1, fused=True)
    ahead, step, seen = Ahead(optimizer), DirectStep(optimizer), []
    for total in (GOOD, GOOD, BAD, GOOD):
        weights.grad = torch.full((3,), total.item())
        ahead.step(total, (), lambda: None)
        step()
        seen.append(weights.detach().clone())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_infinity_is_bad_too_and_good_steps_blame_none():
    assert taken([GOOD] * 25)[1] == []
    assert taken([GOOD, torch.tensor(-torch.inf)])[1] == [1]


def test_a_cpu_runs_no_further_than_python():
    parameters = [torch.zeros(3, requires_grad=True)]
    assert not runs_ahead(torch.optim.Adam(parameters, fused=True), parameters)
