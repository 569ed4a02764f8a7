"""Several processes as one, by torch.distributed: ranks, sums, shared errors and shared work.

In a single process every function is the identity and costs nothing. :func:`join` makes the process group
that torchrun's environment describes; a group that exists already is used as it is. Then every process calls
:func:`pyrovae.fit` and :func:`pyrovae.evaluate` alike, and computes its rows of each batch.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyrovae.core.checks import diff_settings
from pyrovae.core.launch import part as part
from pyrovae.core.launch import place
from pyrovae.core.random import stream

__all__ = ["World", "barrier", "from_first", "gather", "is_first", "join", "joined", "total", "world"]

KINDS = (OSError, FloatingPointError, ValueError, TypeError, MemoryError, RuntimeError)
"""Errors that the other processes raise by the same class; all others are raised as a RuntimeError."""

GROUP_ERRORS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")
"""Words in torch's messages when a process is gone; gloo's errors have no class of their own."""

PATIENCE = 5.0
"""Seconds until a file that another machine wrote must be visible here."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class World(NamedTuple):
    """The rank of a process and the number of processes."""

    rank: int
    size: int

    @property
    def settings(self) -> dict[str, int]:
        """The number of processes if there are several, since the last bits of a result depend on it."""
        return {"processes": self.size} if self.size > 1 else {}


def world() -> World:
    """The rank of this process and the number of processes; 0 and 1 without a process group.

    Example:
        >>> world()
        World(rank=0, size=1)
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


def is_first() -> bool:
    """Whether this process is the one that writes, prints and draws."""
    return world().rank == 0


def join(backend: str | None = None, timeout: float | None = None) -> World:
    """Join the process group that torchrun's environment describes, unless there is a group already.

    Args:
        backend: Backend of torch.distributed; by default gloo on the CPU, and NCCL on GPUs.
        timeout: Seconds to wait for the others, here and later; by default $PYROVAE_TIMEOUT, else 600.

    Raises:
        ValueError: The environment contradicts itself, or NCCL is asked for without a GPU for this process.
        ConnectionError: Some processes do not come.
    """
    here = place() if world().size == 1 else None
    if here is None:
        return world()
    gpus = torch.cuda.device_count()
    backend = backend or ("cpu:gloo,cuda:nccl" if gpus else "gloo")
    if "nccl" in backend and here.local >= gpus:
        mend = f"start {gpus} processes a machine" if gpus else "use gloo"
        raise ValueError(
            f"NCCL takes a GPU for each process, and this machine has {gpus}: process {here.local} of it has "
            f"none: {mend}"
        )
    if "nccl" in backend:
        torch.cuda.set_device(here.local)
    seconds = float(os.environ.get("PYROVAE_TIMEOUT", 600)) if timeout is None else timeout
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        dist.barrier() if backend == "nccl" else gather(None)
    except (RuntimeError, ValueError, OSError) as error:
        meeting = f"{here.address}:{here.port} within {seconds:g} s ({_short(error)})"
        mend = "start all of them by one torchrun, on machines that reach the first"
        raise ConnectionError(
            f"{here}: the {here.size} processes do not meet at {meeting}: {mend}"
        ) from error
    return world()


@contextmanager
def joined(backend: str | None = None) -> Iterator[World]:
    """Join the process group for a block, and leave it at the end if it was made here."""
    before = world()
    yield join(backend)
    if before.size < world().size:  # after an error the process ends, which the others notice
        dist.destroy_process_group()


def warn_without_group(owner: str) -> None:
    """Warn a script that was started several times without a group: each process would do all of the work."""
    launcher, number, mend = "torchrun", "WORLD_SIZE", "call pyrovae.distributed.join() first"
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        launcher, number, mend = "srun", "SLURM_STEP_NUM_TASKS", "start them by `srun torchrun`"
    if world().size == 1 and os.environ.get(number, "1") != "1":
        message = f"{launcher} started {os.environ[number]} processes, and there is no process group"
        warnings.warn(f"{owner}: {message}, so that each does all of the work: {mend}", stacklevel=3)


def own_stream(purpose: str, *key: int) -> Any:
    """A random stream for this process, by key and rank; for a single process the surrounding stream."""
    here = world()
    return stream(f"{purpose}, of a process", *key, here.rank) if here.size > 1 else nullcontext()


def barrier() -> None:
    """Wait for all processes."""
    gather(None)


def gather(value: Value) -> list[Value]:
    """The values of all processes, by rank; they are pickled on the way.

    Example:
        >>> gather("here")
        ['here']
    """
    if world().size == 1:
        return [value]
    values: list[Any] = [None] * world().size
    with translate_errors():
        dist.all_gather_object(values, value)
    return values


def total(values: Tensor) -> Tensor:
    """The sum of tensors over all processes, in float64 and equal to the last bit on each."""
    if world().size == 1:
        return values
    # NCCL where it is there: gloo's ring takes a turn for each process, which for 512 is longer than a step.
    device = f"cuda:{torch.cuda.current_device()}" if "nccl" in dist.get_backend_config() else "cpu"
    result = values.detach().to(device, torch.float64, copy=True)
    with translate_errors():
        dist.all_reduce(result)
    return result.to(values)


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers, such as running statistics."""
    if world().size > 1:
        with translate_errors():
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def from_first(compute: Callable[[], Value]) -> Value:
    """The value, or the error, that the first process computes."""
    if world().size == 1:
        return compute()
    with collective():
        value: Any = compute() if is_first() else None
    return gather(value)[0]


@contextmanager
def collective() -> Iterator[None]:
    """A block that all processes leave together: an error of one is raised on every process.

    Raises:
        ConnectionError: A process is gone.
    """
    if world().size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except ConnectionError:  # nobody is left to hear of it
        raise
    except Exception as caught:
        error = caught
    raise_together(error)


def raise_together(error: Exception | None) -> None:
    """Raise, on every process, the error of the first one that has any."""
    kind = next((i for i, each in enumerate(KINDS) if isinstance(error, each)), -1)
    text = str(error) if kind >= 0 else f"{type(error).__name__}: {error}"
    messages = gather(None if error is None else (kind, text))
    owner = next((rank for rank, each in enumerate(messages) if each is not None), None)
    if owner is None:
        return
    if owner == world().rank and error is not None:
        raise _common(error)
    kind, text = messages[owner]  # type: ignore[misc]
    raise _common(KINDS[kind](text if owner == 0 else f"{text} (process {owner})")) from error


def _common(error: Exception) -> Exception:
    """Mark an error that all processes have, so that the first one alone prints it."""
    error.common = True  # type: ignore[attr-defined]
    return error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn torch.distributed's error for a process that is gone or silent into a ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in GROUP_ERRORS)
        if world().size == 1 or not known:
            raise
        lost = f"another of the {world().size} processes ended, or did not answer in time ({_short(error)})"
        mend = "read its output; a run with checkpoints goes on by --resume, or resume="
        raise _common(ConnectionError(f"{lost}: {mend}")) from error


def _short(error: Exception) -> str:
    """Torch's message without the place in its source and its guesses."""
    text = re.sub(r"^\[[^\]]*\] ?", "", " ".join(str(error).split()))
    return re.split(r" ?(Exception raised from|This may|. This)", text)[0][:160]


def check_same_settings(owner: str, settings: dict[str, Any]) -> None:
    """Refuse processes that were started with different settings; the error names the first difference."""
    first, *others = gather(settings)
    for rank, other in enumerate(others, 1):
        for difference in diff_settings(other, first):
            text = difference.replace(" there and ", f" on process {rank} and ").removesuffix(" here")
            mend = "start every process with the same data, model and settings"
            raise _common(ValueError(f"{owner}: {text} on process 0: {mend}"))


def check_shared(folder: Path) -> None:
    """Check that every process sees what the first one writes into a folder."""
    if world().size == 1:
        return
    path = folder / from_first(lambda: f".shared-{secrets.token_hex(8)}")
    with collective():
        if is_first():
            path.touch()
    until = time.monotonic() + PATIENCE
    while not path.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    blind = [rank for rank, seen in enumerate(gather(path.is_file())) if not seen]
    if is_first():
        path.unlink(missing_ok=True)
    if blind:
        message = f"process {blind[0]} does not see what process 0 writes there: name a folder that all share"
        raise _common(OSError(f"{folder}: {message}"))


def refuse_sharded(owner: str, modules: Iterable[nn.Module]) -> None:
    """Refuse modules of which each process holds a part: under FSDP, or with parameters that are DTensors."""
    for module in modules:
        kinds = {type(each).__name__ for each in (*module.modules(), *module.parameters())}
        if kinds & {"FullyShardedDataParallel", "DTensor"}:
            raise ValueError(
                f"{owner}: the parameters are sharded (FSDP), and each process computes its rows with all of "
                f"them: train by FSDP's own loop with Trace_ELBO()(model, guide) as the loss; evaluate the "
                f"full model, of get_model_state_dict with full_state_dict=True"
            )


def scatter_work(
    items: Iterable[Item], known: Callable[[Item], Value | None], compute: Callable[[Item], Value]
) -> Iterator[tuple[Item, Value, bool]]:
    """Compute a value for each item, each by one process, and give all values to every process in order.

    An item whose ``known`` value is None is computed. Items and known values are the same on every process.
    Each item comes with its value and whether it was computed now.

    Example:
        >>> list(scatter_work([1, 2], {1: "one"}.get, str))
        [(1, 'one', False), (2, '2', True)]
    """
    here, rest = world(), iter(items)
    while batch := list(islice(rest, here.size)):
        values: list[Any] = [known(item) for item in batch]
        new = [value is None for value in values]
        if any(new):
            with collective():
                mine = compute(batch[here.rank]) if here.rank < len(batch) and new[here.rank] else None
            computed = gather(mine)
            values = [computed[i] if new[i] else value for i, value in enumerate(values)]
        yield from zip(batch, values, new, strict=True)
