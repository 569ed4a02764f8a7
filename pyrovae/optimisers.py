"""The optimiser and the schedule of fit: made if they must be, checked, and slowed down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyrovae.history import History
from pyrovae.metering import Meter

__all__ = ["MakeOptimizer", "MakeScheduler", "advance", "make_optimizer", "make_scheduler", "slow_down"]

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]


def make_optimizer(
    optimizer: torch.optim.Optimizer | MakeOptimizer | None, parameters: list[Tensor], meter: Meter
) -> torch.optim.Optimizer:
    """The optimiser, made if it must be, and sure to move every parameter."""
    if isinstance(optimizer, PyroOptim):
        raise TypeError(
            "fit: optimizer is one of Pyro's: pass torch's, such as torch.optim.Adam(vae.parameters()), "
            "or a function of the list of parameters"
        )
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=1e-3, fused=_fusible(parameters))
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
    """The schedule of an optimiser, if there is one.

    Raises:
        TypeError: It is no function that makes one of torch's.
    """
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
    """Step a schedule at an epoch's end; one that waits for a plateau is told minus the latest ELBO."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(-(history.validation_elbo or history.elbo)[-1])
    else:
        scheduler.step()


def slow_down(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None, factor: float) -> float:
    """Multiply every learning rate, and what a schedule makes them of; the first one's new value."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * factor
    for each in _schedulers(scheduler):
        if hasattr(each, "base_lrs"):
            each.base_lrs = [rate * factor for rate in each.base_lrs]
    return float(optimizer.param_groups[0]["lr"])


def _schedulers(scheduler: Any) -> Iterator[Any]:
    """A schedule and those that it is made of."""
    if scheduler is not None:
        yield scheduler
        for each in getattr(scheduler, "_schedulers", ()):
            yield from _schedulers(each)


def _fusible(parameters: list[Tensor]) -> bool:
    """Whether torch has one kernel for the whole step."""
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters)
