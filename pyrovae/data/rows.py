"""Uniform access to the rows of a tensor, a tuple of tensors, a Dataset or a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pyrovae.core.random import stream
from pyrovae.data.split import CHUNK, Split

Data = Tensor | tuple[Tensor, ...] | Dataset[Any] | DataLoader[Any]


class Rows:
    """The rows of some data, whatever their kind; data of another kind, or without rows, are refused.

    Attributes:
        loader: The DataLoader, whose batches and order are kept; None if rows are taken by number.
        source: The loader's dataset, or the data themselves.
        split: The Split behind loaders and subsets, if there is one.
        is_deterministic: Whether rows depend on no random numbers but those of the split.
        stored: The tensors or files that hold all values; empty if rows are computed.
    """

    def __init__(self, data: Data) -> None:
        self.loader = data if isinstance(data, DataLoader) else None
        self.source: Any = data.dataset if isinstance(data, DataLoader) else data
        self.is_iterable = isinstance(self.source, IterableDataset)
        self.count = _count(self.source, self.loader is not None)
        self.split = _split_of(self.source)
        whole = isinstance(self.source, (Tensor, tuple)) or self.split is self.source
        self.is_deterministic = whole and self.loader is None
        self.stored: tuple[Any, ...] = ()
        if whole:
            self.stored = as_tuple(self.source if self.split is None else self.split.values)
        elif hasattr(self.source, "fingerprint"):
            self.stored = (self.source,)
        self.in_memory = whole and all(isinstance(each, Tensor) for each in self.stored)
        self.device = self.stored[0].device if self.in_memory and not self.loader else torch.device("cpu")
        self._take = _taker(self.source)

    def __len__(self) -> int:
        return self.count

    def take(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows by their numbers, as arguments of model and guide."""
        return as_tuple(self._take(rows))

    def order(self, shuffle: torch.Generator | None) -> Tensor:
        """The numbers of all rows, in sequence or shuffled; files may have an order of their own."""
        if shuffle is None:
            return torch.arange(self.count)
        if self.stored and hasattr(self.stored[0], "row_order"):
            return self.stored[0].row_order(shuffle)
        return torch.randperm(self.count, generator=shuffle)


def num_rows(data: Data) -> int:
    """Number of rows; errors are those of :class:`Rows`."""
    return len(Rows(data))


def take_rows(data: Data, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows by their numbers, as arguments of model and guide; a loader's are those of its dataset."""
    return Rows(data).take(rows)


def conventions_of(data: Data) -> dict[str, Any]:
    """The conventions of the Split behind the data, through loaders and subsets; {} for other data."""
    split = _split_of(data)
    return {} if split is None else dict(split.conventions)


def identity_of(data: Data) -> dict[str, Any]:
    """What a resumed run compares: number of rows, conventions, and a hash of all values.

    Of rows that are computed, three are hashed; there is no hash if these differ from one time to the next.
    """
    rows = Rows(data)
    found: dict[str, Any] = {"is": "data", "rows": len(rows)}
    if (loader := rows.loader) is not None:
        found |= {
            "batches": len(loader),
            "order": type(loader.sampler).__name__,
            "workers": loader.num_workers,
        }
    if rows.split is not None:
        found |= {name: getattr(rows.split, name) for name in ("scale", "redraw", "dequantise", "seed")}
    if rows.stored:
        hashes = {fingerprint(rows.stored)}
        if hasattr(rows.stored[0], "row_order"):
            files = rows.stored[0]
            found["shuffle"] = None if files.shuffle == "rows" else f"{files.mixed} shards"
    else:
        hashes = {_fingerprint_of_some(rows) for _ in range(2)}
    if len(hashes) == 1:
        found["fingerprint"] = f"{hashes.pop():08x}"
    return found | {"conventions": conventions_of(data)}


def fingerprint(values: Iterable[Any], before: int = 0) -> int:
    """CRC-32 of tensors and of the fingerprints of stored rows, on top of the CRC-32 before them."""
    for each in values:
        if not isinstance(each, Tensor):
            before = crc32(each.fingerprint.encode(), before)
            continue
        for chunk in each.split(CHUNK):
            content = chunk.detach().cpu().contiguous().view(torch.uint8)  # numpy lacks bfloat16
            before = crc32(content.numpy().tobytes(), before)
    return before


def loader_generators(*data: Data | None) -> list[torch.Generator]:
    """The generators that the loaders among the data draw their order from."""
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


def move_to_gpu(data: Data, device: torch.device | str | None) -> tuple[Data, bool]:
    """The data on a GPU, if they are tensors that take at most a quarter of its free memory.

    Returned as well: whether they are there, checked for NaN, so that no batch has to be checked.
    """
    rows = Rows(data)
    device = torch.device(device) if device is not None else rows.device
    if device.type != "cuda" or not rows.in_memory or rows.loader is not None:
        return data, False
    size = sum(tensor.nbytes for tensor in rows.stored if tensor.device != device)
    if size > torch.cuda.mem_get_info(device)[0] / 4:
        return data, False
    check_rows(rows.stored, None, 0)
    source = rows.source
    return tuple(each.to(device) for each in source) if isinstance(source, tuple) else source.to(device), True


def as_tuple(batch: Any) -> tuple[Any, ...]:
    """A batch as arguments of model and guide."""
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def check_rows(batch: tuple[Tensor, ...], rows: Tensor | None, start: int) -> None:
    """Refuse a batch with NaN or without tensors; ``rows`` are all row numbers, ``start`` is its place."""
    for position, tensor in enumerate(batch):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"data: expected rows that are tensors, got {type(tensor).__name__}")
        if tensor.is_floating_point() and tensor.isnan().any():
            row = start + int(tensor.flatten().isnan().nonzero()[0]) // max(tensor[0].numel(), 1)
            row = row if rows is None else int(rows[row])
            where = f" of argument {position}" if len(batch) > 1 else ""
            raise ValueError(f"data: NaN in row {row}{where}: drop the row or fill it in")


def _count(source: Any, has_loader: bool) -> int:
    """Number of rows, checked."""
    is_iterable, has_length = isinstance(source, IterableDataset), hasattr(source, "__len__")
    if is_iterable and not has_length:
        raise TypeError(
            "data: an IterableDataset without a length, so that nothing tells where an epoch ends: give it "
            "__len__ (its rows come in its own order then), or write it by pyrovae.datasets.write_shards("
            "data, folder) and pass Shards(folder), whose rows are shuffled, and resumed to the bit"
        )
    if not (has_loader or is_iterable or (has_length and hasattr(source, "__getitem__"))):
        raise TypeError(
            f"data: expected a tensor, a tuple of tensors, a Dataset or a DataLoader, "
            f"got {type(source).__name__}"
            + (": pass one split, such as .train" if hasattr(source, "train") else "")
        )
    lengths = [len(each) for each in (source if isinstance(source, tuple) and not has_loader else (source,))]
    if len({*lengths}) != 1:
        raise ValueError(f"data: the tensors have {lengths} rows, expected equally many")
    if lengths[0] == 0:
        raise ValueError("data: the set is empty, at least one row is needed")
    return lengths[0]


def _split_of(data: Any) -> Split | None:
    """The Split behind loaders and subsets."""
    while not isinstance(data, (Split, type(None))):
        data = getattr(data, "dataset", None)
    return data


def _taker(source: Any) -> Callable[[Tensor], Any]:
    """How rows are taken from this kind of data, by their numbers."""
    if isinstance(source, Tensor):
        return lambda rows: source[rows.to(source.device)]
    if isinstance(source, tuple):
        return lambda rows: tuple(tensor[rows.to(tensor.device)] for tensor in source)
    if isinstance(source, Split) or hasattr(source, "row_order"):
        return source.__getitem__
    if isinstance(source, IterableDataset):
        return _refuse
    if hasattr(source, "__getitems__"):  # a Subset
        return lambda rows: default_collate(source.__getitems__(rows.tolist()))
    return lambda rows: default_collate([source[row] for row in rows.tolist()])


def _refuse(rows: Tensor) -> Any:
    raise TypeError("data: an IterableDataset has no rows by number: pass a map-style one, or Shards")


def _fingerprint_of_some(rows: Rows) -> int:
    """A hash of the first, the middle and the last row, or of the first three of an IterableDataset."""
    with ExitStack() as streams:
        streams.enter_context(stream("identity"))
        if rows.is_iterable:
            some = as_tuple(next(iter(DataLoader(rows.source, 3))))
        else:
            if rows.split is not None:
                streams.enter_context(rows.split.drawing("identity"))
            some = rows.take(torch.tensor([0, len(rows) // 2, len(rows) - 1]))
        return fingerprint(each for each in some if isinstance(each, Tensor))
