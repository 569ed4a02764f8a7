"""Tiles of a fixed number of data rows, and chunk sizes that fit into memory."""

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

# Rows that share a stream of noise. Fixed, so that neither noise nor rounding depends on a batch size.
ROWS_IN_A_TILE = 64

Value = TypeVar("Value")


class Tile(NamedTuple):
    """Some rows of the data, as arguments of the programs."""

    position: int  # index of the tile
    rows: int  # number of data rows; those after them are padding, which repeats the last one
    arguments: tuple[Tensor, ...]  # of ROWS_IN_A_TILE rows

    @property
    def first(self) -> int:
        """Index of its first row in the data."""
        return self.position * ROWS_IN_A_TILE

    @property
    def name(self) -> str:
        """Its rows of the data, in words."""
        return f"data rows {self.first} to {self.first + self.rows - 1}"

    def without_padding(self) -> Tile:
        """The tile without its padding."""
        return self._replace(arguments=self.data())

    def row(self, index: int) -> tuple[Tensor, ...]:
        """One row as arguments of the programs."""
        return tuple(tensor[index : index + 1].contiguous() for tensor in self.arguments)

    def data(self) -> tuple[Tensor, ...]:
        """Its rows without padding."""
        return tuple(tensor[: self.rows] for tensor in self.arguments)


def tiles(
    data: Data, seed: int, *, batch_size: int | None = None, device: torch.device | str | None = None
) -> Iterator[Tile]:
    """The data in tiles, the last one padded; ``batch_size`` rows, a tile by default, are fetched at once.

    Raises:
        ValueError: A DataLoader that shuffles.

    Example:
        >>> [tile.rows for tile in tiles(torch.zeros(100, 3), seed=0)]
        [64, 36]
    """
    if isinstance(data, DataLoader) and not _is_in_order(data):
        raise ValueError("evaluate: the DataLoader shuffles, so no result would belong to a known row")
    rest: tuple[Tensor, ...] = ()
    position = 0
    for batch in batches(data, batch_size or ROWS_IN_A_TILE, "evaluate", seed, device=device):
        rest = _joined([rest, batch]) if rest else batch
        while len(rest[0]) >= ROWS_IN_A_TILE:
            whole = tuple(tensor[:ROWS_IN_A_TILE].contiguous() for tensor in rest)
            yield Tile(position, ROWS_IN_A_TILE, whole)
            rest = tuple(tensor[ROWS_IN_A_TILE:] for tensor in rest)
            position += 1
    rows = len(rest[0])
    if rows:
        padded = torch.arange(ROWS_IN_A_TILE).clamp(max=rows - 1)
        yield Tile(position, rows, tuple(tensor[padded.to(tensor.device)] for tensor in rest))


def spaced(
    data: Data, count: int, seed: int, *, device: torch.device | str | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Evenly spaced rows of the data: their indices, and the arguments of the programs."""
    rows = torch.linspace(0, _rows_given(data) - 1, count).round().long().unique()
    chosen = []
    for tile in tiles(data, seed, device=device):
        here = rows[(rows >= tile.first) & (rows < tile.first + tile.rows)] - tile.first
        chosen.append(tuple(tensor[here.to(tensor.device)] for tensor in tile.arguments))
    return rows, _joined(chosen)


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _rows_given(data: Data) -> int:
    """Number of rows; a loader may drop the last of them."""
    sampler: Any = getattr(data, "batch_sampler", None)
    if isinstance(data, DataLoader) and getattr(sampler, "drop_last", False):
        return len(data) * sampler.batch_size
    return num_rows(data)


def _is_in_order(loader: DataLoader[Any]) -> bool:
    """Whether rows come in the order of the data set, which is known of torch's own samplers only."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    sampler: Any = loader.batch_sampler if loader.batch_sampler is not None else loader
    return type(sampler) in (BatchSampler, DataLoader) and isinstance(sampler.sampler, SequentialSampler)


def look(model: Program, guide: Program, tile: Tile) -> tuple[Structure, Tile]:
    """The structure of a pair, and the tile it was seen on, unpadded if the guide's rows are fixed."""
    with stream("a first look"), caching():
        if tile.rows < ROWS_IN_A_TILE:
            try:
                return _inspected(model, guide, tile), tile
            except Exception:  # a guide of fixed rows raises errors of any kind; the next run tells
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
    """The number of draws scored at once: what memory holds, halved with a warning if it runs out.

    ``chunk_size`` None stands for a whole pass; ``halved`` says whether memory ran out.
    """

    def __init__(self, chunk_size: int | None) -> None:
        self.chunk_size, self.halved = chunk_size, False

    def fit(self, model: Program, guide: Program, structure: Structure, tile: Tile, num_samples: int) -> None:
        """Start with what half of the free memory holds, and warn where that is less than a pass."""
        if self.chunk_size is not None:
            return
        usual = min(pass_size(structure, tile.arguments), num_samples)
        fitting = fitting_chunk_size(model, guide, tile.arguments, {}, structure, usual)
        if fitting < usual:
            self.chunk_size = fitting
            warnings.warn(
                f"evaluate: memory holds {counted(fitting, 'draw')} of {structure.rows} rows at once, where "
                f"{usual} are usual: log p(x) is the same but for the last bits of float32",
                stacklevel=5,
            )

    def run(self, compute: Callable[[int | None], Value], draws: int) -> Value:
        """The value of ``compute(chunk_size)``, called with smaller chunks until it fits.

        ``compute`` opens its own stream, so that each call has the same noise; a pass has ``draws`` draws.

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
            # Here the error, which holds tensors, is gone.
            tried = min(self.chunk_size or draws, draws)
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
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "DefaultCPUAllocator" in str(error) or "out of memory" in str(error)
