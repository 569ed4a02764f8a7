"""The runs of a report: what their folders have, and why they lack what they lack."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from pyrovae.core.checks import one_line
from pyrovae.data.split import classes_of
from pyrovae.evaluation.results import Evaluation
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import Run, check_data, read_run
from pyrovae.training.history import History

__all__ = ["ROWS", "LackingError", "Subject", "read"]

ROWS = 1000
"""Of the data, the first ones: what is drawn of codes is of these at most."""


class LackingError(ValueError):
    """A run has not what is asked of it; says why."""


@dataclass(frozen=True)
class Subject:
    """One run of a report. What it lacks raises a :class:`LackingError` where it is asked for.

    Attributes:
        name: How the report calls it.
        folder: Where it is.
        run: Its recipe, and what that met.
        split: Of which data.
        seed: Of whatever is drawn for the report.
        num_samples: Draws per datum of what is measured for it.
        found: By name, what there is of "vae", "data", "history" and "result".
        lacks: By name, why there is not.
    """

    name: str
    folder: Path
    run: Run
    split: str
    seed: int
    num_samples: int
    found: dict[str, Any]
    lacks: dict[str, str]

    @property
    def vae(self) -> Any:
        """The model with its weights."""
        return self._need("vae")

    @property
    def data(self) -> Any:
        """The split."""
        return self._need("data")

    @property
    def history(self) -> History:
        """Of the training."""
        return self._need("history")

    @property
    def result(self) -> Evaluation:
        """What evaluate kept of the split."""
        return self._need("result")

    @property
    def labels(self) -> Any:
        """Classes of the split; None where it has none."""
        return classes_of(self.found.get("data"))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a row."""
        if len(self.run.shape) != 2:
            raise LackingError(f"the data are no grey images, but rows of shape {self.run.shape}")
        return self.run.shape[0], self.run.shape[1]

    def check_result(self) -> None:
        """Refuse to set results beside data of another number of rows."""
        if len(self.result) != len(self.data):
            raise LackingError(
                f"the results are of {len(self.result):,} rows, the data of {len(self.data):,}"
            )

    def _need(self, name: str) -> Any:
        if name in self.lacks:
            raise LackingError(self.lacks[name])
        return self.found[name]


def read(
    runs: Sequence[str | os.PathLike[str]],
    split: str,
    num_samples: int,
    root: str | os.PathLike[str] | None,
    seed: int,
) -> list[Subject]:
    """Read what folders have of their runs; each must have a recipe.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: No folder, or one twice; a recipe that cannot be read.
    """
    folders = [Path(run) for run in runs]
    places = [folder.resolve() for folder in folders]
    if not folders:
        raise ValueError("report: no run given, at least 1 is needed")
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"report: {folder} is given twice: name each run once")
    short = [place.name for place in places]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [
        _read(name, folder, split, num_samples, root, seed)
        for name, folder in zip(names, folders, strict=True)
    ]


def _read(
    name: str, folder: Path, split: str, num_samples: int, root: str | os.PathLike[str] | None, seed: int
) -> Subject:
    run = read_run(folder)
    found: dict[str, Any] = {}
    lacks: dict[str, str] = {}

    def look(what: str, make: Callable[[], Any]) -> None:
        try:
            found[what] = make()
        except (ValueError, OSError, ImportError, RuntimeError, TypeError) as error:
            lacks[what] = one_line(error).rstrip(".")

    look("vae", lambda: _model(folder))
    look("data", lambda: _data(run, split, root))
    look("history", lambda: _history(folder))
    look("result", lambda: _result(folder, split, run))
    return Subject(name, folder, run, split, seed, num_samples, found, lacks)


def _model(folder: Path) -> Any:
    from pyrovae.runs.saving import load

    return load(folder).eval()  # dropout and batch statistics belong to training


def _data(run: Run, split: str, root: str | os.PathLike[str] | None) -> Any:
    from pyrovae.runs.build import load_data

    dataset = load_data(run.recipe, root)
    check_data(run, dataset.fingerprint)
    return getattr(dataset, split)


def _history(folder: Path) -> History:
    path = folder / "history.json"
    if not path.is_file():
        raise LackingError(f"there is no {path.name}, which a run has once its training ends")
    try:
        history = History(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise LackingError(f"{path.name} cannot be read ({one_line(error)})") from error
    if not len(history):
        raise LackingError("no epoch of its training was finished")
    return history


def _result(folder: Path, split: str, run: Run) -> Evaluation:
    path = folder / results_file(split)
    command = f"pyrovae evaluate {quote(str(folder))}" + ("" if split == "test" else f" --split {split}")
    if not path.is_file():
        raise LackingError(f"the run was not evaluated on its {split} data: {command}")
    result = Evaluation.load(path)
    was, now = result.conventions.get("weights", run.weights), run.weights
    if None not in (was, now) and was != now:
        raise LackingError(
            f"the results are of other weights ({was}) than the run has ({now}): evaluate again: {command}"
        )
    return result
