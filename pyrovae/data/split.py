"""Split: rows of a data set, drawn anew where they are, with the conventions of their log p(x)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import data

from pyrovae.core.random import generator
from pyrovae.data import dequantise as dequantisation

__all__ = ["Index", "Rows", "Split", "classes_of"]

Index = int | slice | list[int] | Tensor

PIECE = 4096
"""Rows that are looked at together, where they are not all in memory."""


class Rows(Protocol):
    """What a Split takes in the place of a tensor: rows that come from the disk when they are asked for.

    :class:`pyrovae.datasets.Shards` and :class:`pyrovae.datasets.ImageRows` are such.
    """

    @property
    def shape(self) -> torch.Size:
        """``[n, d]``."""

    @property
    def device(self) -> torch.device:
        """Where the rows are once they are read."""

    @property
    def fingerprint(self) -> str:
        """A hash of all values."""

    def __len__(self) -> int:
        """N rows."""

    def __getitem__(self, index: Any) -> Any:
        """Some of them, as a tensor has them."""


class Split(data.Dataset[Tensor]):
    """Rows ``[n, d]`` of one split, ready for a likelihood: ``split[:128]`` is a float tensor.

    Args:
        values: ``[n, d]``: probabilities or binary values as uint8 out of ``scale``, or floats; or what
            reads such rows from the disk, see :class:`~pyrovae.data.split.Rows`.
        scale: What a value is divided by: 255 for 8-bit images.
        redraw: Each access draws anew, from a stream that belongs to the split (see
            :meth:`drawing`): bits, of which the values are the probabilities, or with ``dequantise``
            the noise.
        dequantise: Values are whole numbers 0 to ``scale``, and rows are them with uniform noise,
            ``(value + u) / (scale + 1)``, strictly within (0, 1). Without ``redraw`` the noise is
            drawn once, here. The conventions say so.
        seed: Of what is drawn.
        labels: ``[n]`` classes, where there are any; what else belongs to a row, ``[n, ...]``, is only kept.
        shape: Shape of one row as an image, where it is one.
        conventions: What a log p(x) of these data has to carry. Rows and dims are added.

    Raises:
        ValueError: ``dequantise``, and a value is no whole number from 0 to ``scale``, or the scale is
            not one of 1 to 255. Rows on the disk that would be dequantised once: nothing keeps their noise.

    Example:
        >>> split = Split(torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8), scale=255)
        >>> len(split), split[:1]
        (2, tensor([[0., 1.]]))
    """

    def __init__(
        self,
        values: Tensor | Rows,
        *,
        scale: float = 1.0,
        redraw: bool = False,
        dequantise: bool = False,
        seed: int = 0,
        labels: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        conventions: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if isinstance(values[:0], tuple):
            raise ValueError(
                "Split: rows with labels are pairs: pass Shards(folder) without labels=, and labels to Split"
            )
        said = dict(conventions)
        if dequantise:
            for piece in _pieces(values):
                dequantisation.check_levels(piece, scale + 1)
            levels = int(scale) + 1
            # Who derived the seed from another, as load does, records that other.
            said.setdefault("dequantisation_seed", seed)
            said |= {"dequantisation": "uniform", "levels": levels, "values": "(0, 1)"}
            if not (redraw or isinstance(values, Tensor)):
                raise ValueError(
                    "dequantise: of rows on the disk the noise cannot be drawn once: pass redraw=True, or "
                    "write shards of a Split that is dequantised"
                )
            if not redraw and isinstance(values, Tensor):
                noise = generator("dequantisation", seed)
                values, scale = dequantisation.dequantise(values, levels=levels, generator=noise), 1.0
        self.values: Any = values
        self.scale = scale
        self.redraw = redraw
        self.dequantise = dequantise
        self.seed = seed
        self.labels = labels
        self.shape = shape or tuple(values.shape[1:])
        self.conventions = {**said, "dims": math.prod(values.shape[1:]), "rows": len(values)}
        self._noise = generator("redraw", seed)
        self._worker: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Index) -> Tensor:
        """Rows as floats: ``[d]`` for one index, ``[k, d]`` for a slice, a list or a tensor."""
        rows = self.values[index]
        if self.redraw and self.dequantise:
            levels = int(self.scale) + 1
            return dequantisation.dequantise(rows, levels=levels, generator=self._generator())
        rows = rows.to(torch.get_default_dtype()) / self.scale
        return torch.bernoulli(rows, generator=self._generator()) if self.redraw else rows

    def _generator(self) -> torch.Generator:
        """The split's own stream; in a DataLoader's worker, one of that worker and epoch."""
        worker = data.get_worker_info()
        if worker is not None and self._worker != worker.seed:
            self._worker = worker.seed
            self._noise = generator("redraw in a worker", self.seed, worker.seed)
        return self._noise

    def to(self, device: torch.device | str) -> Split:
        """The split with its values on a device, where it draws from then on: other draws than the CPU's.

        Rows on the disk stay there.
        """
        if not isinstance(self.values, Tensor):
            return self
        moved = copy.copy(self)
        moved.values = self.values.to(device)
        moved._noise = generator("redraw", self.seed, device=moved.values.device)
        return moved

    @contextmanager
    def drawing(self, purpose: str, *key: int) -> Iterator[None]:
        """Redraw from the stream of this key inside the block; after it, go on where it was."""
        before = self._noise
        self._noise = generator(purpose, self.seed, *key, device=self.values.device)
        try:
            yield
        finally:
            self._noise = before

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, ``[d]``; of what is drawn, over all draws, where they are redrawn."""
        if isinstance(self.values, Tensor):
            mean = self.values.to(torch.get_default_dtype()).mean(0)
        else:
            sums = torch.zeros(self.values.shape[1:], dtype=torch.float64)
            for piece in _pieces(self.values):
                sums += piece.double().sum(0)
            mean = (sums / len(self)).to(torch.get_default_dtype())
        if self.redraw and self.dequantise:
            return (mean + 0.5) / (self.scale + 1)
        return mean / self.scale


def classes_of(split: Any) -> Tensor | None:
    """The labels of a split ``[n]``, where they are whole numbers: measurements are no classes.

    Example:
        >>> classes_of(Split(torch.ones(2, 3), labels=torch.tensor([4, 1])))
        tensor([4, 1])
        >>> classes_of(Split(torch.ones(2, 3), labels=torch.tensor([0.5, 0.1]))) is None
        True
    """
    labels = getattr(split, "labels", None)
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        return None
    return labels


def _pieces(values: Any) -> Iterator[Tensor]:
    """All rows, not too many at a time where they come from the disk."""
    if isinstance(values, Tensor):
        yield values
        return
    for start in range(0, len(values), PIECE):
        yield values[start : start + PIECE]
