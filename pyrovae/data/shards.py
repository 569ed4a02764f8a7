"""Data larger than memory: a folder of numbered files of rows, of which a batch reads only its own rows."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from pyrovae.core.checks import check_count, choose
from pyrovae.data import shard_files as files
from pyrovae.data.rows import as_tuple, fingerprint
from pyrovae.data.split import CHUNK, Index, Split, is_one, row_numbers
from pyrovae.storage.files import check_writable, write_file

FILE_BYTES = 2**25
"""Bytes of a file, about, if the number of its rows is not given."""


class Shards(torch_data.Dataset[Any]):
    """Rows ``[n, *event]`` in the numbered files of a folder, as :func:`write_shards` writes them.

    ``shards[3]`` is one row; ``shards[:128]`` and ``shards[[5, 2]]`` are tensors of rows. Files are mapped
    into memory, so that only these rows are read; a compressed ``.npz`` file is read whole. Rows keep their
    type: ``Split(shards, scale=255, redraw=True)`` makes floats of 8-bit values, as it does of a tensor, and
    :meth:`as_split` returns the Split that was written.

    :func:`pyrovae.fit` and :func:`pyrovae.evaluate` give the same result, to the bit, for shards and for the
    same rows in one tensor.

    Args:
        folder: The folder. Its index lists the files; without one, all files are taken, in the order of their
            numbers.
        key: Name of the array of rows: a folder of ``.npy`` files, or an array in each file of another kind.
        labels: Name of a second array ``[n, ...]``. A row is then a pair, two arguments of model and guide.
        shuffle: How :func:`pyrovae.fit` orders the rows: "rows" permutes all of them; "shards" permutes the
            files and mixes the rows of every ``mixed`` of them, for compressed files or slow disks.
        mixed: Number of files whose rows are mixed.
        cache: Number of files kept open (compressed: in memory); by default 2, or ``mixed`` for "shards".

    Raises:
        FileNotFoundError: The folder does not exist or holds no shard.
        ValueError: A file is missing, damaged, or has rows of another shape or type; the message names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(torch.arange(20.0).reshape(10, 2), folder, rows_per_shard=4)
        ...     len(shards), shards.shape, shards[[9, 0]].tolist()
        (10, torch.Size([10, 2]), [[18.0, 19.0], [0.0, 1.0]])
    """

    device = torch.device("cpu")
    """Device of the rows that are read."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        key: str = "x",
        labels: str | None = None,
        shuffle: Literal["rows", "shards"] = "rows",
        mixed: int = 8,
        cache: int | None = None,
    ) -> None:
        self.folder, self.key, self.labels = Path(folder).expanduser(), key, labels
        self.shuffle = choose("shuffle of shards", shuffle, ("rows", "shards"))
        self.mixed, self.cache = mixed, cache if cache is not None else mixed if shuffle == "shards" else 2
        check_count("mixed", self.mixed)
        check_count("cache", self.cache)
        self._names = (key,) if labels is None else (key, labels)
        self._open: OrderedDict[tuple[Path, str], Tensor] = OrderedDict()
        self.index = files.read_index(self.folder)
        if self.index is None:
            self._files = files.list_files(self.folder, key)
            self._counts = [len(files.open_array(self._path(n, key), key)) for n in range(len(self._files))]
        else:
            self._files = [shard.file for shard in self.index.shards]
            self._counts = [shard.rows for shard in self.index.shards]
        self._starts = np.cumsum([0, *self._counts])
        # No rows, of the shape and type that the rows of all files must have.
        self._empty = [files.open_array(self._path(0, name), name)[:0].clone() for name in self._names]
        for number in range(len(self._files) if self.index is None else 1):  # the others when they are read
            for name in self._names:
                self._array(number, name)
        self.shape = torch.Size((sum(self._counts), *self._empty[0].shape[1:]))
        self.dtype = self._empty[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        """Rows; with labels the pair of rows and labels."""
        arrays = self._read(row_numbers(index, len(self)))
        if is_one(index):
            arrays = [array[0] for array in arrays]
        return arrays[0] if self.labels is None else tuple(arrays)

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Rows of a batch, which torch's loaders ask for at once."""
        arrays = self._read(row_numbers(list(rows), len(self)))
        return list(arrays[0]) if self.labels is None else list(zip(*arrays, strict=True))

    def row_order(self, generator: torch.Generator) -> Tensor:
        """The order ``[n]`` of all rows in an epoch, by ``shuffle``."""
        if self.shuffle == "rows":
            return torch.randperm(len(self), generator=generator)
        order = []
        for group in torch.randperm(len(self._files), generator=generator).split(self.mixed):
            spans = [self._starts[number : number + 2].tolist() for number in group.tolist()]
            rows = torch.cat([torch.arange(*span) for span in spans])
            order.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(order)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all values: from the hashes of the index, or by reading the files once."""
        if self.index is None:
            hashes = [[self._hash(n, name) for name in self._names] for n in range(len(self._files))]
        else:
            hashes = [[shard.crc32[name] for name in self._names] for shard in self.index.shards]
        return f"{crc32(json.dumps([self._counts, hashes]).encode()):08x}"

    def verify(self) -> None:
        """Read every file and compare its values with the hashes of the index.

        Raises:
            ValueError: The values of a file differ from those written, or there is no index.
        """
        if self.index is None:
            raise ValueError(f"{self.folder}: no {files.INDEX} to verify by: write_shards writes one")
        for number, shard in enumerate(self.index.shards):
            for name in self._names:
                if self._hash(number, name) != shard.crc32[name]:
                    path = self._path(number, name)
                    raise ValueError(f"{path}: not the values of '{name}' that were written: write it again")

    def as_split(self, **conventions: Any) -> Split:
        """The Split that was written. Its rows stay on the disk, its labels are read.

        Args:
            conventions: Conventions to add to those written.
        """
        settings = self.index.split.model_dump() if self.index else {"conventions": {}}
        settings["conventions"] = {**conventions, **settings["conventions"]}
        if self.index is not None and "labels" in self.index.shards[0].crc32:
            settings["labels"] = Shards(self.folder, key="labels")[:]
        return Split(self, **settings)

    def _read(self, rows: np.ndarray) -> list[Tensor]:
        """These rows of each array, file by file."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        found = [empty.new_empty((len(rows), *empty.shape[1:])) for empty in self._empty]
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            local = torch.from_numpy(rows[here] - self._starts[number])
            for values, name in zip(found, self._names, strict=True):
                values[torch.from_numpy(here)] = self._array(number, name)[local]
        return found

    def _path(self, number: int, name: str) -> Path:
        return files.array_path(self.folder, self._files[number], name)

    def _hash(self, number: int, name: str) -> int:
        return fingerprint(self._array(number, name).split(CHUNK))

    def _array(self, number: int, name: str) -> Tensor:
        """One array of one file, checked when it is opened; the last ones used stay open."""
        path = self._path(number, name)
        if (path, name) not in self._open:
            array = files.open_array(path, name)
            self._check(array, path, name, self._counts[number])
            while len(self._open) >= self.cache * len(self._names):
                self._open.popitem(last=False)
            self._open[path, name] = array
        self._open.move_to_end((path, name))
        return self._open[path, name]

    def _check(self, array: Tensor, path: Path, name: str, rows: int) -> None:
        """Refuse an array of another number of rows than expected, or of rows unlike the first file's."""
        if len(array) != rows:
            raise ValueError(f"{path}: '{name}' has {len(array)} rows, expected {rows}: write it again")
        first = self._empty[self._names.index(name)]
        if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
            raise ValueError(
                f"{path}: rows of '{name}' are {array.dtype} of shape {tuple(array.shape[1:])}, and in "
                f"{self._files[0]} {first.dtype} of shape {tuple(first.shape[1:])}: write it again"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: a worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}


def write_shards(
    data: Any,
    folder: str | os.PathLike[str],
    *,
    labels: Tensor | np.ndarray | None = None,
    rows_per_shard: int | None = None,
    format: Literal["npy", "npz", "safetensors"] | None = None,
    compress: bool = False,
    **settings: Any,
) -> Shards:
    """Write rows to numbered files: an array ``x``, perhaps an array ``labels``, and an index.

    Memory holds the rows of one file. A Split is written with its settings, so that
    ``Shards(folder).as_split()`` has the same rows and draws, to the bit. Three splits in folders named
    train, validation and test are the data set "shards" of :func:`pyrovae.datasets.load` and of recipes.

    Args:
        data: A Split, a tensor or an array ``[n, *event]``, a Dataset of rows, or any iterable of batches
            ``[k, *event]``, such as a DataLoader. Rows or batches may be pairs of rows and labels. Rows that
            are random at each access are drawn once, except those of a Split.
        folder: An empty folder, made if need be.
        labels: Labels ``[n, ...]`` of the rows of a tensor.
        rows_per_shard: Rows of a file; by default about 32 MB of them.
        format: Kind of file: "npy" by default, "npz" if compressed. "npz" and "safetensors" put both arrays
            of a shard in one file.
        compress: Whether to compress "npz" files. Any row then reads a whole file: see ``shuffle`` of
            :class:`Shards`.
        settings: Of data other than a Split, the keywords scale, redraw, dequantise, seed, shape and
            conventions of the :class:`Split` that :meth:`Shards.as_split` makes.

    Returns:
        The shards.

    Raises:
        ValueError: The folder is not empty, there are no rows, or rows differ in shape or type.
        OSError: The files cannot be written. :class:`Shards` refuses a folder that was not finished.

    Example:
        >>> import tempfile
        >>> import pyrovae as pv
        >>> digits = pv.datasets.load("mnist-mini")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     split = write_shards(digits.test, folder).as_split()
        ...     torch.equal(split[:], digits.test[:]), split.conventions["binarisation"]
        (True, 'dynamic')
    """
    format = format or ("npz" if compress else "npy")
    choose("format of shards", format, ("npy", "npz", "safetensors"))
    if compress and format != "npz":
        raise ValueError("write_shards: compress=True is for format='npz': leave it out")
    check_count("rows_per_shard", 1 if rows_per_shard is None else rows_per_shard)
    if isinstance(data, Split):
        settings = {name: getattr(data, name) for name in files.SplitSettings.model_fields}
        settings["dequantise"] &= data.redraw  # or the noise is in the values already
        labels = data.labels if labels is None else labels
        data = data.values
    split = files.SplitSettings(**settings)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    if names := sorted(path.name for path in folder.iterdir()):
        raise ValueError(f"{folder} holds '{names[0]}': name an empty folder for the shards, or empty it")
    shards: list[files.Shard] = []
    for number, arrays in enumerate(_regroup(_pieces(data, labels), rows_per_shard)):
        if not shards:
            write_file(folder / files.UNFINISHED, b"")  # writing the index replaces it
        file = f"{number:06d}.npy" if format == "npy" else f"shard-{number:06d}.{format}"
        contents = files.encode_arrays(arrays, format, compress)
        for name, content in contents.items():
            path = files.array_path(folder, file, name)
            path.parent.mkdir(exist_ok=True)
            write_file(path, content)
        size = sum(map(len, contents.values()))
        hashes = {name: fingerprint([values]) for name, values in arrays.items()}
        shards.append(files.Shard(file=file, rows=len(arrays["x"]), size=size, crc32=hashes))
    if not shards:
        raise ValueError("write_shards: there are no rows, at least one is needed")
    index = files.ShardIndex(shards=tuple(shards), split=split)
    write_file(folder / files.INDEX, index.model_dump_json(indent=1) + "\n")
    return Shards(folder)


def _pieces(data: Any, labels: Any) -> Iterator[tuple[Tensor, ...]]:
    """The rows in pieces of any size, perhaps with their labels."""
    pieces: Iterable[Any]
    if hasattr(data, "shape"):  # a tensor, an array, Shards: what has slices
        if labels is not None and len(labels) != len(data):
            raise ValueError(f"write_shards: {len(data)} rows, and {len(labels)} labels: give one to each")
        spans = (slice(start, start + CHUNK) for start in range(0, len(data), CHUNK))
        pieces = ((*as_tuple(data[span]), *(() if labels is None else (labels[span],))) for span in spans)
    elif labels is not None:
        raise ValueError("write_shards: labels go beside a tensor: let the rows be pairs (x, label)")
    else:
        is_rows = isinstance(data, torch_data.Dataset)
        # A generator of its own, or the loader would draw from torch's.
        pieces = torch_data.DataLoader(data, 256, generator=torch.Generator()) if is_rows else data
    for piece in pieces:
        yield tuple(map(torch.as_tensor, as_tuple(piece)))


def _regroup(pieces: Iterator[tuple[Tensor, ...]], rows: int | None) -> Iterator[dict[str, Tensor]]:
    """The arrays of each file: the same rows, so many at a time."""
    waiting: list[tuple[Tensor, ...]] = []
    like, count = None, 0
    for piece in pieces:
        kind = [(each.shape[1:], each.dtype) for each in piece]
        if len(piece) > 2 or not all(each.ndim for each in piece) or len({*map(len, piece)}) > 1:
            raise ValueError("write_shards: expected rows, or pairs of rows and as many labels")
        like = like or kind
        if kind != like:
            raise ValueError(f"write_shards: rows of {kind} come after rows of {like}: make them alike")
        rows = rows or max(FILE_BYTES // max(piece[0][:1].nbytes, 1), 1)
        while len(piece[0]):
            waiting.append(tuple(each[: rows - count] for each in piece))
            piece = tuple(each[rows - count :] for each in piece)
            count += len(waiting[-1][0])
            if count == rows:
                yield _join(waiting)
                waiting, count = [], 0
    if waiting:
        yield _join(waiting)


def _join(pieces: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    return {
        name: torch.cat(each) for name, each in zip(("x", "labels"), zip(*pieces, strict=True), strict=False)
    }
