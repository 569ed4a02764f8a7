"""When a training is kept in its folder, and whether it is the same one that goes on there."""

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
from pyrovae.storage import files as durable
from pyrovae.storage.checkpoints import CHECKPOINTS, Checkpoints
from pyrovae.storage.files import check_writable
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import flatten
from pyrovae.training.state import TrainState

__all__ = ["CheckpointPolicy", "keeping"]

MOST = 12
"""Differences that are listed: another network has as many as it has layers."""

SHARE = 0.05
"""Of the time, at most, goes into keeping what short epochs gave."""


@contextmanager
def keeping(folder: str | os.PathLike[str] | None, every: float) -> Iterator[CheckpointPolicy | None]:
    """Keep a training in a folder meanwhile: locked, swept, and with Ctrl-C and SIGTERM noticed.

    Args:
        folder: Made if it is not there; None keeps nothing.
        every: Seconds.

    Raises:
        OSError: It cannot be written, or another process is at work in it.
        ValueError: It holds something else; a negative time.
    """
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
                durable.sweep(folder, "weights.safetensors", "history.json", "recipe.json")
                durable.sweep(folder / CHECKPOINTS)
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
    """Keeps a course: amid an epoch every so many seconds, at an epoch's end more often if that is cheap.

    At the end of an epoch it is kept where the time since it last was is ``every``, or twenty times what
    keeping takes, whichever is less: short epochs cost a twentieth, and long ones lose nothing.

    Args:
        checkpoints: Where.
        every: Seconds.
        interrupts: After the step at which one came it is kept, and left.
    """

    def __init__(self, checkpoints: Checkpoints, every: float, interrupts: Interrupts) -> None:
        self.checkpoints, self.every, self.interrupts = checkpoints, every, interrupts
        self.said: dict[str, Any] = {}
        self.latest, self.cost = time.monotonic(), 0.0
        self.kept: tuple[int, ...] | None = None
        self._warned: set[str] = set()

    def take_up(
        self, course: TrainState, said: dict[str, Any], environment: dict[str, Any], num_epochs: int
    ) -> None:
        """Bring the course to where the folder's is, if it holds one.

        Args:
            course: At its start.
            said: What the run is of.
            environment: What it runs on.
            num_epochs: To come to.

        Raises:
            ValueError: The folder's is of something else (the differences are listed), or further on.
            TypeError: The course holds what cannot be kept.
        """
        self.said = flatten({"said": said, "environment": environment})[0]  # as it is read back
        flatten(course.state())
        state = self.checkpoints.newest()
        if state is None:
            return
        folder = self.checkpoints.folder.parent
        there = state["run"]["said"]
        if there["compile"] == "auto":  # of earlier versions, which decided by the time of the first steps
            there["compile"] = state["stepper"]["compile"] = self.said["said"]["compile"]
        different = diff_settings(there, self.said["said"])
        if different:
            more = f" and {len(different) - MOST} more" if len(different) > MOST else ""
            raise ValueError(
                f"fit: {folder} holds another run: {'; '.join(different[:MOST])}{more}: name another folder, "
                f"or set these back"
            )
        epochs = state["position"]["epoch"]
        if epochs > num_epochs:
            raise ValueError(
                f"fit: {folder} has {epochs} epochs already, and num_epochs is {num_epochs}: ask for as many "
                f"at least, or name another folder"
            )
        different = diff_settings(state["run"]["environment"], self.said["environment"])
        if different:
            warnings.warn(
                f"fit: {folder} goes on elsewhere ({'; '.join(different)}): bits may differ from those of a "
                f"run that was not interrupted",
                UserWarning,
                stacklevel=4,
            )
        course.restore(state)
        self.kept = _moment(course)

    def after_step(self, course: TrainState) -> None:
        """Keep the course if it is time; leave if a signal came."""
        if self.interrupts.caught is not None:
            self.leave(course)
        if time.monotonic() - self.latest >= self.every:
            self.keep(course)

    def after_epoch(self, course: TrainState, *, last: bool) -> None:
        """Keep the course if it is time, and at the end; leave if a signal came."""
        if last or time.monotonic() - self.latest >= min(self.every, self.cost / SHARE):
            self.keep(course)
        if self.interrupts.caught is not None:
            self.leave(course)

    def leave(self, course: TrainState) -> None:
        """Keep the course, and raise what the signal asks for."""
        self.keep(course)
        self.interrupts.look()

    def keep(self, course: TrainState) -> None:
        """Write a checkpoint, unless this moment has one; a full disk is a warning, and training goes on.

        Of several processes the first one writes.
        """
        if self.kept == _moment(course) or not is_first():
            return
        course.stepper.finish()
        started = time.monotonic()
        scores = course.history.validation_elbo
        try:
            self.checkpoints.add(
                course.state() | {"run": self.said}, scores[-1] if scores and not course.step else None
            )
            self.kept = _moment(course)
        except OSError as error:
            self._warn(
                f"fit: no checkpoint could be written in {self.checkpoints.folder} "
                f"({error.strerror or error}): those before are as they were, and training goes on: make room"
            )
        self.latest = time.monotonic()
        self.cost = self.latest - started

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=4)


def _moment(course: TrainState) -> tuple[int, ...]:
    return course.failures, course.epoch, course.step
