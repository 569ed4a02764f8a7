"""A run as data: what the command line saves and reloads. No torch, so that errors answer at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pyrovae import sources

if TYPE_CHECKING:
    from pyrovae.vae import VAE

__all__ = ["Recipe", "Run", "build", "read_run"]

RECIPE = "recipe.json"


class Recipe(BaseModel):
    """What to train on what, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field("mnist-mini", description=f"Data set: {', '.join(sources.NAMES[:-1])}.")
    binarisation: Literal["dynamic", "static", "threshold"] | None = Field(
        None, description="How grey values become bits; the data set's own way by default."
    )
    latent_dim: int = Field(16, ge=1, description="Width of z.")
    hidden: tuple[int, ...] = Field((400,), description="Hidden widths of encoder and, reversed, decoder.")
    num_epochs: int = Field(80, ge=1, description="Passes over the training data.")
    batch_size: int = Field(128, ge=1, description="Rows per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's.")
    seed: int = Field(0, ge=0, description="Of weights, order and noise.")

    @field_validator("dataset")
    @classmethod
    def _known_and_binary(cls, name: str) -> str:
        if sources.check_name(name) == "linear-gaussian":
            raise ValueError(f"'{name}' is real-valued, and the command line's likelihood is Bernoulli")
        return name

    @field_validator("hidden")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in widths):
            raise ValueError(f"every width must be at least 1, got {widths}")
        return widths


class Run(BaseModel):
    """What ``recipe.json`` holds: the recipe, and what it met."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    recipe: Recipe
    features: int = Field(ge=1)
    shape: tuple[int, ...]
    conventions: dict[str, Any]
    versions: dict[str, str]


def build(recipe: Recipe, features: int) -> VAE:
    """The VAE of a recipe for data of this many features, with fresh weights from torch's generator.

    Example:
        >>> vae = build(Recipe(latent_dim=2, hidden=(8,)), features=9)
        >>> vae.sample(3).shape
        torch.Size([3, 9])
    """
    from pyrovae import guides, likelihoods, networks, priors
    from pyrovae.vae import VAE

    decoder = networks.MLP(recipe.latent_dim, features, hidden=recipe.hidden[::-1])
    encoder = networks.MLP(features, 2 * recipe.latent_dim, hidden=recipe.hidden)
    return VAE(
        prior=priors.StandardNormal(recipe.latent_dim),
        likelihood=likelihoods.Bernoulli(decoder),
        guide=guides.Normal(encoder),
    )


def read_run(folder: Path) -> Run:
    """Read a run folder's ``recipe.json``.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It cannot be read as one.
    """
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {RECIPE}, so no run: train one with `pyrovae train {folder}`")
    try:
        return Run.model_validate(json.loads(path.read_text()))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a recipe this version reads: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An error's message in one line; of a pydantic error, each field with its complaint."""
    if isinstance(error, ValidationError):
        found = ((".".join(map(str, e["loc"])), e["msg"]) for e in error.errors())
        return "; ".join(f"{where}: {what.removeprefix('Value error, ')}" for where, what in found)
    return " ".join(str(error).split()) or type(error).__name__
