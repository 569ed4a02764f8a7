"""Run folders of the command line: made sure of, written as training goes on, and described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from shlex import quote
from shutil import rmtree
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrovae.durable import check_writable, write_file
from pyrovae.ranks import speaks
from pyrovae.recipes import Recipe, Run, one_line, read_run, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrovae.datasets import Dataset
    from pyrovae.training import History, Training
    from pyrovae.vae import VAE

__all__ = [
    "Keeper",
    "Kept",
    "check_folder",
    "check_writable",
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

PLANES = ("StandardNormal", "Normal", "Laplace", "StudentT", "GaussianMixture", "VampPrior")
"""Priors over all reals: of the others a plane of the normal's quantiles says nothing."""


class Kept(NamedTuple):
    """What a finished run left in its folder.

    Attributes:
        files: Of the run.
        figures: By name, their files.
        without: By name, why a figure was not drawn.
    """

    files: list[Path]
    figures: dict[str, Path]
    without: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.files[0].parent}: {', '.join(path.name for path in self.files)}"]
        lines += [f"figure: {path}" for path in self.figures.values()]
        for why in dict.fromkeys(
            self.without.values()
        ):  # data that are no images lack several for one reason
            lines.append(
                f"no figure {', '.join(name for name in self.without if self.without[name] == why)}: {why}"
            )
        return "\n".join(lines)


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
        if speaks() and not (self.folder / "recipe.json").exists():
            self._write_recipe()

    def __call__(self, training: Training) -> None:
        """After an epoch: what a run that ended, and goes on now, was to be and came to is so no more."""
        if self.first and speaks():
            self.first = False
            (self.folder / "weights.safetensors").unlink(missing_ok=True)
            self._write_recipe()

    def interrupted(self) -> str:
        """What is kept, and how to go on."""
        from pyrovae.checkpoints import CHECKPOINTS, Checkpoints

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
        if speaks() and not (self.folder / "checkpoints").exists():
            (self.folder / "recipe.json").unlink(missing_ok=True)

    def _write_recipe(self) -> None:
        write_file(self.folder / "recipe.json", self.run.model_dump_json(indent=2) + "\n")

    def _write_history(self, history: dict[str, Any]) -> None:
        write_file(self.folder / "history.json", dumps(history, indent=1) + "\n")

    def finish(self, dataset: Dataset) -> Kept:
        """Write weights and history, draw the figures, and tell where everything is."""
        from pyrovae.checkpoints import save

        save(self.vae, self.folder, self.run)
        if self.history is not None:
            self._write_history(asdict(self.history))
        folder = self.folder / "figures"
        folder.mkdir(exist_ok=True)
        written = ("recipe.json", "weights.safetensors", "history.json")
        figures, without = {}, {}
        for name, draw in self._figures(dataset).items():
            try:
                draw().savefig(path := folder / f"{name}.png", dpi=150, bbox_inches="tight")
            except (ValueError, RuntimeError, TypeError) as error:  # no images, or no means in closed form
                without[name] = one_line(error)
            else:
                figures[name] = path
        files = [path for name in written if (path := self.folder / name).exists()]
        return Kept(files, figures, without)

    def _figures(self, dataset: Dataset) -> dict[str, Callable[[], Figure]]:
        from pyrovae import plots
        from pyrovae.streams import stream

        vae, test, shape, history = self.vae, dataset.test, dataset.test.shape, self.history

        def samples() -> Figure:
            with stream("figures", self.run.recipe.seed):
                return plots.samples(vae, shape)

        figures = {
            "reconstructions": lambda: plots.reconstructions(vae, test[:12], shape),
            "samples": samples,
            "interpolation": lambda: plots.interpolation(vae, test[:4], test[4:8], shape),
        }
        if history is not None:
            figures = {"learning_curves": lambda: plots.learning_curves(history), **figures}
        if self.run.recipe.latent_dim == 2 and self.run.recipe.prior.name in PLANES:
            figures["latent_plane"] = lambda: plots.latent_plane(vae, shape)
        return figures


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
