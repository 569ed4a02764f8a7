"""How much memory there is and what a computation takes of it, so that draws come in chunks that fit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyrovae.streams import stream

__all__ = ["fitting", "free_bytes", "peak_bytes"]

SHARE = 0.5
"""Of the free memory that a chunk may take: the rest is for its sums, and for whoever else computes here."""

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux says how much memory a container may have."""


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that is free on a device: what torch holds of a GPU and does not use counts as free.

    On the CPU it is what the system can give without swapping, within the limits of a container.

    Example:
        >>> free_bytes() > 2**20
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    free = int(psutil.virtual_memory().available)
    versions = {
        CGROUPS: ("memory.max", "memory.current", "inactive_file"),
        CGROUPS / "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    for folder, (limit, usage, cached) in versions.items():
        with suppress(OSError, ValueError, KeyError):  # no such version, or no limit: "max"
            said = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / usage).read_text()) - int(said[cached])
            free = min(free, int((folder / limit).read_text()) - used)
    return max(free, 0)


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
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def fitting(size: int, most: int, device: torch.device | str) -> int:
    """How many times so many bytes half of the free memory holds: ``most``, or a smaller power of two, or 1.

    Example:
        >>> fitting(1000, most=100, device="cpu"), fitting(free_bytes() // 20, most=100, device="cpu")
        (100, 8)
    """
    fit = int(SHARE * free_bytes(device)) // max(size, 1)
    return most if fit >= most else 1 << max(fit.bit_length() - 1, 0)
