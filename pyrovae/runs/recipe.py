"""A run as data: what the command line saves and reloads. No torch, so that errors answer at once."""

from __future__ import annotations

import json
from importlib.metadata import distributions, version
from pathlib import Path
from platform import python_version
from shlex import quote
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
"""Of ``recipe.json``. 1 had no parts, and no fingerprint of the data; it is read still."""


class Strict(BaseModel):
    """Frozen, and a key that it does not know is refused, with the one that was probably meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_others(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            choose("key", str(key), cls.model_fields)
        return given


class Recipe(Strict):
    """What to train on what, and how.

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
    """Of what kind each part is: under what the registry knows its names."""

    dataset: str = Field("mnist-mini", description=f"Data set: {', '.join(DATASETS)}.")
    binarisation: Literal["dynamic", "static", "threshold", "none"] | None = Field(
        None, description="How grey values become bits; the data set's own way by default."
    )
    dequantise: bool = Field(False, description="Grey levels with uniform noise, for a continuous density.")
    prior: PartSpec = Field(PartSpec("StandardNormal"), description="p(z); as all parts, see pyrovae list.")
    likelihood: PartSpec = Field(PartSpec("Bernoulli"), description="p(x|z).")
    guide: PartSpec = Field(PartSpec("Normal"), description="q(z|x).")
    encoder: PartSpec = Field(PartSpec("MLP"), description="The guide's network.")
    decoder: PartSpec = Field(PartSpec("MLP"), description="The likelihood's network.")
    latent_dim: int = Field(16, ge=1, description="Width of z.")
    hidden: tuple[int, ...] = Field((400,), description="Hidden widths of encoder and, reversed, decoder.")
    objective: PartSpec = Field(PartSpec("Trace_ELBO"), description="What is maximised.")
    optimizer: PartSpec = Field(PartSpec("Adam"), description="One of torch's.")
    learning_rate: float = Field(1e-3, gt=0, description="The optimizer's.")
    schedule: PartSpec = Field(PartSpec("constant"), description="Of the learning rate, by epoch.")
    num_epochs: int = Field(80, ge=1, description="Passes over the training data.")
    batch_size: int = Field(128, ge=1, description="Rows per step.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Of products in the networks."
    )
    compile: bool = Field(False, description="Take the steps through a compiled graph.")
    seed: int = Field(0, ge=0, description="Of weights, order and noise.")

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        return registry.canonical("datasets", name)

    @field_validator(*kinds)
    @classmethod
    def _registered(cls, part: PartSpec, info: Any) -> PartSpec:
        return part.canonical(cls.kinds[info.field_name])

    @field_validator("hidden")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in widths):
            raise ValueError(f"every width must be at least 1, got {widths}")
        return widths

    @model_validator(mode="after")
    def _fitting(self) -> Recipe:
        if self.dataset == "linear-gaussian" and self.likelihood.name == "Bernoulli":
            raise ValueError(
                "'linear-gaussian' is real-valued, and Bernoulli of bits: pass likelihood Normal"
            )
        return self


class Run(Strict):
    """What ``recipe.json`` holds: the recipe, and what it met."""

    format: int = FORMAT
    recipe: Recipe
    features: int = Field(ge=1)
    shape: tuple[int, ...]
    conventions: dict[str, Any]
    fingerprint: str | None = Field(None, description="Of the data's stored values, every split.")
    weights: str | None = Field(None, description="Hash of what was trained, as results have it; at the end.")
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
    """Read a run folder's ``recipe.json``.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It cannot be read as one.
    """
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {RECIPE}, so no run: train one with `pyrovae train {quote(str(folder))}`"
        )
    return _read(path, lambda content: Run.model_validate(content))


def read_config(path: Path) -> Recipe | Run:
    """Read a recipe to train by: a run folder, its ``recipe.json``, or a recipe alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no recipe.
    """
    path = Path(path)
    if path.is_dir():
        return read_run(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe")
    is_run = {"recipe", "format"}
    return _read(
        path,
        lambda content: (
            Run.model_validate(content)
            if isinstance(content, dict) and is_run & content.keys()
            else Recipe.model_validate(content)
        ),
    )


def changes(before: Recipe, now: Recipe) -> list[str]:
    """What is another in the second recipe, in words.

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
    """Refuse to go on with other data than a run's."""
    if run.fingerprint not in (None, fingerprint):
        raise ValueError(
            f"data set {run.recipe.dataset}: its fingerprint was {run.fingerprint} when the run was trained, "
            f"and is {fingerprint} now: put the files in place that it was trained on, or train anew"
        )


def notes(config: Recipe | Run, recipe: Recipe, fingerprint: str) -> list[str]:
    """What sets a training by another's recipe apart from that one, in words.

    Raises:
        ValueError: The data are others.
    """
    before = config.recipe if isinstance(config, Run) else config
    said = changes(before, recipe)
    if isinstance(config, Run):
        names = ("dataset", "binarisation", "dequantise")
        if all(getattr(before, name) == getattr(recipe, name) for name in names):
            check_data(config, fingerprint)
        here = versions(recipe)
        for name in sorted({*config.versions, *here}):
            was, now = config.versions.get(name, "none"), here.get(name, "none")
            if was != now:
                said.append(f"{name} {now} in place of {was}, so that bits may differ")
    return said


def versions(recipe: Recipe) -> dict[str, str]:
    """Of what a run is trained with: Python, this package and its main ones, and those that parts are of."""
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
    """Packages that a run was trained with and that are not here."""
    named = content.get("versions") if isinstance(content, dict) else None
    known = {each.metadata["Name"] for each in distributions()} | {"python"} if named else set()
    there = [f"{name} {each}" for name, each in named.items() if name not in known] if named else []
    return ", ".join(there)
