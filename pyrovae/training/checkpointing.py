"""When checkpoints are written, and whether a resumed run matches the one on disk."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyrovae.core.checks import diff_settings
from pyrovae.core.distributed import check_shared, collective, is_first, world
from pyrovae.core.signals import Interrupts, noticed
from pyrovae.storage.checkpoints import CHECKPOINTS, Checkpoints
from pyrovae.storage.files import check_writable, sweep
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import flatten
from pyrovae.training.state import TrainState

__all__ = ["CheckpointPolicy", "checkpoint_policy"]

MOST = 12
"""Most differences that an error lists."""

SHARE = 0.05
"""Largest share of the time that checkpoints after short epochs take."""


@contextmanager
def checkpoint_policy(
    folder: str | os.PathLike[str] | None, every: float
) -> Iterator[CheckpointPolicy | None]:
    """Lock a folder for a run's checkpoints, and defer Ctrl-C and SIGTERM; None for no folder."""
    if folder is None:
        yield None
        return
    if not every >= 0:
        raise ValueError(f"fit: checkpoint_every is {every}: seconds, 0 or more")
    folder = Path(folder).absolute()
    checkpoints: Checkpoints | None = None
    with ExitStack() as stack:
        with collective():
            if is_first():
                _make(folder)
                checkpoints = Checkpoints(folder / CHECKPOINTS)
                stack.enter_context(locked(folder / "lock"))
        interrupts = stack.enter_context(noticed(shared=world().size > 1))
        check_shared(folder)
        with collective():
            if is_first():
                sweep(folder, "weights.safetensors", "history.json", "recipe.json")
                sweep(folder / CHECKPOINTS)
        with collective():
            checkpoints = checkpoints or Checkpoints(folder / CHECKPOINTS)
        yield CheckpointPolicy(checkpoints, every, interrupts)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder} cannot be made ({error.strerror}): name another folder") from error
    check_writable(folder)


class CheckpointPolicy:
    """Write checkpoints amid an epoch after so many seconds, and at its end more often if that is cheap.

    A checkpoint at the end of an epoch follows the last one after ``every`` seconds, or after twenty times
    what writing takes if that is less: short epochs cost a twentieth, and long ones lose nothing. After the
    step in which a signal came the run is saved and left.
    """

    def __init__(self, checkpoints: Checkpoints, every: float, interrupts: Interrupts) -> None:
        self.checkpoints, self.every, self.interrupts = checkpoints, every, interrupts
        self.run: dict[str, Any] = {}
        self.latest, self.cost = time.monotonic(), 0.0
        self.kept: tuple[int, ...] | None = None
        self._warned: set[str] = set()

    def take_up(
        self, state: TrainState, settings: dict[str, Any], environment: dict[str, Any], num_epochs: int
    ) -> None:
        """Restore the newest checkpoint, if any; one of other settings or of more epochs is refused."""
        self.run = flatten({"said": settings, "environment": environment})[0]  # as it is read back
        flatten(state.state())
        stored, folder = self.checkpoints.newest(), self.checkpoints.folder.parent
        if stored is None:
            return
        there = stored["run"]["said"]
        if there["compile"] == "auto":  # of earlier versions, which decided by the time of the first steps
            there["compile"] = stored["stepper"]["compile"] = self.run["said"]["compile"]
        different = diff_settings(there, self.run["said"])
        if different:
            more = f" and {len(different) - MOST} more" if len(different) > MOST else ""
            raise ValueError(
                f"fit: {folder} holds another run: {'; '.join(different[:MOST])}{more}: name another folder, "
                f"or set these back"
            )
        epochs = stored["position"]["epoch"]
        if epochs > num_epochs:
            raise ValueError(
                f"fit: {folder} has {epochs} epochs already, and num_epochs is {num_epochs}: ask for as many "
                f"at least, or name another folder"
            )
        different = diff_settings(stored["run"]["environment"], self.run["environment"])
        if different:
            warnings.warn(
                f"fit: {folder} goes on elsewhere ({'; '.join(different)}): bits may differ from those of a "
                f"run that was not interrupted",
                UserWarning,
                stacklevel=4,
            )
        state.restore(stored)
        self.kept = _moment(state)

    def after_step(self, state: TrainState) -> None:
        """Save the state if it is time; leave if a signal came."""
        if self.interrupts.caught is not None:
            self.leave(state)
        if time.monotonic() - self.latest >= self.every:
            self.save(state)

    def after_epoch(self, state: TrainState, *, last: bool) -> None:
        """Save the state if it is time, and at the end; leave if a signal came."""
        if last or time.monotonic() - self.latest >= min(self.every, self.cost / SHARE):
            self.save(state)
        if self.interrupts.caught is not None:
            self.leave(state)

    def leave(self, state: TrainState) -> None:
        """Save the state, and raise what the signal asks for."""
        self.save(state)
        self.interrupts.look()

    def save(self, state: TrainState) -> None:
        """Write a checkpoint on the first process, unless this step has one; a full disk is a warning."""
        if self.kept == _moment(state) or not is_first():
            return
        state.stepper.finish()
        started = time.monotonic()
        scores = state.history.validation_elbo
        score = scores[-1] if scores and not state.step else None
        try:
            self.checkpoints.add(state.state() | {"run": self.run}, score)
            self.kept = _moment(state)
        except OSError as error:
            message = (
                f"fit: no checkpoint could be written in {self.checkpoints.folder} "
                f"({error.strerror or error}): those before are as they were, and training goes on: make room"
            )
            if message not in self._warned:
                self._warned.add(message)
                warnings.warn(message, UserWarning, stacklevel=4)
        self.latest = time.monotonic()
        self.cost = self.latest - started


def _moment(state: TrainState) -> tuple[int, ...]:
    return state.failures, state.epoch, state.step
