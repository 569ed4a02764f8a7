"""Run folders of the command line: made sure of, written as training goes on, and described."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from shlex import quote
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from pyrovae.core.launch import is_main_process
from pyrovae.runs.recipe import Recipe, Run, read_run, versions
from pyrovae.storage.files import check_writable, write_file

if TYPE_CHECKING:
    from pyrovae.data.datasets import Dataset
    from pyrovae.models.vae import VAE
    from pyrovae.training.history import History
    from pyrovae.training.state import Training

__all__ = [
    "Keeper",
    "check_folder",
    "continued",
    "describe",
    "prepare",
    "results_file",
]

RUN = {"recipe.json", "weights.safetensors", "history.json", "checkpoints", "model.txt"}
"""What a run is made of, and is gone when it is written over."""

MADE = {"log.jsonl", "logs", "report.html", "samples.npz", "samples.png"}
"""What else is gone likewise, but is no run by itself: a logger that does not start leaves some."""

MORE = {"figures", "lock"}


class Keeper:
    """Writes a run folder: the recipe at the start, weights, history and figures at the end.

    Between the two :func:`pyrovae.fit` keeps its checkpoints there, and they have all of it. Of several
    processes the first one writes.
    """

    def __init__(self, vae: VAE, folder: Path, run: Run) -> None:
        self.vae, self.folder, self.run = vae, folder, run
        self.history: History | None = None
        self.first = True

    def begin(self) -> None:
        """Write the recipe, by which the run can go on; one that is there stays until fit has taken it up."""
        if is_main_process() and not (self.folder / "recipe.json").exists():
            self._write_recipe()

    def __call__(self, training: Training) -> None:
        """After an epoch: what a run that ended, and goes on now, was to be and came to is so no more."""
        if self.first and is_main_process():
            self.first = False
            (self.folder / "weights.safetensors").unlink(missing_ok=True)
            self._write_recipe()

    def interrupted(self) -> str:
        """What is kept, and how to go on."""
        from pyrovae.storage.checkpoints import CHECKPOINTS, Checkpoints

        state = Checkpoints(self.folder / CHECKPOINTS).newest()
        if state is None:
            self.forget()
            return "interrupted before anything could be kept"
        epochs, steps = state["position"]["epoch"], state["position"]["step"]
        self._write_history(state["history"])
        return (
            f"interrupted: {epochs} epochs and {steps} steps are in {self.folder}: go on with "
            f"pyrovae train {quote(str(self.folder))} --resume"
        )

    def forget(self) -> None:
        """Take the recipe back, where nothing came of it."""
        if is_main_process() and not (self.folder / "checkpoints").exists():
            (self.folder / "recipe.json").unlink(missing_ok=True)

    def _write_recipe(self) -> None:
        write_file(self.folder / "recipe.json", self.run.model_dump_json(indent=2) + "\n")

    def _write_history(self, history: dict[str, Any]) -> None:
        write_file(self.folder / "history.json", dumps(history, indent=1) + "\n")

    def finish(self) -> list[Path]:
        """Write weights and history; the run's files."""
        from pyrovae.runs.saving import save

        save(self.vae, self.folder, self.run)
        if self.history is not None:
            self._write_history(asdict(self.history))
        written = ("recipe.json", "weights.safetensors", "history.json")
        return [path for name in written if (path := self.folder / name).exists()]


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a run can be written here, before anything is computed; what is written over goes."""
    check_folder(folder)
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {"lock"}
    if there & RUN and not overwrite:
        raise ValueError(
            f"{folder} holds a run already: go on with it by --resume, name another folder, or pass "
            f"--overwrite"
        )
    strange = sorted(there - RUN - MADE - MORE)
    if strange and not there & RUN and not overwrite:
        raise ValueError(
            f"{folder} holds '{strange[0]}' and no run: name another folder, or pass --overwrite to write "
            f"beside it"
        )
    gone = [*(folder / name for name in (RUN | MADE) & there), *folder.glob("evaluation*")]
    gone += folder.glob("figures/*.png") if there & RUN else []
    for path in gone:
        if path.is_dir():
            rmtree(path)
        else:
            path.unlink()


def check_folder(folder: Path) -> None:
    """Make sure that there is a folder that can be written to."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)


def continued(folder: Path, recipe: Recipe, default: Recipe) -> Run:
    """The run of a folder, to go on with: to more epochs, if the recipe that was given says so.

    Args:
        folder: Of the run.
        recipe: What was given; what is as by default counts as not given.
        default: The recipe of who gives nothing.

    Raises:
        ValueError: Something else was given; the differences are listed.
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
    """The name of the file of a split's per-datum results, in a run's folder."""
    return "evaluation.nc" if split == "test" else f"evaluation_{split}.nc"


def describe(recipe: Recipe, dataset: Dataset, features: int) -> Run:
    """What ``recipe.json`` is to hold."""
    return Run(
        recipe=recipe,
        features=features,
        shape=dataset.train.shape,
        conventions=dataset.train.conventions,
        fingerprint=dataset.fingerprint,
        versions=versions(recipe),
    )
