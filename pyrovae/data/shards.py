"""Data larger than memory: a folder of numbered files of rows, read when they are asked for."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from pyrovae.core.checks import check_count, choose
from pyrovae.data.rows import FEW, fingerprint
from pyrovae.data.shard_index import INDEX, Kind, listed, read_index
from pyrovae.data.sharding import write_shards
from pyrovae.data.split import Index, Split
from pyrovae.data.stored_arrays import StoredArray, stored_array

__all__ = ["Shards", "is_one", "numbers_of", "write_shards"]


class Shards(data.Dataset[Any]):
    """Rows ``[n, *event]`` in numbered ``.npz`` or ``.safetensors`` files of a folder, as they are stored.

    ``shards[3]`` is one row, ``shards[:128]`` and ``shards[[5, 2]]`` are tensors of rows, and of the files
    only these are read: memory holds a batch, whatever the size of all, so long as the files are not
    compressed. Rows keep their type; ``Split(shards, scale=255, redraw=True)`` makes floats of 8-bit ones,
    as of a tensor, and :meth:`as_split` the Split that :func:`write_shards` was given.

    :func:`pyrovae.fit` shuffles them by its seed and goes on amid an epoch, :func:`pyrovae.evaluate` has the
    tiles, the noise and the result, to the bit, of the same rows in one tensor.

    Args:
        folder: Of the files, in the order of their numbers; with the index of :func:`write_shards`, those
            that it lists.
        key: The array of the rows, the same in each file.
        labels: An array beside it, ``[n, ...]``: a row is then the pair of both, two arguments of
            the programs.
        shuffle: How :func:`pyrovae.fit` orders them: "rows" by a permutation of all, or "shards", which reads
            a few files at a time: these in a new order, and the rows of every ``mixed`` of them mixed. For
            files that are compressed, or on a disk that has to seek.
        mixed: Files whose rows are mixed then.
        cache: Compressed files that are kept decoded, with "rows"; with "shards" it wants to be ``mixed``.

    Raises:
        FileNotFoundError: No such folder, or no shard in it.
        ValueError: A file is missing, damaged, or has rows of another shape or type; it is named.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(torch.arange(20.0).reshape(10, 2), folder, rows_per_shard=4)
        ...     len(shards), shards.shape, shards[[9, 0]].tolist()
        (10, torch.Size([10, 2]), [[18.0, 19.0], [0.0, 1.0]])
    """

    device = torch.device("cpu")
    """Where the rows are once they are read."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        key: str = "x",
        labels: str | None = None,
        shuffle: Literal["rows", "shards"] = "rows",
        mixed: int = 8,
        cache: int = 2,
    ) -> None:
        self.folder, self.key, self.labels = Path(folder).expanduser(), key, labels
        self.shuffle = choose("shuffle of shards", shuffle, ("rows", "shards"))
        check_count("mixed", mixed)
        check_count("cache", cache)
        self.mixed, self.cache = mixed, cache
        self._names = (key,) if labels is None else (key, labels)
        self.index = read_index(self.folder)
        if self.index is None:
            self._files = listed(self.folder)
        else:
            self._files = [self.folder / shard.file for shard in self.index.shards]
        self._arrays: dict[int, tuple[StoredArray, ...]] = {}
        self._whole: OrderedDict[StoredArray, Tensor] = OrderedDict()
        first = self._arrays_of(0)
        counts = (
            [self._arrays_of(number)[0].shape[0] for number in range(len(self._files))]
            if self.index is None
            else [shard.rows for shard in self.index.shards]
        )
        self._starts = np.cumsum([0, *counts])
        self.shape = torch.Size((int(self._starts[-1]), *first[0].shape[1:]))
        self.dtype = first[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        """Rows; with labels the pair of rows and labels."""
        rows = self._read(numbers_of(index, len(self)))
        if is_one(index):
            rows = [each[0] for each in rows]
        return rows[0] if self.labels is None else tuple(rows)

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Some rows at once: what torch's loaders ask for."""
        found = self._read(numbers_of(list(rows), len(self)))
        return list(found[0]) if self.labels is None else list(zip(*found, strict=True))

    def row_order(self, generator: torch.Generator) -> Tensor:
        """An epoch's order of all rows, ``[n]``, by ``shuffle``."""
        if self.shuffle == "rows":
            return torch.randperm(len(self), generator=generator)
        order = []
        for some in torch.randperm(len(self._files), generator=generator).split(self.mixed):
            spans = [self._starts[each : each + 2].tolist() for each in some.tolist()]
            rows = torch.cat([torch.arange(*span) for span in spans])
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all values: of those that the index has of the files, or by reading them once."""
        if self.index is None:
            hashes = [[_crc32(each) for each in self._arrays_of(n)] for n in range(len(self._files))]
        else:
            hashes = [[shard.crc32[name] for name in self._names] for shard in self.index.shards]
        counts = np.diff(self._starts).tolist()
        return f"{crc32(json.dumps([counts, hashes]).encode()):08x}"

    def verify(self) -> None:
        """Read every file, and hold it against the index.

        Raises:
            ValueError: A file is not what was written, or there is no index.
        """
        if self.index is None:
            raise ValueError(f"{self.folder}: no {INDEX} to verify the files by: write_shards writes one")
        for number, shard in enumerate(self.index.shards):
            for array in self._arrays_of(number):
                if _crc32(array) != shard.crc32[array.name]:
                    raise ValueError(
                        f"{array.path}: not the values that were written (the hash of '{array.name}' is "
                        f"another): write it again"
                    )

    def as_split(self, **conventions: Any) -> Split:
        """The Split that was written, its rows still on the disk; its ``labels`` are read.

        Args:
            conventions: That are added to the written ones, where they are silent.
        """
        said = (Kind() if self.index is None else self.index.split).model_dump()
        said["conventions"] = {**conventions, **said["conventions"]}
        if self.index is not None and "labels" in self.index.shards[0].crc32:
            labels = Shards(self.folder, key="labels")
            said["labels"] = labels[:]
        return Split(self, **said)

    def _read(self, rows: np.ndarray) -> list[Tensor]:
        """These rows of each array, file by file, and each file once."""
        files = np.searchsorted(self._starts, rows, side="right") - 1
        there = np.unique(files).tolist()
        if not there:
            return [torch.empty((0, *each.shape[1:]), dtype=each.dtype) for each in self._arrays_of(0)]
        found: list[Tensor] = []
        for file in there:
            here = np.flatnonzero(files == file)
            local = rows[here] - self._starts[file]
            for position, array in enumerate(self._arrays_of(file)):
                part = self._rows_of(array, local)
                if len(there) == 1:
                    found.append(part)
                    continue
                if position == len(found):
                    found.append(torch.empty((len(rows), *part.shape[1:]), dtype=part.dtype))
                found[position][torch.from_numpy(here)] = part
        return found

    def _rows_of(self, array: StoredArray, rows: np.ndarray) -> Tensor:
        if array.offset is not None:
            return array.read(rows)
        if array not in self._whole:
            while len(self._whole) >= self.cache * len(self._names):
                self._whole.popitem(last=False)
            self._whole[array] = array.read_all()
        self._whole.move_to_end(array)
        return self._whole[array][torch.from_numpy(rows)]

    def _arrays_of(self, number: int) -> tuple[StoredArray, ...]:
        """Of one file, looked up at the first need."""
        if number not in self._arrays:
            path = self._files[number]
            found = tuple(stored_array(path, name) for name in self._names)
            expected = None if self.index is None else self.index.shards[number].rows
            for each in found:
                if each.shape[0] != (expected or found[0].shape[0]) or not each.shape[0]:
                    raise ValueError(
                        f"{path}: '{each.name}' has {each.shape[0]} rows, expected "
                        f"{expected or found[0].shape[0] or 'one at least'}: write it again"
                    )
            self._check_alike(found, self._arrays_of(0) if number else found)
            self._arrays[number] = found
        return self._arrays[number]

    def _check_alike(self, arrays: tuple[StoredArray, ...], first: tuple[StoredArray, ...]) -> None:
        for here, there in zip(arrays, first, strict=True):
            if (here.shape[1:], here.dtype) != (there.shape[1:], there.dtype):
                raise ValueError(
                    f"{here.path}: rows of '{here.name}' are {_shown(here)}, and in {there.path.name} "
                    f"{_shown(there)}: write it again"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without what was decoded: a worker reads its own."""
        return {**self.__dict__, "_whole": OrderedDict()}


def is_one(index: Index) -> bool:
    """Whether an index means a row, and not rows."""
    return not isinstance(index, slice) and np.ndim(index) == 0


def numbers_of(index: Index, rows: int) -> np.ndarray:
    """The numbers of the rows that a slice, a list or a tensor means; negative ones count from the end.

    Raises:
        IndexError: There is no such row, or it is no index of rows alone.

    Example:
        >>> numbers_of(slice(0, 10, 4), 9).tolist(), numbers_of([-1], 9).tolist()
        ([0, 4, 8], [8])
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(rows))
    found = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
    if found.dtype == bool and found.shape == (rows,):
        found = np.flatnonzero(found)
    is_whole = np.issubdtype(found.dtype, np.integer) or not found.size
    if isinstance(index, tuple) or found.ndim > 1 or not is_whole:
        raise IndexError(
            f"no index of rows: {type(index).__name__} of shape {found.shape} and {found.dtype}: give a "
            f"number, a slice, a list of numbers, or {rows:,} bits"
        )
    found = found.reshape(-1).astype(np.int64)
    if len(found) and (found.min() < -rows or found.max() >= rows):
        wrong = int(found[(found < -rows) | (found >= rows)][0])
        raise IndexError(f"row {wrong} is asked for, and there are {rows:,}")
    return np.where(found < 0, found + rows, found)


def _crc32(array: StoredArray) -> int:
    """Of its values, a few rows at a time."""
    if array.offset is None:
        return fingerprint([array.read_all()])
    count = array.shape[0]
    read: Callable[[int], Tensor] = lambda start: array.read(np.arange(start, min(start + FEW, count)))  # noqa: E731
    return fingerprint(map(read, range(0, count, FEW)))


def _shown(array: StoredArray) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} of shape {array.shape[1:]}"
