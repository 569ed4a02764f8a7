"""Free memory and the memory that a computation takes, so that draws come in chunks that fit."""

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
"""Share of the free memory that a chunk may take; the rest is for sums and for other programs."""

SYSTEM = Path("/")
"""Root of the file system in which Linux describes the memory limits of containers and jobs."""

V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
V2 = "memory.max", "memory.current", ""
"""Files of a control group with its limit and usage, and the prefix of its statistics."""

FEW = 2, 4
"""Numbers of draws that are measured, to separate the memory of a draw from the fixed part."""


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes free on a device, where memory that torch has reserved on a GPU and does not use counts as free.

    On the CPU these are the bytes available without swapping, within the limits of containers and jobs,
    divided by the number of processes that torchrun started on this machine.
    """
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = min([int(psutil.virtual_memory().available), *_free_in_cgroups()])
    return max(free, 0) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _free_in_cgroups() -> Iterator[int]:
    """Bytes free in each control group (v1 or v2) that limits this process; cached files count as free."""
    groups = SYSTEM / "proc/self/cgroup"
    lines = groups.read_text().splitlines() if groups.exists() else []
    for _, controller, own in (line.split(":", 2) for line in lines):
        if controller in ("", "memory"):
            limit, usage, total = V1 if controller else V2
            base, place = SYSTEM / "sys/fs/cgroup" / controller, Path(own.lstrip("/"))
            for group in (base / each for each in (place, *place.parents)):
                with suppress(OSError, ValueError, KeyError):  # an invisible group, or the limit "max"
                    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    cached = int(stat[f"{total}inactive_file"]) + int(stat[f"{total}active_file"])
                    yield int((group / limit).read_text()) - int((group / usage).read_text()) + cached


def peak_bytes(compute: Callable[[], Any]) -> int:
    """Largest number of bytes in tensors that a computation creates and keeps alive at once.

    The memory that kernels take internally is not counted. The computation has its own random stream.

    Example:
        >>> peak_bytes(lambda: torch.zeros(1000).exp().sum())  # zeros and their exponentials, float32
        8000
    """
    with stream("memory"), _Counter() as counter:
        compute()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Counts the bytes of storages from the operation that creates them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles here, and torch would import its compiler: seconds and 150 MB

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in inputs and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def _storages(tree: Any) -> Iterator[Any]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            with suppress(NotImplementedError, RuntimeError):  # a sparse tensor has no storage of its own
                yield leaf.untyped_storage()


def fitting(compute: Callable[[int], Any], most: int, device: torch.device | str) -> int:
    """The number of draws that fit into half of the free memory: ``most``, or a smaller power of two.

    ``compute`` is run twice, with few draws, to measure what a draw takes.
    """
    if most <= max(FEW):
        return most
    few, more = (peak_bytes(lambda draws=draws: compute(draws)) for draws in FEW)  # type: ignore[misc]
    each = max((more - few) / (FEW[1] - FEW[0]), 1)
    fixed = max(few - FEW[0] * each, 0)
    fit = int((SHARE * free_bytes(device) - fixed) / each)
    return most if fit >= most else 1 << max(fit.bit_length() - 1, 0) if fit > 0 else 1
