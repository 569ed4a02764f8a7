"""Split: rows of a data set, perhaps drawn anew at each access, with the conventions of their log p(x)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from pyrovae.core.random import generator
from pyrovae.data.dequantise import check_levels, dequantise

CHUNK = 4096
"""Rows read or hashed at once."""

Index = int | slice | list[int] | Tensor


class StoredRows(Protocol):
    """Rows on the disk, which a Split takes in the place of a tensor.

    :class:`pyrovae.datasets.Shards` and :class:`pyrovae.datasets.ImageRows` have this interface.

    Attributes:
        shape: ``[n, d]``.
        device: Device of the rows that are read.
    """

    shape: torch.Size
    device: torch.device

    @property
    def fingerprint(self) -> str:
        """A hash of all values."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class Split(data.Dataset[Tensor]):
    """Rows ``[n, d]`` of one split, ready for a likelihood: ``split[:128]`` is a float tensor.

    Args:
        values: Values ``[n, d]``, floats or 8-bit integers, in a tensor or on the disk (see
            :class:`~pyrovae.data.split.StoredRows`). Rows are the values divided by ``scale``.
        scale: Divisor of the values: 255 for 8-bit images.
        redraw: Whether each access draws anew, from the split's own stream (see :meth:`drawing`): bits whose
            probabilities are the rows, or the noise of ``dequantise``.
        dequantise: Whether to add uniform noise, ``(value + u) / (scale + 1)``, strictly within (0, 1), to
            values that are whole numbers from 0 to ``scale``. Without ``redraw`` the noise is drawn once,
            here. The conventions record it.
        seed: Seed of the draws.
        labels: Classes ``[n]``, or other values ``[n, ...]`` to keep with the rows.
        shape: Shape of a row as an image.
        conventions: What a log p(x) of these data depends on; the number of rows and dims is added.

    Raises:
        ValueError: With ``dequantise``, a value is no whole number from 0 to ``scale``, the scale is not one
            of 1 to 255, or rows on the disk are not redrawn, so that their noise would be lost.

    Example:
        >>> split = Split(torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8), scale=255)
        >>> len(split), split[:1]
        (2, tensor([[0., 1.]]))
    """

    def __init__(
        self,
        values: Tensor | StoredRows,
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
        conventions = dict(conventions)
        if dequantise:
            # load derives a seed for each split from its own, and records that one.
            conventions.setdefault("dequantisation_seed", seed)
            conventions |= {"dequantisation": "uniform", "levels": int(scale) + 1, "values": "(0, 1)"}
            values, scale = _dequantise_once(values, scale, redraw, seed)
        self.values: Any = values
        self.scale = scale
        self.redraw = redraw
        self.dequantise = dequantise
        self.seed = seed
        self.labels = labels
        self.shape = shape or tuple(values.shape[1:])
        self.conventions = {**conventions, "dims": math.prod(values.shape[1:]), "rows": len(values)}
        self._noise = generator("redraw", seed)
        self._worker: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Index) -> Tensor:
        """Rows as floats: ``[d]`` for one index, ``[k, d]`` for a slice, a list or a tensor."""
        rows = self.values[index]
        if self.redraw and self.dequantise:
            return dequantise(rows, levels=int(self.scale) + 1, generator=self._generator())
        rows = rows.to(torch.get_default_dtype()) / self.scale
        return torch.bernoulli(rows, generator=self._generator()) if self.redraw else rows

    def _generator(self) -> torch.Generator:
        """The split's own stream; in a worker of a DataLoader, one of that worker and epoch."""
        worker = data.get_worker_info()
        if worker is not None and self._worker != worker.seed:
            self._worker = worker.seed
            self._noise = generator("redraw in a worker", self.seed, worker.seed)
        return self._noise

    def to(self, device: torch.device | str) -> Split:
        """The split with its values on a device, where it draws from a stream of that device.

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
        """Redraw from the stream of this key inside the block, and from the former one after it."""
        before = self._noise
        self._noise = generator(purpose, self.seed, *key, device=self.values.device)
        try:
            yield
        finally:
            self._noise = before

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, ``[d]``; the expected one where they are redrawn."""
        if isinstance(self.values, Tensor):
            mean = self.values.to(torch.get_default_dtype()).mean(0)
        else:
            zero = torch.tensor(0.0, dtype=torch.float64)
            total = sum((chunk.double().sum(0) for chunk in _chunks(self.values)), zero)
            mean = (total / len(self)).to(torch.get_default_dtype())
        if self.redraw and self.dequantise:
            return (mean + 0.5) / (self.scale + 1)
        return mean / self.scale


def classes_of(split: Any) -> Tensor | None:
    """The labels ``[n]`` of a split if they are whole numbers: measurements are no classes.

    Example:
        >>> classes_of(Split(torch.ones(2, 3), labels=torch.tensor([4, 1])))
        tensor([4, 1])
        >>> classes_of(Split(torch.ones(2, 3), labels=torch.tensor([0.5, 0.1]))) is None
        True
    """
    labels = getattr(split, "labels", None)
    is_classes = isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()
    return labels if is_classes else None


def is_one(index: Index) -> bool:
    """Whether an index means one row rather than several."""
    return not isinstance(index, slice) and np.ndim(index) == 0


def row_numbers(index: Index, rows: int) -> np.ndarray:
    """The numbers of the rows that a slice, a list or a tensor means; negative ones count from the end.

    Raises:
        IndexError: The index is no index of rows alone, or there is no such row.

    Example:
        >>> row_numbers(slice(0, 10, 4), 9).tolist(), row_numbers([-1], 9).tolist()
        ([0, 4, 8], [8])
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(rows))
    numbers = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
    if numbers.dtype == bool and numbers.shape == (rows,):
        numbers = np.flatnonzero(numbers)
    is_whole = np.issubdtype(numbers.dtype, np.integer) or not numbers.size
    if isinstance(index, tuple) or numbers.ndim > 1 or not is_whole:
        raise IndexError(
            f"no index of rows: {type(index).__name__} of shape {numbers.shape} and {numbers.dtype}: give a "
            f"number, a slice, a list of numbers, or {rows:,} bits"
        )
    numbers = numbers.reshape(-1).astype(np.int64)
    outside = numbers[(numbers < -rows) | (numbers >= rows)]
    if len(outside):
        raise IndexError(f"row {outside[0]} is asked for, and there are {rows:,}")
    return np.where(numbers < 0, numbers + rows, numbers)


def _dequantise_once(values: Any, scale: float, redraw: bool, seed: int) -> tuple[Any, float]:
    """Values and scale of a dequantised split: without redraw, the noise is drawn here."""
    for chunk in _chunks(values):
        check_levels(chunk, scale + 1)
    if redraw:
        return values, scale
    if not isinstance(values, Tensor):
        raise ValueError(
            "dequantise: of rows on the disk the noise cannot be drawn once: pass redraw=True, or "
            "write shards of a Split that is dequantised"
        )
    return dequantise(values, levels=int(scale) + 1, generator=generator("dequantisation", seed)), 1.0


def _chunks(values: Any) -> Iterator[Tensor]:
    """All rows, a few thousand at a time."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
