"""Run folders of the command line: made sure of, written as training goes on, and described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from pyrovae.recipes import Recipe, Run, one_line, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrovae.datasets import Dataset
    from pyrovae.training import History, Training
    from pyrovae.vae import VAE

__all__ = ["Keeper", "check_writable", "describe", "prepare"]


PLANES = ("StandardNormal", "Normal", "Laplace", "StudentT", "GaussianMixture", "VampPrior")
"""Priors over all reals: of the others a plane of the normal's quantiles says nothing."""


class Keeper:
    """Writes a run folder: weights and history after each epoch, figures at the end."""

    def __init__(self, vae: VAE, folder: Path, run: Run) -> None:
        self.vae, self.folder, self.run = vae, folder, run
        self.history: History | None = None

    @property
    def epochs(self) -> int:
        """How many there were."""
        return 0 if self.history is None else len(self.history)

    def __call__(self, training: Training) -> None:
        """Save; the callback of :func:`pyrovae.fit`."""
        self.history = training.history
        self.save()

    def save(self) -> None:
        """Write weights, recipe and history."""
        from pyrovae.checkpoints import save, write_text

        save(self.vae, self.folder, self.run)
        if self.history is not None:
            write_text(self.folder / "history.json", dumps(asdict(self.history), indent=1) + "\n")

    def finish(self, dataset: Dataset) -> None:
        """Draw the figures and say where everything is."""
        folder = self.folder / "figures"
        folder.mkdir(exist_ok=True)
        written = ("recipe.json", "weights.safetensors", "history.json")
        print(f"{self.folder}: {', '.join(name for name in written if (self.folder / name).exists())}")
        for name, draw in self._figures(dataset).items():
            try:
                draw().savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            except (ValueError, RuntimeError, TypeError) as error:  # no images, or no means in closed form
                print(f"no figure {name}: {one_line(error)}")
            else:
                print(f"figure: {folder / name}.png")

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


def prepare(folder: Path, overwrite: bool) -> None:
    """Make sure that a run can be written here, before anything is computed."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    files = ("recipe.json", "weights.safetensors")
    if any((folder / name).exists() for name in files) and not overwrite:
        raise ValueError(f"{folder} holds a run already: name another folder, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to."""
    probe = folder / ".writable"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error


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
