"""Run folders: prepared, written while training goes on, described, saved and loaded.

Torch is imported where it is needed, so that the command line's errors answer at once.
"""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from pyrovae.runs.recipe import RECIPE, Recipe, Run, read_run, versions
from pyrovae.storage.files import check_writable

if TYPE_CHECKING:
    from pyrovae.data.datasets import Dataset

__all__ = [
    "check_folder",
    "continued",
    "describe",
    "prepare",
    "results_file",
    "strange_names",
]

WEIGHTS, HISTORY, CHECKPOINTS = "weights.safetensors", "history.json", "checkpoints"

MODEL = "model.txt"
"""The classes of the model, beside weights that have no recipe."""

RUN = {RECIPE, WEIGHTS, HISTORY, CHECKPOINTS, MODEL}
"""The files that make a folder a run; `prepare` deletes them when the run is overwritten."""

MADE = {"log.jsonl", "logs", "report.html", "samples.npz", "samples.png"}
"""Further files that `prepare` deletes; alone they make no run, since a failed logger may leave some."""


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Check that a run can be written into a folder, and delete the run that is to be overwritten.

    Raises:
        ValueError: The folder holds a run, or files of something else, and `overwrite` is False.
    """
    check_folder(folder)
    names = {path.name for path in folder.iterdir()}
    if names & RUN and not overwrite:
        raise ValueError(
            f"{folder} holds a run already: go on with it by --resume, name another folder, or pass "
            f"--overwrite"
        )
    strange = strange_names(folder)
    if strange and not names & RUN and not overwrite:
        raise ValueError(
            f"{folder} holds '{strange[0]}' and no run: name another folder, or pass --overwrite to write "
            f"beside it"
        )
    old = [*(folder / name for name in (RUN | MADE) & names), *folder.glob("evaluation*")]
    old += folder.glob("figures/*.png") if names & RUN else []
    for path in old:
        if path.is_dir():
            rmtree(path)
        else:
            path.unlink()


def strange_names(folder: Path) -> list[str]:
    """The files in a folder that no run makes, without hidden ones and those left half written by a kill."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    ours = RUN | MADE | {"figures", "lock"}
    return sorted(name for name in names - ours if not name.startswith(".") and not name.endswith(".part"))


def check_folder(folder: Path) -> None:
    """Make a folder if it is missing, and refuse one that cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)


def continued(folder: Path, recipe: Recipe, default: Recipe) -> Run:
    """The run to resume in a folder, with the number of epochs of `recipe` if that is given.

    A field of `recipe` counts as given if it differs from `default`.

    Raises:
        ValueError: Another field is given and differs from the run's; the differences are listed.
    """
    run = read_run(folder)
    there, here, usual = (each.model_dump(mode="json") for each in (run.recipe, recipe, default))
    given = {name: value for name, value in here.items() if value not in (usual[name], there[name])}
    more = {"num_epochs": given.pop("num_epochs")} if "num_epochs" in given else {}
    if given:
        different = [f"{name} is {there[name]} there and {value} here" for name, value in given.items()]
        raise ValueError(
            f"{folder}: the run's recipe is another: {'; '.join(different)}: leave these out, or name "
            f"another folder"
        )
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=more)})


def results_file(split: str) -> str:
    """The file, in a run's folder, of a split's per-datum results."""
    return "evaluation.nc" if split == "test" else f"evaluation_{split}.nc"


def describe(recipe: Recipe, dataset: Dataset, features: int) -> Run:
    """The content of ``recipe.json`` before training."""
    return Run(
        recipe=recipe,
        features=features,
        shape=dataset.train.shape,
        conventions=dataset.train.conventions,
        fingerprint=dataset.fingerprint,
        versions=versions(recipe),
    )
