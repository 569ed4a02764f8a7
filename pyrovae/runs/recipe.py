"""Recipes and runs as data, and the ``recipe.json`` that holds them. No torch: errors answer at once."""

from __future__ import annotations

import json
from importlib.metadata import distributions, version
from pathlib import Path
from platform import python_version
from shlex import quote
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from pyrovae.core import registry
from pyrovae.core.checks import choose, one_line
from pyrovae.core.registry import DATASETS
from pyrovae.runs.named import PartSpec

__all__ = [
    "FORMAT",
    "RECIPE",
    "Recipe",
    "Run",
    "Strict",
    "changes",
    "check_data",
    "notes",
    "read_config",
    "read_run",
    "versions",
]

RECIPE = "recipe.json"
FORMAT = 2
"""Format of ``recipe.json``. Format 1, without parts and without the data's fingerprint, is still read."""


class Strict(BaseModel):
    """A frozen model that refuses an unknown key, and names the key that was probably meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_others(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            choose("key", str(key), cls.model_fields)
        return given


class Recipe(Strict):
    """What to train on which data, and how.

    Example:
        >>> recipe = Recipe(prior="VampPrior(pseudo_inputs=200)", latent_dim=8)
        >>> recipe.prior.name, recipe.num_epochs
        ('VampPrior', 80)
    """

    kinds: ClassVar[dict[str, str]] = {
        "prior": "priors",
        "likelihood": "likelihoods",
        "guide": "guides",
        "encoder": "networks",
        "decoder": "networks",
        "objective": "objectives",
        "optimizer": "optimizers",
        "schedule": "schedules",
    }
    """The registry's kind of each part."""

    dataset: str = Field("mnist-mini", description=f"Data set: {', '.join(DATASETS)}.")
    binarisation: Literal["dynamic", "static", "threshold", "none"] | None = Field(
        None, description="How grey values become bits; by default as the data set defines."
    )
    dequantise: bool = Field(False, description="Add uniform noise to grey levels, for a continuous density.")
    prior: PartSpec = Field(
        PartSpec("StandardNormal"), description="p(z); `pyrovae list` has the names of all parts."
    )
    likelihood: PartSpec = Field(PartSpec("Bernoulli"), description="p(x|z).")
    guide: PartSpec = Field(PartSpec("Normal"), description="q(z|x).")
    encoder: PartSpec = Field(PartSpec("MLP"), description="The guide's network.")
    decoder: PartSpec = Field(PartSpec("MLP"), description="The likelihood's network.")
    latent_dim: int = Field(16, ge=1, description="Number of latent variables, dim(z).")
    hidden: tuple[PositiveInt, ...] = Field(
        (400,), description="Widths of the encoder's hidden layers, and in reverse the decoder's."
    )
    objective: PartSpec = Field(PartSpec("Trace_ELBO"), description="Objective that is maximised.")
    optimizer: PartSpec = Field(PartSpec("Adam"), description="Optimizer of torch.optim.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the optimizer.")
    schedule: PartSpec = Field(PartSpec("constant"), description="Schedule of the learning rate, by epoch.")
    num_epochs: int = Field(80, ge=1, description="Passes over the training data.")
    batch_size: int = Field(128, ge=1, description="Rows per step.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Precision of the networks' matrix products."
    )
    compile: bool = Field(False, description="Take the steps through a compiled graph.")
    seed: int = Field(0, ge=0, description="Seed of weights, order and noise.")

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        return registry.canonical("datasets", name)

    @field_validator(*kinds)
    @classmethod
    def _registered(cls, part: PartSpec, info: Any) -> PartSpec:
        return part.canonical(cls.kinds[info.field_name])

    @model_validator(mode="after")
    def _fitting(self) -> Recipe:
        if self.dataset == "linear-gaussian" and self.likelihood.name == "Bernoulli":
            raise ValueError(
                "'linear-gaussian' is real-valued, and Bernoulli of bits: pass likelihood Normal"
            )
        return self


class Run(Strict):
    """The content of ``recipe.json``: a recipe, its data and its result."""

    format: int = FORMAT
    recipe: Recipe
    features: int = Field(ge=1)
    shape: tuple[int, ...]
    conventions: dict[str, Any]
    fingerprint: str | None = Field(None, description="Hash of the data's stored values, every split.")
    weights: str | None = Field(None, description="Hash of the trained weights, which results have too.")
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if isinstance(form := given.get("format"), int) and form > FORMAT:
            raise ValueError(
                f"format {form}, and this version of pyrovae reads up to {FORMAT}: install a newer pyrovae"
            )
        return {**given, "format": FORMAT}


def read_run(folder: Path) -> Run:
    """Read a run folder's ``recipe.json``; errors are one line."""
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {RECIPE}, so no run: train one with `pyrovae train {quote(str(folder))}`"
        )
    return _read(path, Run.model_validate)


def read_config(path: Path) -> Recipe | Run:
    """Read a recipe to train by: a run folder, its ``recipe.json``, or a recipe alone."""
    path = Path(path)
    if path.is_dir():
        return read_run(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe")

    def either(content: Any) -> Recipe | Run:
        is_run = isinstance(content, dict) and {"recipe", "format"} & content.keys()
        return Run.model_validate(content) if is_run else Recipe.model_validate(content)

    return _read(path, either)


def changes(before: Recipe, now: Recipe) -> list[str]:
    """What differs in the second recipe, in words.

    Example:
        >>> changes(Recipe(), Recipe(seed=3, prior="Laplace"))
        ['prior Laplace in place of StandardNormal', 'seed 3 in place of 0']
    """
    return [
        f"{name} {getattr(now, name)} in place of {getattr(before, name)}"
        for name in Recipe.model_fields
        if getattr(now, name) != getattr(before, name)
    ]


def check_data(run: Run, fingerprint: str) -> None:
    """Refuse data that differ from those a run was trained on."""
    if run.fingerprint not in (None, fingerprint):
        raise ValueError(
            f"data set {run.recipe.dataset}: its fingerprint was {run.fingerprint} when the run was trained, "
            f"and is {fingerprint} now: put the files in place that it was trained on, or train anew"
        )


def notes(config: Recipe | Run, recipe: Recipe, fingerprint: str) -> list[str]:
    """What differs between a training and the recipe or run that it repeats, in words.

    Raises:
        ValueError: The data differ.
    """
    before = config.recipe if isinstance(config, Run) else config
    lines = changes(before, recipe)
    if isinstance(config, Run):
        names = ("dataset", "binarisation", "dequantise")
        if all(getattr(before, name) == getattr(recipe, name) for name in names):
            check_data(config, fingerprint)
        here = versions(recipe)
        for name in sorted({*config.versions, *here}):
            was, now = config.versions.get(name, "none"), here.get(name, "none")
            if was != now:
                lines.append(f"{name} {now} in place of {was}, so that bits may differ")
    return lines


def versions(recipe: Recipe) -> dict[str, str]:
    """Versions of Python, this package, those it is built on, and those that provide the parts."""
    found = {"python": python_version()}
    found |= {name: version(name) for name in ("pyrovae", "torch", "pyro-ppl", "numpy")}
    parts = [("datasets", recipe.dataset)]
    for field, kind in recipe.kinds.items():
        parts += getattr(recipe, field).names(kind)
    return found | dict(package for package in map(registry.package_of, *zip(*parts, strict=True)) if package)


def _read(path: Path, make: Any) -> Any:
    content = None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return make(content)
    except (ValueError, RecursionError) as error:  # of JSON, of its characters, of the recipe
        lacking = _lacking(content)
        mend = f"; it was trained with {lacking}, which is not installed here" if lacking else ""
        raise ValueError(f"{path}: not a recipe this version reads: {one_line(error)}{mend}") from error


def _lacking(content: Any) -> str:
    """Packages that a run was trained with and that are not installed."""
    used = content.get("versions") if isinstance(content, dict) else None
    known = {each.metadata["Name"] for each in distributions()} | {"python"} if used else set()
    return ", ".join(f"{name} {each}" for name, each in (used or {}).items() if name not in known)
