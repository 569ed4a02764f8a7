"""Sweeps: a run for each combination of a grid of recipe fields, each in its own folder. No torch.

``SWEEP.json`` is, for example::

    {
        "recipe": {"num_epochs": 40},
        "grid": {"prior": ["StandardNormal", "VampPrior(pseudo_inputs=200)"], "seed": [0, 1, 2]},
        "evaluate": {"num_samples": 1000}
    }
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from pyrovae.core.checks import choose, one_line
from pyrovae.runs.folder import HISTORY, WEIGHTS, results_file, strange_names
from pyrovae.runs.recipe import RECIPE, Recipe, Strict, changes, read_run
from pyrovae.storage.files import write_file

__all__ = ["LOGS", "Evaluating", "Job", "Sweep", "carry_out", "jobs_of", "planned", "read_sweep", "state_of"]

PROGRAM = (sys.executable, "-m", "pyrovae")

LOGS = ".sweep"
"""Folder, beside the runs, with a recipe, a log and a note of its evaluation for each run."""

LONGEST, LONGEST_NAME = 48, 200
"""Characters of a value in a run's name, and of the name: file systems take 255, with an ending."""


class Evaluating(Strict):
    """How each run is evaluated after training: options of ``pyrovae evaluate``."""

    num_samples: int = Field(1000, ge=1)
    split: Literal["train", "validation", "test"] = "test"
    proposal: Literal["auto", "adapted", "refined", "widened", "defensive", "guide"] = "auto"
    target_se: float | None = Field(None, gt=0)
    max_samples: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    def options(self) -> list[str]:
        """These options as words of the command line."""
        given = self.model_dump(exclude_none=True)
        return [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]

    def note(self, run: Path) -> dict[str, Any]:
        """These options with the hash of the results in a run's folder: another evaluation leaves another."""
        results = (run / results_file(self.split)).read_bytes()
        return {**self.model_dump(), "sha256": sha256(results).hexdigest()}


class Sweep(Strict):
    """The content of ``SWEEP.json``.

    Attributes:
        recipe: Fields that all runs share; other fields have their defaults.
        grid: Fields with their values: a run for each combination, the last field changing first.
        evaluate: How runs are evaluated; not at all if not given.
        cluster: Parameters of submitit for each job, such as ``{"timeout_min": 600}``.
    """

    recipe: dict[str, Any] = Field({})
    grid: dict[str, list[Any]] = Field({})
    evaluate: Evaluating | None = None
    cluster: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _of_fields(self) -> Sweep:
        for key in (*self.recipe, *self.grid):
            choose("field of a recipe", key, Recipe.model_fields)
        for key, values in self.grid.items():
            if key in self.recipe:
                raise ValueError(f"'{key}' is in the recipe and in the grid: keep one")
            if not values:
                raise ValueError(f"grid: '{key}' has no values: give one at least, or leave it out")
        return self


def read_sweep(path: Path) -> Sweep:
    """Read a ``SWEEP.json``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such sweep: name a file of JSON")
    try:
        return Sweep.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not a sweep: {one_line(error)}") from error


def planned(sweep: Sweep) -> dict[str, Recipe]:
    """The recipe of each run by its name, in the order of the grid.

    A name has the grid's fields with their values, in the order of the recipe's fields, so that further
    values do not rename a run. A value that cannot stand in a file's name is followed by digits of its hash.

    Example:
        >>> list(planned(Sweep(grid={"prior": ["Laplace", "VampPrior(pseudo_inputs=9)"], "seed": [0]})))
        ['prior-Laplace_seed-0', 'prior-VampPrior-pseudo_inputs-9-d6a136_seed-0']
    """
    runs: dict[str, Recipe] = {}
    for values in product(*sweep.grid.values()):
        point = dict(zip(sweep.grid, values, strict=True))
        try:
            recipe = Recipe.model_validate({**sweep.recipe, **point})
        except ValueError as error:
            where = ", ".join(f"{key} {value}" for key, value in point.items()) or "recipe"
            raise ValueError(f"{where}: {one_line(error)}") from error
        name = _name(recipe, sweep.grid)
        if name in runs:
            raise ValueError(f"the grid has {name} twice: take one of its values out")
        runs[name] = recipe
    return runs


def _name(recipe: Recipe, grid: Mapping[str, Any]) -> str:
    content, parts = recipe.model_dump(mode="json"), []
    for key in [key for key in Recipe.model_fields if key in grid]:
        value = getattr(recipe, key)
        text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        plain = "-".join(re.findall(r"[A-Za-z0-9_.]+", text))[:LONGEST]
        digits = "" if plain == text else f"-{_digits(json.dumps(content[key], sort_keys=True))}"
        parts.append(f"{key}-{plain}{digits}")
    name = "_".join(parts) or "run"
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{_digits(name)}"


def _digits(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:6]


def state_of(
    folder: Path, recipe: Recipe, evaluate: Evaluating | None = None
) -> Literal["new", "begun", "trained", "complete"]:
    """How far the run in a folder has come; "complete" includes the evaluation, if one is asked for.

    Raises:
        ValueError: The folder holds another run, or something else.
    """
    if not (folder / RECIPE).exists():
        if strange := strange_names(folder):
            raise ValueError(f"{folder} holds '{strange[0]}' and no run: move it, or name another folder")
        return "new"
    run = read_run(folder)
    if run.recipe != recipe:
        raise ValueError(
            f"{folder} holds another run (this sweep has {'; '.join(changes(run.recipe, recipe))}): move it, "
            f"or name another folder"
        )
    if run.weights is None or not all((folder / name).exists() for name in (WEIGHTS, HISTORY)):
        return "begun"
    if evaluate is None:
        return "complete"
    try:
        note = json.loads((folder.parent / LOGS / f"{folder.name}.evaluated.json").read_text())
        return "complete" if note == evaluate.note(folder) else "trained"
    except (OSError, ValueError):
        return "trained"


class Job(NamedTuple):
    """The commands that are left to do for a run, one after another, each in a process of its own."""

    folder: Path
    commands: list[list[str]]
    evaluate: Evaluating | None
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """The file that has what the commands print."""
        return self.folder.parent / LOGS / f"{self.folder.name}.log"

    def run(self) -> int:
        """The exit code of the first command that fails, or 0."""
        for command in self.commands:
            with self.log.open("ab") as log:
                code = subprocess.call(
                    [*PROGRAM, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | self.environment,
                )
            if code:
                return code
        if self.evaluate is not None:
            note = json.dumps(self.evaluate.note(self.folder))
            write_file(self.log.with_name(f"{self.folder.name}.evaluated.json"), note)
        return 0


def jobs_of(sweep: Sweep, folder: Path, root: Path | None, environment: dict[str, str]) -> list[Job]:
    """A job for each run that is not complete."""
    jobs, data = [], [] if root is None else ["--root", str(root.absolute())]
    for name, recipe in planned(sweep).items():
        run, config, commands = folder / name, folder / LOGS / f"{name}.json", []
        state = state_of(run, recipe, sweep.evaluate)
        if state == "complete":
            continue
        if state == "new":
            write_file(config, recipe.model_dump_json(indent=2) + "\n")
            commands.append(["train", str(run), "--config", str(config), *data])
        if state == "begun":
            commands.append(["train", str(run), "--resume", *data])
        if sweep.evaluate is not None:
            commands.append(["evaluate", str(run), *sweep.evaluate.options(), *data])
        jobs.append(Job(run, commands, sweep.evaluate, environment))
    return jobs


def carry_out(jobs: Iterable[Job], executor: Any, report: Callable[[str], None]) -> dict[str, int]:
    """Run jobs by an executor of concurrent.futures or submitit; the exit code of each, by the run's name.

    Ctrl-C cancels the jobs that have not ended. In a terminal it reaches their processes too.
    """
    left, codes = {job.folder.name: executor.submit(job.run) for job in jobs}, dict[str, int]()
    try:
        while left:
            for name in [name for name, each in left.items() if each.done()]:
                try:
                    codes[name] = left.pop(name).result()
                except Exception as error:  # of a cluster: a time limit, memory, a node
                    codes[name] = 1
                    report(f"{name}: {one_line(error)[:200]}")
                report(f"{name}: {'failed' if codes[name] else 'done'}")
            time.sleep(0.1)
    except BaseException:
        for each in left.values():
            each.cancel()
        raise
    return codes
