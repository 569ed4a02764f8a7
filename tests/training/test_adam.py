"""Adam's step by its kernel alone is torch's own, state and all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from pyrovae.training.adam import DirectStep

OPTIMISERS = {
    "Adam": lambda p: Adam(p, lr=1e-2, fused=True),
    "Adam with options": lambda p: Adam(p, lr=1e-2, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1, fused=True),
    "AdamW": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "two groups": lambda p: Adam([{"params": p[:1]}, {"params": p[1:], "lr": 1e-3}], fused=True),
    "amsgrad": lambda p: Adam(p, amsgrad=True, fused=True),
    "not fused": lambda p: Adam(p, lr=1e-2),
    "SGD": lambda p: SGD(p, lr=1e-2, momentum=0.9),
}


def pair(make):
    """Two copies of a layer and its optimiser, the first stepped directly."""
    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [make(list(layer.parameters())) for layer in layers]
    return layers, optimizers, (DirectStep(optimizers[0]), lambda: optimizers[1].step())


def give_gradients(layers, *, bias=True):
    for parameters in zip(*(layer.parameters() for layer in layers), strict=True):
        gradient = torch.randn_like(parameters[0])
        for parameter in parameters:
            parameter.grad = gradient.clone() if bias or parameter.dim() > 1 else None


def assert_alike(layers, optimizers):
    for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(one, other)
        for name, value in optimizers[1].state[other].items():
            assert torch.equal(optimizers[0].state[one][name], value), name


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_steps_and_state_are_those_of_the_optimiser(make):
    layers, optimizers, steps = pair(make)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in optimizers]
    for turn in range(6):
        give_gradients(layers, bias=turn != 3)  # a parameter that has no gradient for once
        steps[0](check=turn == 4)
        steps[1]()
        if turn == 2:
            for schedule in schedules:
                schedule.step()
        assert_alike(layers, optimizers)
    copies = [make(list(layer.parameters())) for layer in layers]
    for copy, optimizer in zip(copies, optimizers, strict=True):
        copy.load_state_dict(optimizer.state_dict())
    assert_alike(layers, copies)


def test_a_state_that_was_loaded_and_hooks_are_noticed():
    layers, optimizers, steps = pair(OPTIMISERS["Adam"])
    for _ in range(3):
        give_gradients(layers)
        steps[0](check=False), steps[1]()
    for optimizer in optimizers:
        optimizer.load_state_dict(optimizer.state_dict())
    seen = []
    optimizers[0].register_step_post_hook(lambda *_: seen.append(1))
    for check in (True, False):
        give_gradients(layers)
        steps[0](check=check), steps[1]()
    assert_alike(layers, optimizers)
    assert seen == [1, 1]


def test_found_inf_leaves_everything_as_it_was():
    layers, optimizers, steps = pair(OPTIMISERS["Adam"])
    for _ in range(2):
        give_gradients(layers)
        steps[0](check=False), steps[1]()
    optimizers[0].found_inf = torch.ones(())
    give_gradients(layers)
    steps[0](check=False)
    assert_alike(layers, optimizers)
