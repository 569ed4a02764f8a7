"""What holds data, a tensor, some tensors, a Dataset or a DataLoader: its rows, and what it is known by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pyrovae.core.random import stream

if TYPE_CHECKING:
    from pyrovae.data.split import Split

__all__ = [
    "Data",
    "as_tuple",
    "check_rows",
    "conventions_of",
    "device_of",
    "fingerprint",
    "generators_of",
    "held_by",
    "identity_of",
    "num_rows",
    "resident",
    "rows_of",
    "split_of",
    "take",
]

FEW = 4096
"""Rows that are hashed at once."""

Data = Tensor | tuple[Tensor, ...] | Dataset[Any] | DataLoader[Any]


def num_rows(data: Data) -> int:
    """Rows in all.

    Raises:
        ValueError: No rows, or tensors of different lengths.
        TypeError: No such data can be taken.
    """
    counted: Any = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(counted, IterableDataset) and not hasattr(counted, "__len__"):
        raise TypeError(
            "data: an IterableDataset without a length, so that nothing tells where an epoch ends: give it "
            "__len__ (its rows come in its own order then), or write it by pyrovae.datasets.write_shards("
            "data, folder) and pass Shards(folder), whose rows are shuffled, and resumed to the bit"
        )
    if isinstance(data, DataLoader) or isinstance(counted, IterableDataset):
        rows = len(counted)
    elif isinstance(data, tuple):
        lengths = [len(tensor) for tensor in data]
        if len(set(lengths)) != 1:
            raise ValueError(f"data: the tensors have {lengths} rows, expected equally many")
        rows = lengths[0]
    elif isinstance(data, Tensor) or (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        rows = len(data)
    else:
        raise TypeError(
            f"data: expected a tensor, a tuple of tensors, a Dataset or a DataLoader, "
            f"got {type(data).__name__}"
            + (": pass one split, such as .train" if hasattr(data, "train") else "")
        )
    if rows == 0:
        raise ValueError("data: the set is empty, at least one row is needed")
    return rows


def conventions_of(data: Data) -> dict[str, Any]:
    """What the data's Split says of its conventions, through loaders and subsets; {} for other data."""
    split = split_of(data)
    return {} if split is None else dict(split.conventions)


def identity_of(data: Data) -> dict[str, Any]:
    """What data are known by again: rows, conventions, and a hash of all their values.

    Of rows that are made when they are asked for, three count; where these differ from one time to the next,
    none.
    """
    rows: Any = data.dataset if isinstance(data, DataLoader) else data
    found: dict[str, Any] = {"is": "data", "rows": num_rows(data)}
    if isinstance(data, DataLoader):
        found |= {"batches": len(data), "order": type(data.sampler).__name__, "workers": data.num_workers}
    split = split_of(data)
    if split is not None:
        found |= {name: getattr(split, name, None) for name in ("scale", "redraw", "dequantise", "seed")}
    if isinstance(rows, (Tensor, tuple)) or split_of(rows) is rows or hasattr(rows, "fingerprint"):
        held = held_by(rows)
        seen = [fingerprint(some for each in held for some in (each.split(FEW) if _is(each) else [each]))]
        if hasattr(held[0], "row_order"):
            found["shuffle"] = None if held[0].shuffle == "rows" else f"{held[0].mixed} shards"
    else:
        seen = [_fingerprint_of_some(rows) for _ in range(2)]
    if len({*seen}) == 1:
        found["fingerprint"] = f"{seen[0]:08x}"
    return found | {"conventions": conventions_of(data)}


def fingerprint(tensors: Iterable[Tensor], before: int = 0) -> int:
    """Hash the bytes of some rows, on top of those before them; what knows its own hash is not read."""
    for tensor in tensors:
        if hasattr(tensor, "fingerprint"):
            before = crc32(tensor.fingerprint.encode(), before)
            continue
        seen = tensor.detach().cpu().contiguous().view(torch.uint8)  # numpy lacks bfloat16
        before = crc32(seen.numpy().tobytes(), before)
    return before


def generators_of(*data: Data | None) -> list[torch.Generator]:
    """The generators of their own that loaders draw their order from.

    Raises:
        ValueError: A loader's workers go on from epoch to epoch, and what they draw from is not to be had.
    """
    found = []
    for loader in data:
        if isinstance(loader, DataLoader):
            if loader.persistent_workers:
                raise ValueError(
                    "fit: a DataLoader with persistent_workers=True cannot be resumed exactly, its workers "
                    "keep their random state to themselves: pass persistent_workers=False"
                )
            samplers = loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)
            found += [getattr(each, "generator", None) for each in (loader, *samplers)]
    return list({id(each): each for each in found if each is not None}.values())


def resident(data: Data, device: torch.device | str | None) -> tuple[Data, bool]:
    """The data on the device, to be indexed and drawn there, and whether they are: where they fit.

    Tensors, tuples of them and Splits can be; they may take a quarter of a GPU's free memory. They are
    looked through for NaN here, so that no batch has to be.

    Raises:
        ValueError: A value is NaN; the message names its row.
    """
    where = torch.device(device) if device is not None else device_of(data)
    tensors = held_by(data)
    whole = isinstance(data, (Tensor, tuple)) or split_of(data) is data
    if where.type != "cuda" or not whole or not all(map(_is, tensors)):
        return data, False
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device != where)
    if size > torch.cuda.mem_get_info(where)[0] / 4:
        return data, False
    check_rows(tensors, None, 0)
    held: Any = data
    return tuple(each.to(where) for each in held) if isinstance(held, tuple) else held.to(where), True


def rows_of(data: Data, rows: Tensor) -> tuple[Tensor, ...]:
    """Some rows, by their numbers, as arguments of model and guide; a loader's are those of its dataset."""
    return take(data.dataset if isinstance(data, DataLoader) else data, rows)


def take(data: Tensor | tuple[Tensor, ...] | Dataset[Any], rows: Tensor) -> tuple[Tensor, ...]:
    """Some rows of what is indexed; see :func:`rows_of` for loaders too."""
    if isinstance(data, Tensor):
        return (data[rows.to(data.device)],)
    if isinstance(data, tuple):
        return tuple(tensor[rows.to(tensor.device)] for tensor in data)
    if hasattr(data, "drawing") or hasattr(data, "row_order"):  # a Split and Shards index by tensors
        return as_tuple(data[rows])
    if isinstance(data, IterableDataset):
        raise TypeError("data: an IterableDataset has no rows by number: pass a map-style one, or Shards")
    if hasattr(data, "__getitems__"):  # a Subset of Shards
        return as_tuple(default_collate(data.__getitems__(rows.tolist())))
    return as_tuple(default_collate([data[row] for row in rows.tolist()]))


def as_tuple(batch: Any) -> tuple[Tensor, ...]:
    """A batch as arguments of model and guide."""
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def check_rows(batch: tuple[Tensor, ...], rows: Tensor | None, seen: int) -> None:
    """Refuse what is no tensor, and NaN."""
    for position, tensor in enumerate(batch):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"data: expected rows that are tensors, got {type(tensor).__name__}")
        if tensor.is_floating_point() and tensor.isnan().any():
            row = int(tensor.flatten().isnan().nonzero()[0]) // max(tensor[0].numel(), 1)
            row = int(rows[seen + row]) if rows is not None else seen + row
            where = f" of argument {position}" if len(batch) > 1 else ""
            raise ValueError(f"data: NaN in row {row}{where}: drop the row or fill it in")


def held_by(data: Any) -> tuple[Any, ...]:
    """The tensors of what has all its values in tensors; a tensor has a method of that name too."""
    if isinstance(data, tuple):
        return data
    return (data if isinstance(data, Tensor) else getattr(data, "values", data),)


def device_of(data: Any) -> torch.device:
    """Where its values are."""
    first = held_by(data)[0]
    return first.device if isinstance(first, Tensor) else torch.device("cpu")


def split_of(data: Any) -> Split | None:
    """The Split behind loaders and subsets."""
    while data is not None and not hasattr(data, "drawing"):
        data = getattr(data, "dataset", None)
    return data


def _is(values: Any) -> bool:
    return isinstance(values, Tensor)


def _fingerprint_of_some(data: Any) -> int:
    if isinstance(data, IterableDataset):
        with stream("identity"):
            return fingerprint(each for each in as_tuple(next(iter(DataLoader(data, 3)))) if _is(each))
    chosen, split = torch.tensor([0, len(data) // 2, len(data) - 1]), split_of(data)
    with ExitStack() as streams:
        streams.enter_context(stream("identity"))
        if split is not None:
            streams.enter_context(split.drawing("identity"))
        return fingerprint(each for each in take(data, chosen) if _is(each))
