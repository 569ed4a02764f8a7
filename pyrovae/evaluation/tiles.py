"""Data cut into tiles of a fixed number of rows, and computing one with no more memory than there is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from pyrovae.core.context import caching, chunk_limit
from pyrovae.core.modules import Program
from pyrovae.core.programs import Structure, inspect
from pyrovae.core.random import stream
from pyrovae.core.tables import counted
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data, num_rows
from pyrovae.evaluation.importance import fitting_chunk_size, pass_size

__all__ = ["ROWS_IN_A_TILE", "Memory", "Tile", "look", "tiles"]

ROWS_IN_A_TILE = 64
"""Rows that share a stream of noise. Fixed: neither noise nor rounding depends on a batch size."""

Value = TypeVar("Value")


class Tile(NamedTuple):
    """Some rows of the data, as arguments of the programs.

    Attributes:
        position: Which tile of the data it is.
        rows: How many of its rows are data; those after them repeat the last one.
        arguments: Tensors of :data:`ROWS_IN_A_TILE` rows.
    """

    position: int
    rows: int
    arguments: tuple[Tensor, ...]

    @property
    def first(self) -> int:
        """The place of its first row in the data."""
        return self.position * ROWS_IN_A_TILE

    @property
    def name(self) -> str:
        """Which rows of the data it holds, in words."""
        return f"data rows {self.first} to {self.first + self.rows - 1}"

    def without_padding(self) -> Tile:
        """Without the rows that fill it up."""
        return self._replace(arguments=self.data())

    def row(self, index: int) -> tuple[Tensor, ...]:
        """One row as arguments of the programs."""
        return tuple(tensor[index : index + 1].contiguous() for tensor in self.arguments)

    def data(self) -> tuple[Tensor, ...]:
        """Its rows of data alone."""
        return tuple(tensor[: self.rows] for tensor in self.arguments)


def tiles(
    data: Data, seed: int, *, batch_size: int | None = None, device: torch.device | str | None = None
) -> Iterator[Tile]:
    """The data in tiles, the last one filled up.

    Args:
        data: As :func:`pyrovae.data.batches.batches` takes it.
        seed: Of what is random in the data.
        batch_size: Rows that are fetched at once; a tile if not given.
        device: Where they go.

    Raises:
        ValueError: A DataLoader that shuffles.

    Example:
        >>> [tile.rows for tile in tiles(torch.zeros(100, 3), seed=0)]
        [64, 36]
    """
    if isinstance(data, DataLoader) and not _is_in_order(data):
        raise ValueError("evaluate: the DataLoader shuffles, so no result would belong to a known row")
    waiting: list[tuple[Tensor, ...]] = []
    position = 0
    for batch in batches(data, batch_size or ROWS_IN_A_TILE, "evaluate", seed, device=device):
        waiting.append(batch)
        if sum(len(rows[0]) for rows in waiting) < ROWS_IN_A_TILE:
            continue
        joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
        whole = len(joined[0]) // ROWS_IN_A_TILE * ROWS_IN_A_TILE
        for start in range(0, whole, ROWS_IN_A_TILE):
            part = tuple(tensor[start : start + ROWS_IN_A_TILE].contiguous() for tensor in joined)
            yield Tile(position, ROWS_IN_A_TILE, part)
            position += 1
        waiting = [tuple(tensor[whole:] for tensor in joined)] if whole < len(joined[0]) else []
    if waiting:
        joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
        rows = len(joined[0])
        filler = torch.arange(ROWS_IN_A_TILE).clamp(max=rows - 1)
        yield Tile(position, rows, tuple(tensor[filler.to(tensor.device)] for tensor in joined))


def spaced(
    data: Data, count: int, seed: int, *, device: torch.device | str | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Evenly spaced rows of the data: which, and the arguments of the programs."""
    rows = torch.linspace(0, _given(data) - 1, count).round().long().unique()
    found = []
    for tile in tiles(data, seed, device=device):
        here = rows[(rows >= tile.first) & (rows < tile.first + tile.rows)] - tile.first
        found.append(tuple(tensor[here.to(tensor.device)] for tensor in tile.arguments))
    return rows, tuple(torch.cat(tensors) for tensors in zip(*found, strict=True))


def _given(data: Data) -> int:
    """Rows that come: a loader may drop the last of them."""
    sampler: Any = getattr(data, "batch_sampler", None)
    if isinstance(data, DataLoader) and getattr(sampler, "drop_last", False):
        return len(data) * sampler.batch_size
    return num_rows(data)


def _is_in_order(loader: DataLoader[Any]) -> bool:
    """Whether rows come in the order of the data set; of a sampler of somebody's own nobody knows."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    sampler: Any = loader.batch_sampler if loader.batch_sampler is not None else loader
    return type(sampler) in (BatchSampler, DataLoader) and isinstance(sampler.sampler, SequentialSampler)


def look(model: Program, guide: Program, tile: Tile) -> tuple[Structure, Tile]:
    """The structure of a pair, seen on its first tile; bare, where a guide's rows are fixed and are so many.

    Raises:
        ValueError: As :func:`pyrovae.core.programs.inspect`.
    """
    with stream("a first look"), caching():
        if tile.rows < ROWS_IN_A_TILE:
            try:
                return _inspected(model, guide, tile), tile
            except Exception:  # whatever a guide of fixed rows may say: the second look tells
                tile = tile.without_padding()
        return _inspected(model, guide, tile), tile


def _inspected(model: Program, guide: Program, tile: Tile) -> Structure:
    structure, rows = inspect(model, guide, *tile.arguments), len(tile.arguments[0])
    if structure.rows != rows:
        raise ValueError(
            f"plate '{structure.plate}', which all sites share, has {structure.rows} rows where the data "
            f"have {rows}: call the plate of the data 'data', and give each datum a row of it"
        )
    return structure


class Memory:
    """Draws scored at once: as many as memory holds, halved with a warning where they are more all the same.

    Args:
        chunk_size: Draws to begin with; as many as a pass has if not given.

    Attributes:
        halved: Whether they were.
    """

    def __init__(self, chunk_size: int | None) -> None:
        self.chunk_size, self.halved = chunk_size, False

    def fit(self, model: Program, guide: Program, structure: Structure, tile: Tile, num_samples: int) -> None:
        """Begin with what half of the free memory holds, with a warning where that is less than usual."""
        if self.chunk_size is not None:
            return
        usual = min(pass_size(structure, tile.arguments), num_samples)
        found = fitting_chunk_size(model, guide, tile.arguments, {}, structure, usual)
        if found < usual:
            self.chunk_size = found
            warnings.warn(
                f"evaluate: memory holds {counted(found, 'draw')} of {structure.rows} rows at once, where "
                f"{usual} are usual: log p(x) is the same but for the last bits of float32",
                stacklevel=4,
            )

    def run(self, compute: Callable[[int | None], Value], draws: int) -> Value:
        """What ``compute(chunk_size)`` gives, once it fits; each try starts from the beginning.

        Args:
            compute: Draws its noise from a stream of its own, so that a second try has the same.
            draws: Draws of a pass.

        Raises:
            RuntimeError: A single draw does not fit.
        """
        while True:
            limit = chunk_limit.set(self.chunk_size)
            try:
                return compute(self.chunk_size)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).split("\n")[0]
            finally:
                chunk_limit.reset(limit)
            tried = min(self.chunk_size or draws, draws)  # out here, where the error holds no tensors
            if tried == 1:
                raise RuntimeError(
                    f"evaluate: one draw of {ROWS_IN_A_TILE} rows does not fit into memory ({reason}): "
                    f"use a device that has more"
                )
            self.chunk_size, self.halved = tried // 2, True
            warnings.warn(
                f"evaluate: {tried} draws at once do not fit into memory, going on with {self.chunk_size}: "
                f"pass chunk_size={self.chunk_size} to start with it",
                stacklevel=4,
            )


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "DefaultCPUAllocator" in said
        or "out of memory" in said
    )
