"""What the explorer's page may ask, and the answers: dictionaries of numbers, texts and tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.ndimage import center_of_mass, find_objects, shift
from torch import Tensor
from torch.nn.functional import interpolate

from pyrovae.core.random import stream
from pyrovae.core.supports import kind_of
from pyrovae.core.tables import counted, transformations
from pyrovae.core.wrap import as_pyro, support_of
from pyrovae.data.split import Split, classes_of
from pyrovae.evaluation.diagnostics.active_units import ACTIVE
from pyrovae.evaluation.diagnostics.codes import principal_axes
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.evaluation.weights import FEWEST_DRAWS
from pyrovae.models.vae import VAE
from pyrovae.runs.build import load_data
from pyrovae.runs.recipe import Run, check_data, read_run
from pyrovae.runs.saving import load

__all__ = ["QUESTIONS", "Explorer", "StoppedError", "as_datum", "moments", "open_run"]

MOST_SAMPLES, MOST_NUMBERS = 10_000, 16_384  # draws of an evaluation; numbers in a latent or a datum
ROWS, BATCH = 600, 200  # test data whose codes are shown; how many are encoded at once
DRAWS = 1000  # draws of the prior for the sliders' ends, and of what has no moments in closed form
COLUMNS = ("log_evidence", "standard_error", "elbo", "elbo_error", "reconstruction", "kl", "ess", "khat")


class Question(BaseModel):
    """A question of the page; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**31)


class Code(Question):
    """A latent, z."""

    z: list[Annotated[float, Field(ge=-1e4, le=1e4)]] = Field(min_length=1, max_length=MOST_NUMBERS)


class Datum(Question):
    """A row of the test split, or an image in grey values from 0, black, to 1, white."""

    row: int | None = Field(None, ge=0)
    pixels: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(None, max_length=MOST_NUMBERS)
    fit: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> Datum:
        if (self.row is None) == (self.pixels is None):
            raise ValueError("pass a row of the test split, or pixels, and not both")
        return self


class Evaluated(Datum):
    """A datum, and how to estimate its log p(x), with the options of ``pyrovae evaluate``."""

    num_samples: int = Field(1000, ge=1, le=MOST_SAMPLES)
    proposal: Literal["guide", "auto", "adapted", "refined", "widened", "defensive"] = "guide"


QUESTIONS: dict[str, type[Question]]
QUESTIONS = {"decode": Code, "draw": Question, "encode": Datum, "evaluate": Evaluated}
"""Questions by the method of :class:`Explorer` that answers them."""


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Explorer:
    """A run and its answers. ``stop``, set from another thread, ends an evaluation at its next model run."""

    run: Run
    vae: VAE
    test: Split
    about: dict[str, Any]
    stop: Event = field(default_factory=Event)

    @torch.no_grad()
    def decode(self, question: Code) -> dict[str, Any]:
        """The mean of p(x | z)."""
        shape, z = as_pyro(self.vae.prior()).event_shape, torch.tensor(question.z)
        if len(z) != shape.numel():
            raise ValueError(f"z has {len(z):,} numbers, expected {shape.numel():,}")
        if not self.about["is_real"]:
            raise ValueError(f"the latents are {self.about['kind']}: draw them from the prior")
        return {"mean": moments(self.vae.decode(z.reshape(shape))).mean.flatten()}

    @torch.no_grad()
    def draw(self, question: Question) -> dict[str, Any]:
        """A draw of the prior, and the mean of p(x | z) there."""
        with stream("explore, a draw of the prior", question.seed):
            z = as_pyro(self.vae.prior()).sample()
        return {"z": z.flatten(), "mean": moments(self.vae.decode(z)).mean.flatten()}

    @torch.no_grad()
    def encode(self, question: Datum) -> dict[str, Any]:
        """A datum, q(z | x), and the mean of p(x | z) at the mean of q."""
        datum, notes, label = self._datum(question)
        x = datum[0][None]
        q = moments(self.vae.encode(x))
        if q.drawn:
            notes.append(f"moments of q(z|x) by {DRAWS:,} draws: it has none in closed form")
        z = q.mean.reshape(1, *as_pyro(self.vae.prior()).event_shape)
        reconstruction = moments(self.vae.decode(z)).mean[0]
        answer = {"x": x[0].flatten(), "label": label, "notes": notes, "reconstruction": reconstruction}
        return answer | {"loc": q.mean[0], "scale": q.scale[0]}

    def evaluate(self, question: Evaluated) -> dict[str, Any]:
        """Log p(x) with its error, the ELBO, and how reliable they are; StoppedError if ``stop`` is set."""
        model, guide, datum = self.vae.model, self.vae.guide, self._datum(question)[0]
        options: dict[str, Any] = question.model_dump(include={"num_samples", "seed"})
        options["proposal"] = None if question.proposal == "guide" else question.proposal
        hook = model.register_forward_pre_hook(self._look)
        try:
            found = evaluate(model, guide, datum, **options, progress=False)
        finally:
            hook.remove()
        summary = found.summary()
        khat = summary["khat"] or {f"unknown: k-hat needs {FEWEST_DRAWS} draws": 1}
        return {
            **{name: getattr(found, name).item() for name in COLUMNS},
            "num_samples": found.num_samples,
            "reliability": next(name for name, rows in khat.items() if rows),
            "threshold": found.khat_threshold.item(),
            "proposal": found.conventions.get("proposal", "guide"),
            "conventions": transformations(found.conventions),
            "error_is_known": found.num_samples > 1 and not summary["ess"]["untold"],
        }

    def _look(self, *_: Any) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _datum(self, question: Datum) -> tuple[Split, list[str], int | None]:
        """A split of one row, what was done to it, and its class, if it has one."""
        if question.pixels is not None:
            return *as_datum(question, self.run.shape, self.run.conventions), None
        row = question.row or 0
        if row >= len(self.test):
            raise ValueError(f"row {row:,}: the test split has rows 0 to {len(self.test) - 1:,}")
        with self.test.drawing("explore, a row", question.seed, row):
            x = self.test[[row]]  # once: what is redrawn is evaluated as it is shown
        split = Split(x, shape=self.test.shape, conventions=self.test.conventions)
        labels = classes_of(self.test)
        return split, transformations(split.conventions), None if labels is None else int(labels[row])


def open_run(folder: Path, root: str | os.PathLike[str] | None = None) -> Explorer:
    """Load a run with its model and its test data; ValueError for other data than it was trained on."""
    run, vae = read_run(folder), load(folder).eval()
    dataset, recipe = load_data(run.recipe, root), run.recipe
    check_data(run, dataset.fingerprint)
    about = {
        "name": folder.resolve().name,
        "data": f"{recipe.dataset}: {', '.join(transformations(run.conventions))}".rstrip(": "),
        "parts": f"prior {recipe.prior}, likelihood {recipe.likelihood}, guide {recipe.guide}, "
        f"{recipe.objective}, {counted(recipe.num_epochs, 'epoch')}",
        "shape": list(run.shape),
        "is_image": len(run.shape) == 2,
        "takes_drawings": _takes_drawings(run.shape, run.conventions),
        "rows": len(dataset.test),
        "most_samples": MOST_SAMPLES,
        **_space(vae, dataset.test),
    }
    return Explorer(run, vae, dataset.test, about)


@torch.no_grad()
def _space(vae: VAE, test: Split) -> dict[str, Any]:
    """Where the codes of test data are, the two axes of the plane, and how far the sliders go."""
    rows = torch.linspace(0, len(test) - 1, min(ROWS, len(test))).round().long()
    codes = torch.cat([moments(vae.encode(test[some])).mean for some in rows.split(BATCH)])
    prior, labels, dim = as_pyro(vae.prior()), classes_of(test), codes.shape[1]
    with stream("explore, how far the prior goes"):
        draws = prior.sample((DRAWS,)).reshape(DRAWS, -1).to(codes.dtype)
    seen, variances = torch.cat([draws, codes]), codes.var(0, correction=0)
    centre, (axes, shares) = codes.mean(0), principal_axes(codes)
    if dim <= 2:  # the plane is latent space itself
        centre, axes = codes.new_zeros(dim), torch.eye(2, dim, dtype=codes.dtype)
    support = support_of(prior)
    kind = "real values" if support is None else kind_of(support)
    return {
        "kind": kind,
        "is_real": kind == "real values",
        "shown": rows,
        "labels": None if labels is None else labels[rows],
        "points": (codes - centre) @ axes.T,
        "order": variances.argsort(descending=True, stable=True),
        "active": int((variances > ACTIVE).sum()),
        "low": seen.amin(0),
        "high": seen.amax(0),
        "centre": centre,
        "axes": axes,
        "shares": shares,
    }


class Moments(NamedTuple):
    """Mean and standard deviation, each with its event flattened, and whether draws gave them."""

    mean: Tensor
    scale: Tensor
    drawn: bool


@torch.no_grad()
def moments(distribution: Any) -> Moments:
    """Mean and standard deviation in closed form, or of draws where there is none.

    Example:
        >>> from pyro.distributions import Normal
        >>> moments(Normal(torch.zeros(3), 2.0).to_event(1))
        Moments(mean=tensor([0., 0., 0.]), scale=tensor([2., 2., 2.]), drawn=False)
    """
    distribution = as_pyro(distribution)
    try:
        mean, scale, drawn = distribution.mean, distribution.variance.sqrt(), False
    except (NotImplementedError, AttributeError):
        with stream("explore, moments"):
            draws = distribution.sample((DRAWS,)).to(torch.get_default_dtype())
        mean, scale, drawn = draws.mean(0), draws.std(0), True
    batch = distribution.batch_shape
    return Moments(mean.reshape(*batch, -1), scale.reshape(*batch, -1), drawn)


def _takes_drawings(shape: tuple[int, ...], conventions: Mapping[str, Any]) -> bool:
    return len(shape) == 2 and conventions.get("values") in ("{0, 1}", "[0, 1]", "(0, 1)")


def as_datum(image: Datum, shape: tuple[int, ...], conventions: Mapping[str, Any]) -> tuple[Split, list[str]]:
    """An image as a split of one row, made as the data set's rows were, and what was done in words.

    Example:
        >>> conventions = {"values": "{0, 1}", "binarisation": "threshold"}
        >>> split, notes = as_datum(Datum(pixels=[0.0, 0.9, 0.6, 0.2]), (2, 2), conventions)
        >>> split[:1], notes
        (tensor([[0., 1., 1., 0.]]), ['bits: 1 above 1/2'])
    """
    pixels, seed = image.pixels or [], image.seed
    if not _takes_drawings(shape, conventions):
        raise ValueError("the run's data are no grey images: choose a row of its test split")
    height, width = shape
    if len(pixels) != height * width:
        raise ValueError(f"{len(pixels):,} pixels, expected {height * width:,}: {height} rows of {width}")
    if not any(pixels):
        raise ValueError("the image is black all over: draw something in white")
    grey, notes = torch.tensor(pixels).reshape(height, width), []
    if image.fit:
        grey = fitted(grey)
        notes.append("scaled to MNIST's box, its centre of mass moved to the middle")
    levels = (255 * grey).round().to(torch.uint8).reshape(1, -1)
    threshold = conventions.get("binarisation") == "threshold"
    bits, noise = conventions["values"] == "{0, 1}", conventions.get("dequantisation") == "uniform"
    if threshold:
        levels = 255 * (levels > 127).to(torch.uint8)
        notes.append("bits: 1 above 1/2")
    elif bits:
        notes.append(f"bits drawn with the grey values as probabilities, seed {seed}")
    else:
        notes.append("256 grey levels" + (f" with uniform noise, seed {seed}" if noise else ""))
    made = Split(levels, scale=255, redraw=bits and not threshold, dequantise=noise, seed=seed)
    kept = ("binarisation", "dequantisation", "values", "levels")
    own = {"dataset": "an image of one's own"} | {k: conventions[k] for k in kept if k in conventions}
    return Split(made[:1], shape=shape, conventions=own), notes


def fitted(image: Tensor) -> Tensor:
    """What is not black, scaled to a box of 20 by 20 in 28 by 28 with its centre of mass in the middle.

    LeCun et al. made MNIST's digits so, 1998.

    Example:
        >>> image = torch.zeros(28, 28)
        >>> image[3:13, 5:10] = 1.0
        >>> [(int(places.min()), int(places.max())) for places in (fitted(image) > 0.5).nonzero().T]
        [(4, 23), (9, 18)]
    """
    box = image[find_objects((image > 0).int().numpy())[0]]
    scale = 20 / 28 * min(image.shape) / max(box.shape)
    size = [max(round(scale * length), 1) for length in box.shape]
    placed = torch.zeros_like(image)
    placed[: size[0], : size[1]] = interpolate(
        box[None, None], size=size, mode="bilinear", antialias=True
    ).clamp(0, 1)
    place = center_of_mass(placed.numpy())
    offset = [round((length - 1) / 2 - at) for length, at in zip(image.shape, place, strict=True)]
    return torch.from_numpy(shift(placed.numpy(), offset, order=0))
