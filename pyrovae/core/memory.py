"""How much memory there is and what a computation takes of it, so that draws come in chunks that fit."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyrovae.core.random import stream

__all__ = ["fitting", "free_bytes", "peak_bytes"]

SHARE = 0.5
"""Of the free memory that a chunk may take: the rest is for its sums, and for whoever else computes here."""

SYSTEM = Path("/")
"""Where Linux says how much memory a container, or a job, may have."""

FEW = 2, 4
"""Draws that are measured: what they take and what the network takes whatever they are is told apart."""


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that is free on a device: what torch holds of a GPU and does not use counts as free.

    On the CPU it is what the system can give without swapping, within the limits of containers and jobs,
    divided by the processes that torchrun started on this machine.

    Example:
        >>> free_bytes() > 2**20
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    free = min([int(psutil.virtual_memory().available), *_left_by_control_groups()])
    return max(free, 0) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _left_by_control_groups() -> Iterator[int]:
    """Of each group of Linux that this process is in and that has a limit; a cache of files gives way."""
    versions = {
        "": ("sys/fs/cgroup", "memory.max", "memory.current", ""),
        "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    }
    try:
        groups = (SYSTEM / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in groups):
        if controllers not in versions:
            continue
        base, limit, usage, prefix = versions[controllers]
        own = Path(path.lstrip("/"))
        for group in (SYSTEM / base / each for each in (own, *own.parents)):
            with suppress(OSError, ValueError, KeyError):  # not to be seen from here, or no limit: "max"
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                files = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("inactive", "active"))
                yield int((group / limit).read_text()) - int((group / usage).read_text()) + files


def peak_bytes(compute: Callable[[], Any]) -> int:
    """Most bytes of tensors that were made by a computation and alive at once, the result among them.

    What a kernel takes for itself is not seen. The noise of the computation is a stream's of its own.

    Example:
        >>> peak_bytes(lambda: torch.zeros(1000).exp().sum())  # zeros and their exponentials, float32
        8000
    """
    with stream("memory"), _Counting() as counting:
        compute()
    return counting.peak


class _Counting(TorchDispatchMode):
    """Counts the bytes of storages from when an operation makes them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles here, and torch would import its compiler, of seconds and 150 MB

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def _storages(tree: Any) -> Iterator[Any]:
    """Of all tensors but those that have none of their own, such as sparse ones."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            with suppress(NotImplementedError, RuntimeError):
                yield leaf.untyped_storage()


def fitting(compute: Callable[[int], Any], most: int, device: torch.device | str) -> int:
    """How many draws half of the free memory holds at once: ``most``, or a smaller power of two, or 1.

    Args:
        compute: What is computed of so many draws; it runs twice, of few.
        most: No more are wanted.
        device: Where it runs.

    Example:
        >>> fitting(lambda draws: torch.zeros(draws, 1000), most=100, device="cpu")
        100
    """
    if most <= max(FEW):
        return most
    few, more = (peak_bytes(lambda draws=draws: compute(draws)) for draws in FEW)  # type: ignore[misc]
    each = max((more - few) / (FEW[1] - FEW[0]), 1)
    fixed = max(few - FEW[0] * each, 0)
    fit = int((SHARE * free_bytes(device) - fixed) / each)
    return most if fit >= most else 1 << max(fit.bit_length() - 1, 0) if fit > 0 else 1
