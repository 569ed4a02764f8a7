"""Batches of data of any kind, and the part of each batch that one of several processes has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyrovae.core.launch import part
from pyrovae.core.random import generator, stream
from pyrovae.data.rows import Data, Rows, as_tuple, check_rows


def batches(
    data: Data, batch_size: int, purpose: str, *key: int, **options: Any
) -> Iterator[tuple[Tensor, ...]]:
    """The data in batches, each a tuple of arguments of model and guide: see :func:`local_batches`."""
    for batch, _ in local_batches(data, batch_size, purpose, *key, **options):
        yield batch


def local_batches(
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
    """The rows of each batch that process ``rank`` of ``size`` has, and the number of rows of the batch.

    Order and redrawn values come from streams of the purpose and key (seed, epoch), batch by batch; the first
    ``start`` batches are left out. A DataLoader keeps its own batches and order, which are made on every
    process and then cut. Rows with NaN are refused unless the data are ``checked``.
    """
    rows = Rows(data)
    if rows.is_iterable and rows.loader is None:
        rows = Rows(DataLoader(rows.source, batch_size))
    own = (rank,) if size > 1 and rows.loader is None else ()
    share = partial(part, rank=rank, size=size)
    # A loader's first batches are made and thrown away; other data begin with the batch asked for.
    first = 0 if rows.loader is not None else start
    order = None
    if rows.loader is None:
        order = rows.order(generator(f"order, {purpose}", *key) if shuffle else None)
        made = _by_number(rows, order.to(rows.device).split(batch_size)[first:], share)
    else:
        made = _by_loader(rows.loader, share)
    seen = first * batch_size
    for step in itertools.count(first):
        with ExitStack() as streams:
            if not rows.is_deterministic:
                streams.enter_context(stream(f"rows, {purpose}", *key, step, *own))
            if rows.split is not None:
                streams.enter_context(rows.split.drawing(f"redraw, {purpose}", *key, step, *own))
            batch, whole = next(made, (None, 0))
        if batch is None:
            _check_all_came(rows, seen)
            return
        if not checked:
            check_rows(batch, order, seen + share(whole).start)
        seen += whole
        if step >= start:
            yield tuple(_send(tensor, device) for tensor in batch) if device else batch, whole


@contextmanager
def explain_dead_workers(*data: Data | None) -> Iterator[None]:
    """Explain the error that torch raises, wherever it is, when a worker of a DataLoader dies."""
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


def _by_number(
    rows: Rows, batches: tuple[Tensor, ...], share: Callable[[int], slice]
) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """The process's share of each batch, taken by row numbers; an empty share keeps its shape."""
    for numbers in batches:
        own = numbers[share(len(numbers))]
        if len(own):
            yield rows.take(own), len(numbers)
        else:
            yield tuple(each[:0] for each in rows.take(numbers[:1])), len(numbers)


def _by_loader(
    loader: DataLoader[Any], share: Callable[[int], slice]
) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """The process's share of each batch of a loader; rows that are no tensors are refused later."""
    for made in loader:
        batch = as_tuple(made)
        span = share(len(batch[0]))
        is_whole = span == slice(0, len(batch[0])) or not all(isinstance(each, Tensor) for each in batch)
        yield batch if is_whole else tuple(each[span] for each in batch), len(batch[0])


def _send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, without waiting for the GPU's work."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)  # its pages are kept until it is copied
    return tensor.to(device)


def _check_all_came(rows: Rows, seen: int) -> None:
    """Refuse an IterableDataset of another number of rows: often each worker gave all of them."""
    if rows.is_iterable and rows.loader is not None and not rows.loader.drop_last and seen != len(rows):
        raise ValueError(
            f"data: the IterableDataset gave {seen:,} rows, and its length is {len(rows):,}: let each worker "
            f"give its own part of them, or use none"
        )
