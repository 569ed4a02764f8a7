"""Many runs: recipes by a grid over any of their fields, each in a folder of its own. No torch.

``SWEEP.json`` is, for example::

    {
        "recipe": {"num_epochs": 40},
        "grid": {"prior": ["StandardNormal", "VampPrior(pseudo_inputs=200)"], "seed": [0, 1, 2]},
        "evaluate": {"num_samples": 1000}
    }
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyrovae.core.checks import choose, one_line
from pyrovae.runs.folder import MADE, MORE, results_file
from pyrovae.runs.recipe import RECIPE, Recipe, changes, read_run

__all__ = ["BOOKS", "Evaluating", "Planned", "Sweep", "note_of", "planned", "read_sweep", "state_of"]

BOOKS = ".sweep"
"""The folder, beside the runs, of what a sweep needs: a recipe and a log for each, and its lock."""

LONGEST = 48
"""Characters of a value in a run's name."""

LONGEST_NAME = 200
"""Characters of a run's name: file systems take 255, with what the names of its books add."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_others(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            choose("key", str(key), cls.model_fields)
        return given


class Evaluating(_Strict):
    """How each run is evaluated once it is trained: options of ``pyrovae evaluate``."""

    num_samples: int = Field(1000, ge=1)
    split: Literal["train", "validation", "test"] = "test"
    proposal: Literal["auto", "adapted", "refined", "widened", "defensive", "guide"] = "auto"
    target_se: float | None = Field(None, gt=0)
    max_samples: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def file(self) -> str:
        """Where a run has its results."""
        return results_file(self.split)

    def options(self) -> list[str]:
        """As the command line has them."""
        given = self.model_dump(exclude_none=True)
        return [text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", str(value))]


class Sweep(_Strict):
    """What ``SWEEP.json`` holds.

    Attributes:
        recipe: Fields that all runs share; those not named are as by default.
        grid: Fields with their values: a run for each combination, the last field changing first.
        evaluate: How runs are evaluated; not at all if not given.
        cluster: What submitit is to ask the cluster for, such as ``{"timeout_min": 600}``.
    """

    recipe: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    evaluate: Evaluating | None = None
    cluster: dict[str, Any] = {}

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


class Planned(NamedTuple):
    """One run.

    Attributes:
        name: Of its folder.
        recipe: What is trained.
    """

    name: str
    recipe: Recipe


def read_sweep(path: Path) -> Sweep:
    """Read a ``SWEEP.json``.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It holds no sweep; the message says what is wrong, in one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such sweep: name a file of JSON")
    try:
        return Sweep.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a sweep: {one_line(error)}") from error


def planned(sweep: Sweep) -> list[Planned]:
    """Its runs, in the order of the grid: the last field changes first.

    A name has the fields of the grid with their values, in the order that recipes have them, so that more
    values, or another order of the grid, leave it as it is. Where a value cannot stand so in the name of a
    file, a few digits of its hash follow.

    Raises:
        ValueError: A value that its field does not take, or the same twice.

    Example:
        >>> sweep = Sweep(grid={"seed": [0, 1], "prior": ["Laplace", "VampPrior(pseudo_inputs=9)"]})
        >>> for run in planned(sweep):
        ...     print(run.name)
        prior-Laplace_seed-0
        prior-VampPrior-pseudo_inputs-9-d6a136_seed-0
        prior-Laplace_seed-1
        prior-VampPrior-pseudo_inputs-9-d6a136_seed-1
    """
    found: dict[str, Planned] = {}
    for values in product(*sweep.grid.values()):
        point = dict(zip(sweep.grid, values, strict=True))
        try:
            recipe = Recipe.model_validate({**sweep.recipe, **point})
        except ValueError as error:
            where = ", ".join(f"{key} {value}" for key, value in point.items()) or "recipe"
            raise ValueError(f"{where}: {one_line(error)}") from error
        name = _name(recipe, sweep.grid)
        if name in found:
            raise ValueError(f"the grid has {name} twice: take one of its values out")
        found[name] = Planned(name, recipe)
    return list(found.values())


def state_of(
    run: Planned, folder: Path, evaluate: Evaluating | None = None
) -> Literal["new", "begun", "trained", "complete"]:
    """How far a run has come in its folder.

    Args:
        run: Which.
        folder: Of all runs.
        evaluate: How it is to be evaluated: it is complete once it is.

    Raises:
        ValueError: Its folder holds another run, or something else.
    """
    place = folder / run.name
    there = {path.name for path in place.iterdir()} if place.is_dir() else set()
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file: move it, or name another folder for the runs")
    if RECIPE not in there:
        strange = sorted(n for n in there - MADE - MORE if not n.startswith(".") and not n.endswith(".part"))
        if strange:
            raise ValueError(f"{place} holds '{strange[0]}' and no run: move it, or name another folder")
        return "new"
    held = read_run(place)
    if held.recipe != run.recipe:
        different = "; ".join(changes(held.recipe, run.recipe))
        raise ValueError(
            f"{place} holds another run (this sweep has {different}): move it, or name another folder"
        )
    if held.weights is None or not {"weights.safetensors", "history.json"} <= there:
        return "begun"
    if evaluate is None or (
        evaluate.file in there and _evaluated(run, folder) == note_of(evaluate, place / evaluate.file)
    ):
        return "complete"
    return "trained"


def note_of(evaluate: Evaluating, results: Path) -> dict[str, Any]:
    """How results came to be, and the hash of them: of those that another evaluation left it is another."""
    return {**evaluate.model_dump(), "sha256": sha256(results.read_bytes()).hexdigest()}


def _evaluated(run: Planned, folder: Path) -> Any:
    """What the sweep noted of the run's results."""
    try:
        return json.loads((folder / BOOKS / f"{run.name}.evaluated.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _name(recipe: Recipe, grid: Mapping[str, Any]) -> str:
    content = recipe.model_dump(mode="json")
    name = "_".join(_part(key, recipe, content) for key in Recipe.model_fields if key in grid) or "run"
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{_digits(name)}"


def _part(key: str, recipe: Recipe, content: Mapping[str, Any]) -> str:
    """A field's part of a name."""
    value = getattr(recipe, key)
    text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    plain = "-".join(_words(text))[:LONGEST]
    if plain == text:
        return f"{key}-{plain}"
    return f"{key}-{plain}-{_digits(json.dumps(content[key], sort_keys=True))}"


def _digits(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:6]


def _words(text: str) -> Iterator[str]:
    return (each for each in re.split(r"[^A-Za-z0-9_.]+", text) if each)
