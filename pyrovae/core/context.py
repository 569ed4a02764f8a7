"""While a tile is evaluated: what is the same at every pass is computed once, and memory has a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["NotCapturableError", "cached", "caching", "captured", "chunk_limit", "in_parts"]

Value = TypeVar("Value")
_kept: ContextVar[dict[int, tuple[Any, tuple[Any, ...], Any]] | None] = ContextVar("_kept", default=None)
chunk_limit: ContextVar[int | None] = ContextVar("chunk_limit", default=None)
"""Most draws that anything scores at once, where nobody asked for another number."""


@contextmanager
def caching() -> Iterator[None]:
    """Inside, :func:`once` keeps its last value of each owner: parameters have to stand still meanwhile."""
    token = _kept.set({} if _kept.get() is None else _kept.get())
    try:
        yield
    finally:
        _kept.reset(token)


def cached(owner: object, arguments: tuple[Any, ...], compute: Callable[[], Value]) -> Value:
    """The value that the owner had for the very same arguments, else what ``compute()`` gives.

    Outside of :func:`remembering` it is computed at each call. A graph would compute it at every run: there
    is none of what remembers.

    Example:
        >>> x, calls = object(), []
        >>> with remembering():
        ...     _ = [once(x, (x,), lambda: calls.append(1)) for _ in range(3)]
        >>> len(calls)
        1
    """
    kept = _kept.get()
    if kept is None:
        return compute()
    if captured.get():
        raise NotCapturableError(f"{type(owner).__name__} is fitted to its data once, by steps of its own")
    entry = kept.get(id(owner))
    same = entry is not None and len(entry[1]) == len(arguments)
    if entry is None or not same or any(a is not b for a, b in zip(entry[1], arguments, strict=True)):
        kept[id(owner)] = entry = (owner, arguments, compute())  # the owner too: its id stays its own
    return entry[2]


class NotCapturableError(Exception):
    """What a function does that no fixed graph of operations can do."""


captured: ContextVar[bool] = ContextVar("captured", default=False)
"""Whether what runs is being written down for a compiler that makes one loop of neighbouring operations."""

in_parts: ContextVar[bool] = ContextVar("in_parts", default=False)
"""Whether programs run on a part of a batch whose rest other processes have."""
