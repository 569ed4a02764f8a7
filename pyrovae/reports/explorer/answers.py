"""What the page shows, computed: everything here is the library's own, made into JSON."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

from pyrovae.core.random import stream
from pyrovae.core.tables import counted, transformations
from pyrovae.core.wrap import as_pyro
from pyrovae.data.split import Split, classes_of
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.evaluation.results import FEWEST_TOLD
from pyrovae.evaluation.weights import FEWEST_DRAWS, khat_threshold
from pyrovae.models.vae import VAE
from pyrovae.reports.explorer.asked import MOST_SAMPLES, Code, Datum, Draw, Evaluated
from pyrovae.reports.explorer.drawings import as_datum, takes_drawings
from pyrovae.reports.explorer.latents import Space, moments, space_of
from pyrovae.runs.build import load_data
from pyrovae.runs.recipe import Run, check_data, read_run
from pyrovae.runs.saving import load

__all__ = ["Explored", "StoppedError", "explored", "word_for"]

SHOWN = ("log_evidence", "standard_error", "elbo", "elbo_error", "reconstruction", "kl", "ess", "khat")
"""Columns of a result that the page shows."""


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Explored:
    """A run that is looked at.

    Attributes:
        name: Of its folder.
        run: What it is.
        vae: Its model, in evaluation mode.
        test: The test split.
        space: Its latents.
        stop: Set from another thread, it ends an evaluation at its next run of the model.
    """

    name: str
    run: Run
    vae: VAE
    test: Split
    space: Space
    stop: Event = field(default_factory=Event)

    def about(self) -> dict[str, Any]:
        """What the page is laid out by."""
        recipe, space, shape = self.run.recipe, self.space, self.run.shape
        order = space.variances.argsort(descending=True, stable=True)
        labels = classes_of(self.test)
        parts = [f"prior {recipe.prior}", f"likelihood {recipe.likelihood}", f"guide {recipe.guide}"]
        return {
            "name": self.name,
            "data": f"{recipe.dataset}: {', '.join(transformations(self.run.conventions))}".rstrip(": "),
            "parts": f"{', '.join(parts)}, {recipe.objective}, {counted(recipe.num_epochs, 'epoch')}",
            "shape": list(shape),
            "is_image": len(shape) == 2,
            "takes_drawings": takes_drawings(shape, self.run.conventions),
            "rows": len(self.test),
            "most_samples": MOST_SAMPLES,
            "kind": space.kind,
            "is_real": space.kind == "real values",
            "shown": space.rows.tolist(),
            "labels": None if labels is None else labels[space.rows].tolist(),
            "points": _numbers((space.codes - space.centre) @ space.axes.T),
            "order": order.tolist(),
            "active": space.active,
            "low": _numbers(space.low),
            "high": _numbers(space.high),
            "centre": _numbers(space.centre),
            "axes": _numbers(space.axes),
            "shares": _numbers(space.shares),
        }

    @torch.no_grad()
    def decode(self, asked: Code) -> dict[str, Any]:
        """The mean of p(x | z).

        Raises:
            ValueError: Another width of z, or a z that the prior never gives.
        """
        prior = as_pyro(self.vae.prior())
        z = torch.tensor(asked.z)
        if len(z) != prior.event_shape.numel():
            raise ValueError(f"z has {len(z):,} numbers, expected {prior.event_shape.numel():,}")
        if self.space.kind != "real values":
            raise ValueError(f"the latents are {self.space.kind}: draw them from the prior")
        return self._mean_of(z.reshape(prior.event_shape))

    @torch.no_grad()
    def draw(self, asked: Draw) -> dict[str, Any]:
        """A draw of the prior, and the mean of p(x | z) there."""
        with stream("explore, a draw of the prior", asked.seed):
            z = as_pyro(self.vae.prior()).sample()
        return {"z": _numbers(z.flatten()), **self._mean_of(z)}

    @torch.no_grad()
    def encode(self, asked: Datum) -> dict[str, Any]:
        """A datum, q(z | x), and the mean of p(x | z) at the mean of q."""
        datum, said, label = self._datum(asked)
        x = datum[0][None]
        q = moments(self.vae.encode(x))
        z = q.mean.reshape(1, *as_pyro(self.vae.prior()).event_shape)
        p = moments(self.vae.decode(z))
        if q.drawn:
            said.append("moments of q(z|x) by 1,000 draws: it has none in closed form")
        return {
            "x": _numbers(x[0].flatten()),
            "label": label,
            "said": said,
            "loc": _numbers(q.mean[0]),
            "scale": _numbers(q.scale[0]),
            "reconstruction": _numbers(p.mean[0]),
        }

    def evaluate(self, asked: Evaluated) -> dict[str, Any]:
        """Log p(x) with its error, the ELBO, and how far they can be believed: :func:`pyrovae.evaluate`.

        Raises:
            StoppedError: ``stop`` was set.
        """
        datum, _, _ = self._datum(asked)
        stopping = self.vae.model.register_forward_pre_hook(self._look)
        try:
            found = evaluate(
                self.vae.model,
                self.vae.guide,
                datum,
                num_samples=asked.num_samples,
                proposal=None if asked.proposal == "guide" else asked.proposal,
                seed=asked.seed,
                progress=False,
            )
        finally:
            stopping.remove()
        khat = found.khat.item()
        return {
            **{name: _number(getattr(found, name).item()) for name in SHOWN},
            "num_samples": found.num_samples,
            "word": word_for(khat, found.num_samples),
            "threshold": _number(khat_threshold(found.num_samples)),
            "proposal": found.conventions.get("proposal", "guide"),
            "conventions": transformations(found.conventions),
            "error_is_told": found.ess.item() >= FEWEST_TOLD,
        }

    def _datum(self, asked: Datum) -> tuple[Split, list[str], int | None]:
        """A split of one row, what was done to it, and its class, if it has one."""
        if asked.pixels is not None:
            split, said = as_datum(
                asked.pixels, self.run.shape, self.run.conventions, fit=asked.fit, seed=asked.seed
            )
            return split, said, None
        assert asked.row is not None
        if asked.row >= len(self.test):
            raise ValueError(f"row {asked.row:,}: the test split has rows 0 to {len(self.test) - 1:,}")
        labels = classes_of(self.test)
        label = None if labels is None else int(labels[asked.row])
        with self.test.drawing("explore, a row", asked.seed, asked.row):
            x = self.test[[asked.row]]  # once: what is redrawn is evaluated as it is shown
        said = transformations(self.test.conventions)
        return Split(x, shape=self.test.shape, conventions=self.test.conventions), said, label

    def _look(self, *_: Any) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _mean_of(self, z: Tensor) -> dict[str, Any]:
        p = moments(self.vae.decode(z))
        return {"mean": _numbers(p.mean.flatten()), "drawn": p.drawn}


def explored(folder: Path, root: str | os.PathLike[str] | None = None) -> Explored:
    """Load a run, its model and its test data.

    Args:
        folder: Of the run.
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.

    Raises:
        FileNotFoundError: There is no run, or there are no data.
        ValueError: It is damaged, or the data are others than it was trained on.
    """
    run = read_run(folder)
    vae = load(folder).eval()
    dataset = load_data(run.recipe, root)
    check_data(run, dataset.fingerprint)
    return Explored(folder.resolve().name, run, vae, dataset.test, space_of(vae, dataset.test))


def word_for(khat: float, num_samples: int) -> str:
    """How far log p(x) can be believed by its k-hat; see :func:`pyrovae.pareto_khat`.

    Example:
        >>> [word_for(khat, 1000) for khat in (0.3, 0.8, 1.2, float("nan"))]
        ['reliable', 'doubtful', 'useless', 'unknown: k-hat needs 25 draws']
    """
    if math.isnan(khat):
        return f"unknown: k-hat needs {FEWEST_DRAWS} draws"
    if khat > 1:
        return "useless"
    return "reliable" if khat < khat_threshold(num_samples) else "doubtful"


def _numbers(values: Tensor) -> list[Any]:
    """As nested lists; JSON has no inf and no nan, so that these are words."""
    if values.dim() > 1:
        return [_numbers(row) for row in values]
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
