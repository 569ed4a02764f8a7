"""Batches of whatever holds data: a tensor, a tuple of tensors, a Dataset or a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

__all__ = ["Data", "batches", "conventions_of", "num_rows"]

Data = Tensor | tuple[Tensor, ...] | Dataset[Any] | DataLoader[Any]


def num_rows(data: Data) -> int:
    """Rows in all.

    Raises:
        ValueError: No rows, or tensors of different lengths.
        TypeError: No such data can be taken.
    """
    if isinstance(data, DataLoader):
        rows = len(data.dataset)  # type: ignore[arg-type]
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
        )
    if rows == 0:
        raise ValueError("data: the set is empty, at least one row is needed")
    return rows


def conventions_of(data: Data) -> dict[str, Any]:
    """What a Split says of its conventions; nothing for other data."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    return dict(getattr(dataset, "conventions", {"rows": num_rows(data)}))


def batches(
    data: Data,
    batch_size: int,
    *,
    order: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """The data in batches, each a tuple of arguments for model and guide; the last may be smaller.

    Args:
        data: A DataLoader is taken as it is, with its own batches and order.
        batch_size: Rows per batch.
        order: Shuffles the rows; in sequence if not given.
        device: Where the batches go.

    Raises:
        ValueError: A value is NaN; the message names its row.
    """
    if isinstance(data, DataLoader):
        drawn = (_as_tuple(batch) for batch in data)
        rows = None
    else:
        rows = torch.randperm(num_rows(data), generator=order) if order else torch.arange(num_rows(data))
        drawn = (_take(data, chosen) for chosen in rows.split(batch_size))
    seen = 0
    for batch in drawn:
        _check(batch, rows, seen)
        seen += len(batch[0])
        yield tuple(tensor.to(device) for tensor in batch) if device else batch


def _take(data: Tensor | tuple[Tensor, ...] | Dataset[Any], rows: Tensor) -> tuple[Tensor, ...]:
    if isinstance(data, Tensor):
        return (data[rows.to(data.device)],)
    if isinstance(data, tuple):
        return tuple(tensor[rows.to(tensor.device)] for tensor in data)
    if hasattr(data, "reseed"):  # a Split indexes by tensors
        return (data[rows],)
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
