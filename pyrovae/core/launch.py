"""Which of several processes this one is, by torchrun's environment. This module does not import torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Place", "is_main_process", "part", "place"]

MEND = "start all processes by one torchrun"


class Place(NamedTuple):
    """One process among several: its rank, the number of processes, and where the first one listens."""

    rank: int
    size: int
    local: int  # the rank on this machine, and the index of the GPU to use
    address: str
    port: int

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}, on {socket.gethostname()}"


def place(environ: Mapping[str, str] | None = None) -> Place | None:
    """The place that torchrun's environment describes; None for a single process.

    Raises:
        ValueError: A variable is missing, is no number, or contradicts another.

    Example:
        >>> place({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"})
        Place(rank=1, size=2, local=1, address='a', port=29500)
        >>> place({}) is None
        True
    """
    environ = os.environ if environ is None else environ
    if "WORLD_SIZE" not in environ and "RANK" not in environ:
        return None
    rank, size = _variable(environ, "RANK", int), _variable(environ, "WORLD_SIZE", int)
    if not 0 <= rank < size:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE is {size}: ranks go from 0 to {size - 1}: {MEND}")
    if size == 1:
        return None
    local = _variable(environ, "LOCAL_RANK", int) if "LOCAL_RANK" in environ else rank
    address, port = _variable(environ, "MASTER_ADDR", str), _variable(environ, "MASTER_PORT", int)
    return Place(rank, size, local, address, port)


def _variable(environ: Mapping[str, str], name: str, kind: Callable[[str], Any]) -> Any:
    if not environ.get(name):
        raise ValueError(f"{name} is not set: {MEND}")
    try:
        return kind(environ[name])
    except ValueError:
        raise ValueError(f"{name} is {environ[name]!r}, expected a number: {MEND}") from None


def is_main_process(error: BaseException | None = None) -> bool:
    """Whether this process prints and writes: the first one, or one with an ``error`` of its own."""
    try:
        here = place()
    except ValueError:
        here = None
    return here is None or here.rank == 0 or hasattr(error, "own")


def part(rows: int, rank: int, size: int) -> slice:
    """The rows of a batch that a process computes: consecutive, and as even as can be.

    Example:
        >>> [part(10, rank, 4) for rank in range(4)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    each, more = divmod(rows, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))
