"""Optimisers and learning-rate schedules of fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyrovae.training.history import History
from pyrovae.training.loss import TrackedLoss

__all__ = [
    "MakeOptimizer",
    "MakeScheduler",
    "advance",
    "burda",
    "constant",
    "cosine",
    "make_optimizer",
    "make_scheduler",
    "slow_down",
]

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]


def make_optimizer(
    optimizer: torch.optim.Optimizer | MakeOptimizer | None, parameters: list[Tensor], meter: TrackedLoss
) -> torch.optim.Optimizer:
    """The optimiser, made if need be; one that lacks a parameter is refused."""
    if isinstance(optimizer, PyroOptim):
        raise TypeError(
            "fit: optimizer is one of Pyro's: pass torch's, such as torch.optim.Adam(vae.parameters()), "
            "or a function of the list of parameters"
        )
    if optimizer is None:
        fused = all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters)
        return torch.optim.Adam(parameters, lr=1e-3, fused=fused)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer(parameters)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & {id(parameter) for parameter in parameters}:
        raise ValueError("fit: the optimizer holds no parameter of model or guide: make it of theirs")
    for parameter in parameters:
        if id(parameter) not in held:
            raise ValueError(
                f"fit: the optimizer does not hold '{meter.name(parameter)}': add it, or freeze it with "
                f"requires_grad_(False), or pass a function of the list of parameters"
            )
    return optimizer


def make_scheduler(scheduler: MakeScheduler | None, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """The torch scheduler that a function makes of the optimiser."""
    if scheduler is None:
        return None
    if isinstance(scheduler, LRScheduler):
        raise TypeError(
            "fit: scheduler is a function that makes one of the optimizer: pass "
            "lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)"
        )
    made = scheduler(optimizer)
    if not isinstance(made, LRScheduler):
        raise TypeError(f"fit: scheduler gave a {type(made).__name__}, and not one of torch's schedulers")
    return made


def advance(scheduler: LRScheduler, history: History) -> None:
    """Step a schedule after an epoch; ReduceLROnPlateau gets minus the latest ELBO."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(-(history.validation_elbo or history.elbo)[-1])
    else:
        scheduler.step()


def slow_down(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None, factor: float) -> float:
    """Multiply all learning rates, those that a schedule starts from too; return the first one."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * factor
    for each in _schedulers(scheduler):
        if hasattr(each, "base_lrs"):
            each.base_lrs = [rate * factor for rate in each.base_lrs]
    return float(optimizer.param_groups[0]["lr"])


def _schedulers(scheduler: Any) -> Iterator[Any]:
    """A schedule and all its parts."""
    if scheduler is not None:
        yield scheduler
        for each in getattr(scheduler, "_schedulers", ()):
            yield from _schedulers(each)


Schedule = Callable[[int], float]
"""The factor of the learning rate in an epoch, which counts from 0."""


def constant(num_epochs: int, *, warmup: int = 0) -> Schedule:
    """A constant rate after a linear warm-up.

    Args:
        num_epochs: Number of epochs.
        warmup: Number of epochs in which the rate rises to its full value, less than ``num_epochs``.

    Example:
        >>> [constant(4, warmup=1)(epoch) for epoch in range(4)]
        [0.5, 1.0, 1.0, 1.0]
    """
    _check_warmup("constant", num_epochs, warmup)
    return lambda epoch: min((epoch + 1) / (warmup + 1), 1.0)


def cosine(num_epochs: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    r"""Half a cosine from the full rate down, after a linear warm-up of w epochs.

    .. math:: f + \frac{1 - f}2 \Big(1 + \cos \pi \frac{t - w}{T - w}\Big)

    Args:
        num_epochs: Number of epochs, T.
        warmup: Number of epochs in which the rate rises to its full value, w, less than T.
        final: Factor after T epochs, f, within [0, 1].

    References:
        Loshchilov and Hutter, SGDR, 2017. arXiv:1608.03983

    Example:
        >>> [round(cosine(4)(epoch), 3) for epoch in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    _check_warmup("cosine", num_epochs, warmup)
    if not 0 <= final <= 1:
        raise ValueError(f"cosine: final must be within [0, 1], got {final:g}")

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        along = min((epoch - warmup) / (num_epochs - warmup), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * along)) / 2

    return factor


def burda(num_epochs: int) -> Schedule:
    """The rate of the importance-weighted autoencoder: 10^(-i/7) for 3^i epochs, i = 0 to 7; 3,280 in all.

    Args:
        num_epochs: Number of epochs; it does not move the steps.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> [round(burda(3280)(epoch), 3) for epoch in (0, 1, 3, 4, 3279)]
        [1.0, 0.72, 0.72, 0.518, 0.1]
    """
    ends = [sum(3**j for j in range(i + 1)) for i in range(7)]
    return lambda epoch: 10 ** (-sum(epoch >= end for end in ends) / 7)


def _check_warmup(name: str, num_epochs: int, warmup: int) -> None:
    if not 0 <= warmup < num_epochs:
        raise ValueError(f"{name}: warmup is {warmup} epochs, expected at least 0 and less than {num_epochs}")
