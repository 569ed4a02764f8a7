"""The context of a computation: cached constants, the chunk limit, and whether it is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["NotCapturableError", "cached", "caching", "captured", "chunk_limit", "in_parts"]

Value = TypeVar("Value")
_cache: ContextVar[dict[int, tuple[Any, tuple[Any, ...], Any]] | None] = ContextVar("_cache", default=None)
chunk_limit: ContextVar[int | None] = ContextVar("chunk_limit", default=None)
"""Largest number of draws to score at once, if the caller does not choose a number."""


@contextmanager
def caching() -> Iterator[None]:
    """A block in which :func:`cached` keeps each owner's last value; parameters must not change inside it."""
    token = _cache.set({} if _cache.get() is None else _cache.get())
    try:
        yield
    finally:
        _cache.reset(token)


def cached(owner: object, arguments: tuple[Any, ...], compute: Callable[[], Value]) -> Value:
    """The value of ``compute()``, or inside :func:`caching` the owner's last one for these same arguments.

    A captured graph would compute it at every run, and is refused.

    Example:
        >>> x, calls = object(), []
        >>> with caching():
        ...     _ = [cached(x, (x,), lambda: calls.append(1)) for _ in range(3)]
        >>> len(calls)
        1
    """
    cache = _cache.get()
    if cache is None:
        return compute()
    if captured.get():
        raise NotCapturableError(f"{type(owner).__name__} is fitted to its data once, by steps of its own")
    entry = cache.get(id(owner))
    same = entry is not None and len(entry[1]) == len(arguments)
    if entry is None or not same or any(a is not b for a, b in zip(entry[1], arguments, strict=True)):
        cache[id(owner)] = entry = (owner, arguments, compute())  # keeping the owner keeps its id unique
    return entry[2]


class NotCapturableError(Exception):
    """A function does something that no fixed graph of operations can do."""


captured: ContextVar[bool] = ContextVar("captured", default=False)
"""Whether the running program is captured for the compiler, which fuses neighbouring operations."""

in_parts: ContextVar[bool] = ContextVar("in_parts", default=False)
"""Whether programs run on a part of a batch, while other processes have the rest."""
