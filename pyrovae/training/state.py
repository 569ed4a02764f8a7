"""Training state: everything `fit` changes, as a serialisable tree; restoring it is bit-exact."""

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
from pyrovae.core.modules import Program, copy_into, modules_by_name, modules_of, of_programs
from pyrovae.objectives.base import Objective
from pyrovae.storage.tensors import tree_map
from pyrovae.training.history import History
from pyrovae.training.identity import architecture, attributes, describe_settings
from pyrovae.training.optimisers import advance, slow_down
from pyrovae.training.step import TrainStep

__all__ = ["TrainState", "Training", "settings_of"]

MOST_FAILURES = 3
"""Rollbacks before a run fails; the learning rate is an eighth then."""

FAR_OFF = 100
"""An epoch diverges if its loss exceeds the first batch's by this many times its size, or nats if more."""


@dataclass
class Training:
    """What a callback sees at the end of an epoch."""

    epoch: int
    history: History
    model: Program
    guide: Program
    optimizer: torch.optim.Optimizer


class TrainState:
    """The state of a training between two steps; ``generators`` are those of loaders."""

    def __init__(
        self,
        stepper: TrainStep,
        scheduler: LRScheduler | None,
        callbacks: Sequence[Callable[..., Any]],
        generators: list[torch.Generator],
    ) -> None:
        self.stepper, self.tracked, self.optimizer = stepper, stepper.tracked, stepper.optimizer
        self.scheduler, self.callbacks, self.generators = scheduler, callbacks, generators
        self.device = stepper.parameters[0].device
        self.stateful: list[Any] = [each for each in callbacks if hasattr(each, "state_dict")]
        self.history = History()
        model, guide = self.tracked.model.program, self.tracked.guide.program
        self.training = Training(0, self.history, model, guide, self.optimizer)
        self.modules = modules_of(model, guide)
        self.epoch = self.step = self.rows = 0  # of the epoch: its number, steps taken and rows seen
        self.totals: Tensor | float = 0.0  # its sums of loss, ELBO, reconstruction, KL; on the device
        self.start: Tensor | float = math.nan  # the first batch's loss per datum
        self.failures, self.stopped = 0, False  # number of rollbacks; whether a callback ended the training
        self._random: dict[str, Any] | None = None  # random state of a restored step
        self._orders = self._generator_states()
        self._good: dict[str, Any] | None = None  # to roll back to
        self._began, self._before, self._compiled_before = time.perf_counter(), 0.0, 0.0

    def begin_epoch(self, *, remember: bool) -> None:
        """Prepare for the steps of an epoch; with ``remember`` its start can be rolled back to."""
        self.training.epoch = self.epoch
        if not self.step:  # else the epoch was begun before a restart
            self._orders = self._generator_states()
            if isinstance(self.tracked.objective, Objective):
                self.tracked.objective.clock = self.tracked.objective.clock._replace(epoch=self.epoch)
        if remember and (self._good is None or not self.step):
            good = {**self._changing(), "position": self._position(), "random": self._random}
            self._good = tree_map(good, torch.clone)

    def restore_noise(self) -> None:
        """Inside the epoch's stream, continue the noise of a restored step."""
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            if self._random["cuda"] and torch.cuda.is_initialized():
                torch.cuda.set_rng_state_all(self._random["cuda"][: torch.cuda.device_count()])
            self._random = None

    def count(self, sums: Tensor, rows: int) -> None:
        """Add the sums of a step."""
        self.step, self.rows = self.step + 1, self.rows + rows
        self.totals = self.totals + sums
        if isinstance(self.start, float) and math.isnan(self.start):
            self.start = sums[0] / rows
            _warn_of_idle_parameters(self.stepper)

    @property
    def elbo(self) -> float:
        """The ELBO of the epoch's steps so far, nats per datum."""
        return float(self.totals[1]) / self.rows  # type: ignore[index]

    def means(self, where: str) -> dict[str, float]:
        """Loss, ELBO, reconstruction and KL of the epoch, per datum; a FloatingPointError if it diverges."""
        means = (self.totals / self.rows).tolist()  # type: ignore[union-attr]
        self.start = float(self.start)
        if means[0] - self.start > FAR_OFF * max(abs(self.start), 1.0):
            raise FloatingPointError(
                f"fit: the training diverges: the loss of {where} is {means[0]:.4g} nats per datum, and "
                f"{self.start:.4g} at its start: try a smaller learning rate, or clip= for the gradients"
            )
        return dict(zip(("loss", "elbo", "reconstruction", "kl"), means, strict=True))

    def end_epoch(self, row: dict[str, float]) -> None:
        """Append an epoch to the history."""
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.history.compile_seconds = self._compiled_before + self.stepper.graphs.seconds
        self.history.append(epoch=self.epoch, **row, learning_rate=rate, seconds=self._seconds())

    def next_epoch(self) -> None:
        """Step the schedule, and move to the start of the next epoch."""
        if self.scheduler is not None:
            advance(self.scheduler, self.history)
        self.epoch, self.step, self.rows, self.totals = self.epoch + 1, 0, 0, 0.0
        self._orders, self._good = self._generator_states(), None

    def roll_back(self, error: FloatingPointError) -> None:
        """Return to the remembered state with half the learning rate; raise the error after three times."""
        if self._good is None or self.failures == MOST_FAILURES:
            raise error
        self.failures += 1
        self._restore_changing(self._good)
        self._restore_position(self._good["position"], self._good["random"])
        self._good = None
        self.stepper.forget()
        rate = slow_down(self.optimizer, self.scheduler, 0.5)
        warnings.warn(
            f"{error}; back to epoch {self.epoch}, batch {self.step}, with half the learning rate, "
            f"{rate:.3g} ({self.failures} of {MOST_FAILURES} times)",
            UserWarning,
            stacklevel=3,
        )

    def state(self) -> dict[str, Any]:
        """The whole state as a tree; to be asked for between two steps, inside the epoch's stream."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {
            **self._changing(),
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
        """Take over a state; a ValueError if it is of another model or of other callbacks."""
        self._restore_changing(state)
        self._orders = state["orders"]
        self._restore_position(state["position"], state["random"])
        self.start, self.failures, self.stopped = state["start"], state["failures"], state["stopped"]
        for name, values in state["history"].items():
            setattr(self.history, name, values)
        self._before, self._began = state["seconds"], time.perf_counter()
        self._compiled_before = self.history.compile_seconds
        self.stepper.restore(state["stepper"])
        self._good = state["good"]

    def named_modules(self) -> dict[str, nn.Module]:
        """Every module of model and guide by name."""
        return modules_by_name(self.training.model, self.training.guide)

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, looked up anew: a module may replace one of its buffers."""
        return of_programs(self.training.model, self.training.guide, self.stepper.parameters)

    def _changing(self) -> dict[str, Any]:
        """What steps and callbacks change."""
        clock = getattr(self.tracked.objective, "clock", None)
        return {
            "weights": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "callbacks": [[type(each).__qualname__, each.state_dict()] for each in self.stateful],
            "clock": None if clock is None else [clock.step, clock.epoch],
            "attributes": {name: attributes(each) for name, each in self._with_attributes().items()},
        }

    def _restore_changing(self, state: dict[str, Any]) -> None:
        there = [name for name, _ in state["callbacks"]]
        here = [type(each).__qualname__ for each in self.stateful]
        if there != here:
            raise ValueError(
                f"fit: callbacks that remember are {', '.join(there) or 'none'} there and "
                f"{', '.join(here) or 'none'} here: pass the same"
            )
        copy_into(self.weights(), state["weights"], "fit")
        for name, owner in self._with_attributes().items():
            for key, value in state["attributes"].get(name, {}).items():
                if getattr(owner, key, None) != value:
                    setattr(owner, key, value)
        self.optimizer.load_state_dict(tree_map(state["optimizer"], torch.clone))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for callback, (_, kept) in zip(self.stateful, state["callbacks"], strict=True):
            callback.load_state_dict(kept, self.training)
        if isinstance(self.tracked.objective, Objective) and state["clock"] is not None:
            self.tracked.objective.clock = Clock(*state["clock"])

    def _position(self) -> dict[str, Any]:
        totals = self.totals.tolist() if isinstance(self.totals, Tensor) else None
        return {"epoch": self.epoch, "step": self.step, "rows": self.rows, "totals": totals}

    def _restore_position(self, position: dict[str, Any], random: dict[str, Any] | None) -> None:
        """Be about to take the step after this position; loaders start their epoch again."""
        self.epoch, self.step, self.rows = (position[name] for name in ("epoch", "step", "rows"))
        self.totals = 0.0
        if position["totals"] is not None:
            where = torch.device("cpu") if self.device.type == "mps" else self.device
            self.totals = torch.tensor(position["totals"], dtype=torch.float64, device=where)
        self._random = random if self.step else None
        for each, value in zip(self.generators, self._orders, strict=True):
            each.set_state(value)

    def _with_attributes(self) -> dict[str, Any]:
        """Owners of numbers that a run or a callback may change, such as a temperature or a count."""
        return {**self.named_modules(), "loss": self.tracked.objective}

    def _generator_states(self) -> list[Tensor]:
        return [each.get_state() for each in self.generators]

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._began


def settings_of(state: TrainState) -> dict[str, Any]:
    """Architecture, shapes, optimiser and schedule, which a resumed run must share."""
    groups = [
        {"is": "group"} | {key: describe_settings(value) for key, value in group.items() if key != "params"}
        for group in state.optimizer.param_groups
    ]
    scheduler = None
    if state.scheduler is not None:
        makers = describe_settings(getattr(state.scheduler, "lr_lambdas", None))
        scheduler = {"is": type(state.scheduler).__name__, "makers": makers}
        scheduler |= describe_settings(state.scheduler.state_dict())
    return {
        "parts": architecture(state.named_modules()),
        "weights": {
            name: f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}"
            for name, each in state.weights().items()
        },
        "optimizer": {"is": type(state.optimizer).__name__, "groups": groups},
        "scheduler": scheduler,
    }


def _warn_of_idle_parameters(stepper: TrainStep) -> None:
    idle = [stepper.tracked.name(each) for each in stepper.parameters if each.grad is None]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        warnings.warn(
            f"fit: the loss has no gradient for '{idle[0]}'{more}, which will not change: freeze it by "
            f"requires_grad_(False), or look where it should be used",
            UserWarning,
            stacklevel=4,
        )
