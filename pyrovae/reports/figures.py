"""Figures of a trained run, as files in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from pyrovae.core.checks import one_line
from pyrovae.core.random import stream
from pyrovae.data.datasets import Dataset
from pyrovae.models.vae import VAE
from pyrovae.reports import plots
from pyrovae.runs.recipe import Recipe
from pyrovae.training.history import History

__all__ = ["draw_figures", "has_plane"]

REAL = ("StandardNormal", "Normal", "Laplace", "StudentT", "GaussianMixture", "VampPrior")
"""Priors over all real values: a plane at the quantiles of a normal makes sense for them."""


def draw_figures(
    vae: VAE, dataset: Dataset, recipe: Recipe, history: History, folder: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Draw a run's figures into a folder: by name the files, and by name why a figure is missing."""
    folder.mkdir(exist_ok=True)
    figures, missing = {}, {}
    for name, draw in _figures(vae, dataset, recipe, history).items():
        try:
            with stream("figures", recipe.seed):
                draw().savefig(path := folder / f"{name}.png", dpi=150, bbox_inches="tight")
        except (ValueError, RuntimeError, TypeError) as error:  # no images, or no mean in closed form
            missing[name] = one_line(error)
        else:
            figures[name] = path
    return figures, missing


def has_plane(recipe: Recipe) -> bool:
    """Whether the latent space is a plane that :func:`pyrovae.plots.latent_plane` can draw."""
    return recipe.latent_dim == 2 and recipe.prior.name in REAL


def _figures(vae: VAE, dataset: Dataset, recipe: Recipe, history: History) -> dict[str, Callable[[], Figure]]:
    test, shape = dataset.test, dataset.test.shape
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": lambda: plots.learning_curves(history),
        "reconstructions": lambda: plots.reconstructions(vae, test[:12], shape),
        "samples": lambda: plots.samples(vae, shape),
        "interpolation": lambda: plots.interpolation(vae, test[:4], test[4:8], shape),
    }
    if has_plane(recipe):
        figures["latent_plane"] = lambda: plots.latent_plane(vae, shape)
    return figures
