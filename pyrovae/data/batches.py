"""Batches of whatever holds data, and the part of each that one of several processes has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pyrovae.core.launch import part
from pyrovae.core.random import generator, stream
from pyrovae.data.rows import Data, as_tuple, check_rows, device_of, held_by, num_rows, split_of, take

__all__ = ["batches", "shares", "telling_of_workers"]


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
    split, seen = split_of(data), (start - again) * batch_size
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
            check_rows(batch, rows, seen + cut(whole).start)
        seen += whole
        if step < start:
            continue
        yield tuple(_sent(tensor, device) for tensor in batch) if device else batch, whole


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


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, without waiting for what the GPU is at."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)  # its pages are kept until it is copied
    return tensor.to(device)


def _fetches(
    data: Data, batch_size: int, order: torch.Generator | None, start: int, cut: Callable[[int], slice]
) -> tuple[Tensor | None, Iterator[tuple[tuple[Tensor, ...], int]]]:
    """The rows in their order, where it is known, and parts of batches, each made when it is asked for."""
    if isinstance(data, DataLoader):
        # "for batch in data" would start the loader here, outside the stream that seeds its order.
        made = (as_tuple(batch) for loader in (data,) for batch in loader)
        return None, ((_cut(batch, cut), len(batch[0])) for batch in made)
    rows = torch.arange(num_rows(data)) if order is None else _shuffled(data, order)
    there = rows.to(device_of(data))  # once, and not for each batch
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
        return tuple(each[:0] for each in take(data, chosen[:1]))
    return take(data, chosen[here])


def _shuffled(data: Any, order: torch.Generator) -> Tensor:
    """All rows in a new order: what is on a disk may have its own way."""
    held = held_by(data)[0]
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
