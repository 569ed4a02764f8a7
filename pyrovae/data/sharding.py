"""Writing rows to shards, a few at a time: numbered files, and last the index of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pyrovae.core.checks import check_count, choose
from pyrovae.data.rows import FEW, fingerprint
from pyrovae.data.shard_index import Index, Kind, Shard, begin_index, write_index
from pyrovae.data.split import Split
from pyrovae.storage.files import check_writable, write_file
from pyrovae.storage.tensors import to_bytes

if TYPE_CHECKING:
    from pyrovae.data.shards import Shards

__all__ = ["write_shards"]

BYTES = 2**25
"""Of a file, about, where the number of its rows is not given."""


def write_shards(
    data: Any,
    folder: str | os.PathLike[str],
    *,
    labels: Tensor | np.ndarray | None = None,
    rows_per_shard: int | None = None,
    format: Literal["npz", "safetensors"] = "npz",
    compress: bool = False,
    scale: float = 1.0,
    redraw: bool = False,
    dequantise: bool = False,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> Shards:
    """Write rows to the numbered files of a folder, ``x`` and perhaps ``labels`` in each, and an index.

    Memory holds the rows of one file. A Split is written with all that it is, so that
    ``Shards(folder).as_split()`` has its rows and its draws, to the bit; three of them, in folders named
    train, validation and test, are the data set "shards" of :func:`pyrovae.datasets.load` and of recipes.

    Args:
        data: A Split, a tensor or an array ``[n, *event]``, a Dataset of rows (iterable ones too), or any
            iterable of batches ``[k, *event]``, such as a DataLoader. Rows or batches that are pairs have
            labels. Rows that are drawn anew at each access are drawn once, of a Split never.
        folder: Made; it must be empty.
        labels: ``[n, ...]``, beside a tensor.
        rows_per_shard: Rows of a file; about 32 MB of them if not given.
        format: Of the files.
        compress: Smaller ``.npz`` files, read whole for any row: :class:`Shards` wants shuffle="shards" then.
        scale: As the following ones, the Split's that :meth:`Shards.as_split` makes; of a Split, its own.
        redraw: See :class:`Split`.
        dequantise: See :class:`Split`.
        seed: See :class:`Split`.
        shape: See :class:`Split`.
        conventions: See :class:`Split`.

    Returns:
        The shards.

    Raises:
        ValueError: The folder holds something; no rows; rows of different shapes or types.
        OSError: It cannot be written. There is the start of an index then, as where the process is killed,
            and :class:`Shards` takes no half of the rows for the whole.

    Example:
        >>> import tempfile
        >>> import pyrovae as pv
        >>> digits = pv.datasets.load("mnist-mini")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     split = write_shards(digits.test, folder).as_split()
        ...     torch.equal(split[:], digits.test[:]), split.conventions["binarisation"]
        (True, 'dynamic')
    """
    about: dict[str, Any] = {"scale": scale, "redraw": redraw, "dequantise": dequantise, "seed": seed}
    about |= {"shape": None if shape is None else tuple(shape), "conventions": dict(conventions or {})}
    if isinstance(data, Split):
        about = _of_split(data)
        labels = data.labels if labels is None else labels
        data = data.values
    suffix = choose("format of shards", format, ("npz", "safetensors"))
    if compress and suffix != "npz":
        raise ValueError("write_shards: compress=True is for format='npz': leave it out")
    check_count("rows_per_shard", 1 if rows_per_shard is None else rows_per_shard)
    folder = _made(Path(folder).expanduser())
    shards: list[Shard] = []
    for number, arrays in enumerate(_joined(_pieces(data, labels), rows_per_shard)):
        path = folder / f"shard-{number:06d}.{suffix}"
        content = _npz(arrays, compress) if suffix == "npz" else to_bytes(arrays)
        if not shards:
            begin_index(folder)
        write_file(path, content)
        hashes = {name: fingerprint([values]) for name, values in arrays.items()}
        rows, size = len(arrays["x"]), len(content)
        shards.append(Shard(file=path.name, rows=rows, size=size, crc32=hashes))
    if not shards:
        raise ValueError("write_shards: there are no rows, at least one is needed")
    write_index(folder, Index(shards=tuple(shards), split=Kind(**about)))
    from pyrovae.data.shards import Shards  # which has this function in sight of its readers

    return Shards(folder)


def _of_split(split: Split) -> dict[str, Any]:
    """Its keywords; values that were dequantised once are not dequantised again."""
    return {
        "scale": split.scale,
        "redraw": split.redraw,
        "dequantise": split.dequantise and split.redraw,
        "seed": split.seed,
        "shape": split.shape,
        "conventions": split.conventions,
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    strange = sorted(path.name for path in folder.iterdir())
    if strange:
        raise ValueError(f"{folder} holds '{strange[0]}': name an empty folder for the shards, or empty it")
    return folder


def _pieces(data: Any, labels: Any) -> Iterator[tuple[Tensor, ...]]:
    """The rows, some at a time, perhaps with their labels."""
    if hasattr(data, "shape"):  # what has slices: a tensor, an array, Shards
        if labels is not None and len(labels) != len(data):
            raise ValueError(f"write_shards: {len(data)} rows, and {len(labels)} labels: give one to each")
        for start in range(0, len(data), FEW):
            rows = data[start : start + FEW]
            found = rows if isinstance(rows, tuple) else (rows,)
            found = found if labels is None else (*found, labels[start : start + FEW])
            yield tuple(map(torch.as_tensor, found))
        return
    if labels is not None:
        raise ValueError("write_shards: labels go beside a tensor: let the rows be pairs (x, label)")
    rows = isinstance(data, Dataset) and not isinstance(data, DataLoader)
    for batch in _collated(data) if rows else data:
        yield (
            tuple(map(torch.as_tensor, batch))
            if isinstance(batch, (tuple, list))
            else (torch.as_tensor(batch),)
        )


def _collated(data: Any) -> Iterator[Any]:
    """A Dataset's rows in batches, by their numbers or as they come."""
    by_number = not isinstance(data, IterableDataset)
    rows: Iterable[Any] = map(data.__getitem__, range(len(data))) if by_number else data
    left = iter(rows)
    while some := list(islice(left, 256)):
        yield default_collate(some)


def _joined(pieces: Iterator[tuple[Tensor, ...]], rows: int | None) -> Iterator[dict[str, Tensor]]:
    """The same rows, so many at a time."""
    waiting: list[tuple[Tensor, ...]] = []
    count, like = 0, None
    for piece in pieces:
        here = [(each.shape[1:], each.dtype) for each in piece]
        if len(piece) > 2 or not all(each.ndim for each in piece) or len({*map(len, piece)}) > 1:
            raise ValueError("write_shards: expected rows, or pairs of rows and as many labels")
        like = like or here
        if here != like:
            raise ValueError(f"write_shards: rows of {here} come after rows of {like}: make them alike")
        rows = rows or max(BYTES // max(piece[0][:1].numel() * piece[0].element_size(), 1), 1)
        waiting.append(piece)
        count += len(piece[0])
        if count < rows:
            continue
        whole, full = [torch.cat(each) for each in zip(*waiting, strict=True)], count - count % rows
        for start in range(0, full, rows):
            yield _named([each[start : start + rows] for each in whole])
        waiting, count = [tuple(each[full:] for each in whole)], count - full
    if count:
        yield _named([torch.cat(each) for each in zip(*waiting, strict=True)])


def _named(arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    return {name: each.contiguous() for name, each in zip(("x", "labels"), arrays, strict=False)}


def _npz(arrays: Mapping[str, Tensor], compress: bool) -> bytes:
    content = io.BytesIO()
    for name, each in arrays.items():
        if each.dtype == torch.bfloat16:
            raise ValueError(f"write_shards: .npz has no bfloat16, which '{name}' is: format='safetensors'")
    save: Any = np.savez_compressed if compress else np.savez
    save(content, **{name: each.cpu().numpy() for name, each in arrays.items()})
    return content.getvalue()
