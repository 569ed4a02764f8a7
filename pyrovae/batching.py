"""Batches of whatever holds data: a tensor, a tuple of tensors, a Dataset or a DataLoader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pyrovae.ranks import part
from pyrovae.streams import generator, stream

if TYPE_CHECKING:
    from pyrovae.datasets import Split

__all__ = [
    "Data",
    "batches",
    "conventions_of",
    "fingerprint",
    "generators_of",
    "identity_of",
    "num_rows",
    "resident",
    "rows_of",
    "shares",
    "telling_of_workers",
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
    split = _split(data)
    return {} if split is None else dict(split.conventions)


def fingerprint(tensors: Iterable[Tensor], before: int = 0) -> int:
    """Hash the bytes of some rows, on top of those before them; what knows its own hash is not read."""
    for tensor in tensors:
        if hasattr(tensor, "fingerprint"):
            before = crc32(tensor.fingerprint.encode(), before)
            continue
        seen = tensor.detach().cpu().contiguous().view(torch.uint8)  # numpy lacks bfloat16
        before = crc32(seen.numpy().tobytes(), before)
    return before


def identity_of(data: Data) -> dict[str, Any]:
    """What data are known by again: rows, conventions, and a hash of all their values.

    Of rows that are made when they are asked for, three count; where these differ from one time to the next,
    none.
    """
    rows: Any = data.dataset if isinstance(data, DataLoader) else data
    found: dict[str, Any] = {"is": "data", "rows": num_rows(data)}
    if isinstance(data, DataLoader):
        found |= {"batches": len(data), "order": type(data.sampler).__name__, "workers": data.num_workers}
    split = _split(data)
    if split is not None:
        found |= {name: getattr(split, name, None) for name in ("scale", "redraw", "dequantise", "seed")}
    if isinstance(rows, (Tensor, tuple)) or _split(rows) is rows or hasattr(rows, "fingerprint"):
        held = _held_by(rows)
        seen = [fingerprint(some for each in held for some in (each.split(FEW) if _is(each) else [each]))]
        if hasattr(held[0], "row_order"):
            found["shuffle"] = None if held[0].shuffle == "rows" else f"{held[0].mixed} shards"
    else:
        seen = [_fingerprint_of_some(rows) for _ in range(2)]
    if len({*seen}) == 1:
        found["fingerprint"] = f"{seen[0]:08x}"
    return found | {"conventions": conventions_of(data)}


def _is(values: Any) -> bool:
    return isinstance(values, Tensor)


def _fingerprint_of_some(data: Any) -> int:
    if isinstance(data, IterableDataset):
        with stream("identity"):
            return fingerprint(each for each in _as_tuple(next(iter(DataLoader(data, 3)))) if _is(each))
    chosen, split = torch.tensor([0, len(data) // 2, len(data) - 1]), _split(data)
    with ExitStack() as streams:
        streams.enter_context(stream("identity"))
        if split is not None:
            streams.enter_context(split.drawing("identity"))
        return fingerprint(each for each in _take(data, chosen) if _is(each))


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


def batches(
    data: Data,
    batch_size: int,
    purpose: str,
    *key: int,
    shuffle: bool = False,
    device: torch.device | str | None = None,
    checked: bool = False,
    start: int = 0,
) -> Iterator[tuple[Tensor, ...]]:
    """The data in batches, each a tuple of arguments for model and guide; the last may be smaller.

    Order, redrawn values and whatever else is random in the data come from streams of the purpose
    and key, batch by batch.

    Args:
        data: A DataLoader is taken as it is, with its own batches and order; an IterableDataset in its order.
        batch_size: Rows per batch.
        purpose: What the batches are for.
        key: The seed, and the epoch where there is one.
        shuffle: Shuffle the rows; in sequence if not.
        device: Where the batches go.
        checked: Whether the data are known to hold no NaN.
        start: Batches to leave out: those after them are as they would be. A DataLoader makes them all the
            same, and they are thrown away.

    Raises:
        ValueError: No rows, or a value is NaN; the message names its row. An IterableDataset gives other than
            its number of rows.
        TypeError: The rows are no tensors.
    """
    for batch, _ in shares(
        data, batch_size, purpose, *key, shuffle=shuffle, device=device, checked=checked, start=start
    ):
        yield batch


def shares(
    data: Data,
    batch_size: int,
    purpose: str,
    *key: int,
    rank: int = 0,
    size: int = 1,
    shuffle: bool = False,
    device: torch.device | str | None = None,
    checked: bool = False,
    start: int = 0,
) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """As :func:`batches`, one process's rows of each, which may be none, and how many the batch has.

    What is redrawn is drawn by each process for its own rows. The batches of a DataLoader are cut once they
    are made, the same on every process.

    Args:
        data: As there.
        batch_size: Rows of a batch, those of all processes together.
        purpose: As there.
        key: As there.
        rank: The process.
        size: How many there are.
        shuffle: As there.
        device: As there.
        checked: As there.
        start: As there.
    """
    total = num_rows(data)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size)
    cut = partial(part, rank=rank, size=size)
    own = (rank,) if size > 1 and not isinstance(data, DataLoader) else ()
    order = generator(f"order, {purpose}", *key) if shuffle else None
    again = start if isinstance(data, DataLoader) else 0
    rows, fetches = _fetches(data, batch_size, order, start - again, cut)
    split, seen = _split(data), (start - again) * batch_size
    plain = isinstance(data, (Tensor, tuple)) or split is data  # nothing draws from torch's generator
    for step in itertools.count(start - again):
        with ExitStack() as streams:
            if not plain:
                streams.enter_context(stream(f"rows, {purpose}", *key, step, *own))
            if split is not None:
                streams.enter_context(split.drawing(f"redraw, {purpose}", *key, step, *own))
            batch, whole = next(fetches, (None, 0))
        if batch is None:
            _check_all_came(data, seen, total)
            return
        if not checked:
            _check(batch, rows, seen + cut(whole).start)
        seen += whole
        if step < start:
            continue
        yield tuple(_sent(tensor, device) for tensor in batch) if device else batch, whole


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, without waiting for what the GPU is at."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)  # its pages are kept until it is copied
    return tensor.to(device)


@contextmanager
def telling_of_workers(*data: Data | None) -> Iterator[None]:
    """Say what it means that a loader's worker is gone, which torch raises wherever the signal comes."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        workers = any(isinstance(each, DataLoader) and each.num_workers for each in data)
        if not workers or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
            raise
        raise RuntimeError(
            f"data: a worker of the DataLoader died ({' '.join(str(error).split())}): it may have run out of "
            f"memory: use fewer workers or smaller batches"
        ) from error


def _fetches(
    data: Data, batch_size: int, order: torch.Generator | None, start: int, cut: Callable[[int], slice]
) -> tuple[Tensor | None, Iterator[tuple[tuple[Tensor, ...], int]]]:
    """The rows in their order, where it is known, and parts of batches, each made when it is asked for."""
    if isinstance(data, DataLoader):
        # "for batch in data" would start the loader here, outside the stream that seeds its order.
        made = (_as_tuple(batch) for loader in (data,) for batch in loader)
        return None, ((_cut(batch, cut), len(batch[0])) for batch in made)
    rows = torch.arange(num_rows(data)) if order is None else _shuffled(data, order)
    there = rows.to(_device_of(data))  # once, and not for each batch
    chunks = there.split(batch_size)[start:]
    return rows, ((_taken(data, chosen, cut(len(chosen))), len(chosen)) for chosen in chunks)


def _cut(batch: tuple[Any, ...], cut: Callable[[int], slice]) -> tuple[Any, ...]:
    """A part of a batch; all of it as it is, and what is no tensor too, which is refused elsewhere."""
    if not all(isinstance(each, Tensor) for each in batch) or cut(len(batch[0])) == slice(0, len(batch[0])):
        return batch
    return tuple(each[cut(len(each))] for each in batch)


def _taken(data: Any, chosen: Tensor, here: slice) -> tuple[Tensor, ...]:
    """Some of the chosen rows; of none, their shapes."""
    if here.start == here.stop:
        return tuple(each[:0] for each in _take(data, chosen[:1]))
    return _take(data, chosen[here])


def _shuffled(data: Any, order: torch.Generator) -> Tensor:
    """All rows in a new order: what is on a disk may have its own way."""
    held = _held_by(data)[0]
    if hasattr(held, "row_order"):
        return held.row_order(order)
    return torch.randperm(num_rows(data), generator=order)


def _check_all_came(data: Data, seen: int, total: int) -> None:
    """Of what gives rows one by one: workers that each give all of them are the common mistake."""
    stated = isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset) and not data.drop_last
    if stated and seen != total:
        raise ValueError(
            f"data: the IterableDataset gave {seen:,} rows, and its length is {total:,}: let each worker "
            f"give its own part of them, or use none"
        )


def resident(data: Data, device: torch.device | str | None) -> tuple[Data, bool]:
    """The data on the device, to be indexed and drawn there, and whether they are: where they fit.

    Tensors, tuples of them and Splits can be; they may take a quarter of a GPU's free memory. They are
    looked through for NaN here, so that no batch has to be.

    Raises:
        ValueError: A value is NaN; the message names its row.
    """
    where = torch.device(device) if device is not None else _device_of(data)
    tensors = _held_by(data)
    whole = isinstance(data, (Tensor, tuple)) or _split(data) is data
    if where.type != "cuda" or not whole or not all(map(_is, tensors)):
        return data, False
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device != where)
    if size > torch.cuda.mem_get_info(where)[0] / 4:
        return data, False
    _check(tensors, None, 0)
    held: Any = data
    return tuple(each.to(where) for each in held) if isinstance(held, tuple) else held.to(where), True


def _device_of(data: Any) -> torch.device:
    first = _held_by(data)[0]
    return first.device if isinstance(first, Tensor) else torch.device("cpu")


def _held_by(data: Any) -> tuple[Any, ...]:
    """The tensors of what has all its values in tensors; a tensor has a method of that name too."""
    if isinstance(data, tuple):
        return data
    return (data if isinstance(data, Tensor) else getattr(data, "values", data),)


def _split(data: Any) -> Split | None:
    """The Split behind loaders and subsets."""
    while data is not None and not hasattr(data, "drawing"):
        data = getattr(data, "dataset", None)
    return data


def rows_of(data: Data, rows: Tensor) -> tuple[Tensor, ...]:
    """Some rows, by their numbers, as arguments of model and guide; a loader's are those of its dataset."""
    return _take(data.dataset if isinstance(data, DataLoader) else data, rows)


def _take(data: Tensor | tuple[Tensor, ...] | Dataset[Any], rows: Tensor) -> tuple[Tensor, ...]:
    if isinstance(data, Tensor):
        return (data[rows.to(data.device)],)
    if isinstance(data, tuple):
        return tuple(tensor[rows.to(tensor.device)] for tensor in data)
    if hasattr(data, "drawing") or hasattr(data, "row_order"):  # a Split and Shards index by tensors
        return _as_tuple(data[rows])
    if isinstance(data, IterableDataset):
        raise TypeError("data: an IterableDataset has no rows by number: pass a map-style one, or Shards")
    if hasattr(data, "__getitems__"):  # a Subset of Shards
        return _as_tuple(default_collate(data.__getitems__(rows.tolist())))
    return _as_tuple(default_collate([data[row] for row in rows.tolist()]))


def _as_tuple(batch: Any) -> tuple[Tensor, ...]:
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _check(batch: tuple[Tensor, ...], rows: Tensor | None, seen: int) -> None:
    """Refuse what is no tensor, and NaN."""
    for position, tensor in enumerate(batch):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"data: expected rows that are tensors, got {type(tensor).__name__}")
        if tensor.is_floating_point() and tensor.isnan().any():
            row = int(tensor.flatten().isnan().nonzero()[0]) // max(tensor[0].numel(), 1)
            row = int(rows[seen + row]) if rows is not None else seen + row
            where = f" of argument {position}" if len(batch) > 1 else ""
            raise ValueError(f"data: NaN in row {row}{where}: drop the row or fill it in")
