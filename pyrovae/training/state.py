"""The course of a training: all that changes in it, as a tree to keep, and back to the bit."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.core.clock import Clock
from pyrovae.core.modules import Program, copy_into, modules_by_name, of_programs
from pyrovae.objectives.base import Objective
from pyrovae.storage.tensors import tree_map
from pyrovae.training.history import History
from pyrovae.training.identity import architecture, attributes, describe_settings
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.optimisers import advance, slow_down
from pyrovae.training.step import TrainStep

__all__ = ["TrainState", "Training"]

MOST_FAILURES = 3
"""Times that a run goes back and slows down before it fails: the rate is an eighth then."""

FAR_OFF = 100
"""Times the first batch's loss that an epoch's may come to be worse by."""


@dataclass
class Training:
    """What a callback sees at the end of an epoch."""

    epoch: int
    history: History
    model: Program
    guide: Program
    optimizer: torch.optim.Optimizer


class TrainState:
    """Where a training is.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        meter: The loss.
        parameters: What is trained.
        optimizer: It steps.
        scheduler: Of its learning rates.
        callbacks: Those that remember something are kept with the rest.
        stepper: Takes the steps.
        generators: Of the loaders, beside the keyed streams.

    Attributes:
        epoch: Whose steps are taken now.
        step: Steps of it that are done.
        rows: Rows that they saw.
        totals: Sums over them of loss, ELBO, reconstruction and KL; where the steps are, since looking at
            them would wait for the device.
        start: The first batch's loss per datum, which divergence is told by.
        failures: Times that it went back.
        stopped: Whether a callback ended it.
        history: Of the epochs before.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *,
        meter: TrackedLoss,
        parameters: list[Tensor],
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None,
        callbacks: Sequence[Callable[..., Any]],
        stepper: TrainStep,
        generators: list[torch.Generator],
    ) -> None:
        self.meter, self.stepper = meter, stepper
        self.optimizer, self.scheduler, self.generators = optimizer, scheduler, generators
        self.parameters = parameters
        self.device = parameters[0].device
        self.remembering = [each for each in callbacks if hasattr(each, "state_dict")]
        self.history = History()
        self.training = Training(0, self.history, model, guide, optimizer)
        self.epoch = self.step = self.rows = self.failures = 0
        self.totals: Tensor | float = 0.0
        self.start: Tensor | float = math.nan
        self.stopped = False
        self._random: dict[str, Any] | None = None  # of a step to go on from
        self._orders = self._orders_now()
        self._good: dict[str, Any] | None = None
        self._began, self._before, self._compiled_before = time.perf_counter(), 0.0, 0.0

    def begin_epoch(self, *, remember: bool) -> None:
        """Make ready for the steps of an epoch; the state at its start may be remembered, to go back to."""
        self.training.epoch = self.epoch
        if not self.step:  # else it goes on amid the epoch
            self._orders = self._orders_now()
            if isinstance(self.meter.objective, Objective):
                self.meter.objective.clock = self.meter.objective.clock._replace(epoch=self.epoch)
        if remember and (self._good is None or not self.step):
            good = {**self._moving(), "position": self._position(), "random": self._random}
            self._good = tree_map(good, torch.clone)

    def take_up_noise(self) -> None:
        """Inside the epoch's stream: draw on from where the steps that are done had come to."""
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            if self._random["cuda"] and torch.cuda.is_initialized():
                torch.cuda.set_rng_state_all(self._random["cuda"][: torch.cuda.device_count()])
            self._random = None

    def count(self, sums: Tensor, rows: int) -> None:
        """Note what a step came to."""
        self.step, self.rows = self.step + 1, self.rows + rows
        self.totals = self.totals + sums
        if isinstance(self.start, float) and math.isnan(self.start):
            self.start = sums[0] / rows
            self._tell_of_idle_parameters()

    def _tell_of_idle_parameters(self) -> None:
        idle = [self.meter.name(each) for each in self.parameters if each.grad is None]
        if idle:
            more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
            warnings.warn(
                f"fit: the loss has no gradient for '{idle[0]}'{more}, which will not change: freeze it by "
                f"requires_grad_(False), or look where it should be used",
                UserWarning,
                stacklevel=4,
            )

    @property
    def elbo(self) -> float:
        """Of the epoch's steps so far, nats per datum."""
        return float(self.totals[1]) / self.rows  # type: ignore[index]

    def means(self, where: str) -> dict[str, float]:
        """What the epoch's steps came to, per datum.

        Raises:
            FloatingPointError: The training diverges: the loss is worse than that of the first batch by a
                hundred times its size (or of 1 nat, if that is more).
        """
        means = (self.totals / self.rows).tolist()  # type: ignore[union-attr]
        self.start = float(self.start)
        if means[0] - self.start > FAR_OFF * max(abs(self.start), 1.0):
            raise FloatingPointError(
                f"fit: the training diverges: the loss of {where} is {means[0]:.4g} nats per datum, and "
                f"{self.start:.4g} at its start: try a smaller learning rate, or clip= for the gradients"
            )
        return dict(zip(("loss", "elbo", "reconstruction", "kl"), means, strict=True))

    def end_epoch(self, row: dict[str, float]) -> None:
        """Add an epoch to the history."""
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.history.compile_seconds = self._compiled_before + self.stepper.graphs.seconds
        self.history.append(epoch=self.epoch, **row, learning_rate=rate, seconds=self._seconds())

    def next_epoch(self) -> None:
        """Go on to the next one."""
        if self.scheduler is not None:
            advance(self.scheduler, self.history)
        self.epoch, self.step, self.rows, self.totals = self.epoch + 1, 0, 0, 0.0
        self._orders, self._good = self._orders_now(), None

    def roll_back(self, error: FloatingPointError) -> None:
        """Go back to what was remembered, with half the learning rate.

        Raises:
            FloatingPointError: It did so often enough.
        """
        if self._good is None or self.failures == MOST_FAILURES:
            raise error
        self.failures += 1
        self._move(self._good)
        self._place(self._good["position"], self._good["random"])
        self._good = None
        self.stepper.forget()
        rate = slow_down(self.optimizer, self.scheduler, 0.5)
        warnings.warn(
            f"{error}; back to epoch {self.epoch}, batch {self.step}, with half the learning rate, "
            f"{rate:.3g} ({self.failures} of {MOST_FAILURES} times)",
            UserWarning,
            stacklevel=3,
        )

    def settings(self) -> dict[str, Any]:
        """What it is a course of, at its start: another would not fit."""
        groups = [
            {"is": "group"}
            | {key: describe_settings(value) for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        scheduler = None
        if self.scheduler is not None:
            makers = describe_settings(getattr(self.scheduler, "lr_lambdas", None))
            scheduler = {"is": type(self.scheduler).__name__, "makers": makers}
            scheduler |= describe_settings(self.scheduler.state_dict())
        return {
            "parts": architecture(self._modules()),
            "weights": {
                name: f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}"
                for name, each in self._weights().items()
            },
            "optimizer": {"is": type(self.optimizer).__name__, "groups": groups},
            "scheduler": scheduler,
        }

    def state(self) -> dict[str, Any]:
        """All of it, as a tree; asked for between two steps, inside the epoch's stream."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {
            **self._moving(),
            "position": self._position(),
            "start": float(self.start),
            "failures": self.failures,
            "stopped": self.stopped,
            "seconds": self._seconds(),
            "history": asdict(self.history),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "orders": self._orders,
            "stepper": self.stepper.state(),
            "good": self._good,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be where the course of this state was.

        Raises:
            ValueError: It is of another model or of other callbacks.
        """
        self._move(state)
        self._orders = state["orders"]
        self._place(state["position"], state["random"])
        self.start, self.failures, self.stopped = state["start"], state["failures"], state["stopped"]
        for name, values in state["history"].items():
            setattr(self.history, name, values)
        self._before, self._began = state["seconds"], time.perf_counter()
        self._compiled_before = self.history.compile_seconds
        self.stepper.restore(state["stepper"])
        self._good = state["good"]

    def _moving(self) -> dict[str, Any]:
        """What steps change."""
        clock = getattr(self.meter.objective, "clock", None)
        return {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "callbacks": [[type(each).__qualname__, each.state_dict()] for each in self.remembering],
            "clock": None if clock is None else [clock.step, clock.epoch],
            "attributes": {name: attributes(each) for name, each in self._holders().items()},
        }

    def _move(self, state: dict[str, Any]) -> None:
        there = [name for name, _ in state["callbacks"]]
        here = [type(each).__qualname__ for each in self.remembering]
        if there != here:
            raise ValueError(
                f"fit: callbacks that remember are {', '.join(there) or 'none'} there and "
                f"{', '.join(here) or 'none'} here: pass the same"
            )
        copy_into(self._weights(), state["weights"], "fit")
        for name, holder in self._holders().items():
            for key, value in state["attributes"].get(name, {}).items():
                if getattr(holder, key, None) != value:
                    setattr(holder, key, value)
        self.optimizer.load_state_dict(tree_map(state["optimizer"], torch.clone))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for callback, (_, kept) in zip(self.remembering, state["callbacks"], strict=True):
            callback.load_state_dict(kept, self.training)  # type: ignore[attr-defined]
        if isinstance(self.meter.objective, Objective) and state["clock"] is not None:
            self.meter.objective.clock = Clock(*state["clock"])

    def _position(self) -> dict[str, Any]:
        """How far it is; the sums as they are, to the bit."""
        totals = self.totals.tolist() if isinstance(self.totals, Tensor) else None
        return {"epoch": self.epoch, "step": self.step, "rows": self.rows, "totals": totals}

    def _place(self, position: dict[str, Any], random: dict[str, Any] | None) -> None:
        """Be there, about to take the next step; loaders start their epoch again."""
        self.epoch, self.step, self.rows = (position[name] for name in ("epoch", "step", "rows"))
        self.totals = 0.0
        if position["totals"] is not None:
            where = torch.device("cpu") if self.device.type == "mps" else self.device
            self.totals = torch.tensor(position["totals"], dtype=torch.float64, device=where)
        self._random = random if self.step else None
        for each, value in zip(self.generators, self._orders, strict=True):
            each.set_state(value)

    def _modules(self) -> dict[str, nn.Module]:
        return modules_by_name(self.training.model, self.training.guide)

    def _holders(self) -> dict[str, Any]:
        """What may hold numbers that a callback, or its own runs, change: a temperature, a count."""
        return {**self._modules(), "loss": self.meter.objective}

    def _weights(self) -> dict[str, Tensor]:
        """As they are now: a module may put another buffer in the place of one."""
        return of_programs(self.training.model, self.training.guide, self.parameters)

    def _orders_now(self) -> list[Tensor]:
        return [each.get_state() for each in self.generators]

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._began
