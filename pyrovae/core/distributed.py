r"""Several processes as one: who this one is, what all agree on, what all found. By torch.distributed.

Every function is the identity, and costs nothing, in a process by itself. A process group that is there is
used as it is; :func:`join` makes one of what torchrun or Slurm say. :func:`pyrovae.fit` and
:func:`pyrovae.evaluate` are then called by every process alike.

A batch is cut among the processes without overlap, padding or repetition:

.. math:: \nabla L = \sum_r \nabla L_r = \frac1W \sum_{r=1}^W \nabla (W L_r)

the mean that DistributedDataParallel takes, of losses of each process's rows, of which some may have none.
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
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyrovae.core import launch as ranks
from pyrovae.core.checks import diff_settings
from pyrovae.core.launch import part
from pyrovae.core.random import stream

__all__ = [
    "World",
    "barrier",
    "check_same_settings",
    "check_shared",
    "collective",
    "from_first",
    "gather",
    "is_first",
    "join",
    "joined",
    "own_stream",
    "part",
    "refuse_sharded",
    "scatter_work",
    "share_buffers",
    "tell_of_no_group",
    "total",
    "translate_errors",
    "world",
]

KINDS = (
    *(FileNotFoundError, PermissionError, ConnectionError, OSError),
    *(FloatingPointError, ValueError, TypeError, MemoryError, RuntimeError),
)
"""Errors that come to the other processes as what they are; others as a RuntimeError."""

OF_THE_GROUP = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")
"""What torch says, among other things, where a process is gone; gloo's errors have no class of their own."""

PATIENCE = 5.0
"""Seconds until a file that another machine wrote is to be seen here."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class World(NamedTuple):
    """This process among all.

    Attributes:
        rank: Which one it is.
        size: How many there are.
    """

    rank: int
    size: int

    @property
    def told(self) -> dict[str, int]:
        """How many there are, where it is another number than one: what the last bits depend on."""
        return {"processes": self.size} if self.size > 1 else {}


def world() -> World:
    """Which process this is, of how many; the first of one where there is no process group.

    Example:
        >>> world()
        World(rank=0, size=1)
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


def tell_of_no_group(owner: str) -> None:
    """Warn a script that torchrun started, and that forgot to join: each process would do all of the work."""
    if world().size == 1 and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        warnings.warn(
            f"{owner}: torchrun started {os.environ['WORLD_SIZE']} processes, and there is no process group, "
            f"so that each does all of the work: call pyrovae.distributed.join() first",
            UserWarning,
            stacklevel=3,
        )


def is_first() -> bool:
    """Whether this process is the one that writes, prints and draws."""
    return world().rank == 0


def join(backend: str | None = None, timeout: float | None = None) -> World:
    """Join the process group that torchrun's or Slurm's environment speaks of, unless there is one.

    Args:
        backend: Of torch.distributed; gloo for tensors on the CPU, and NCCL for those on GPUs where there are
            any, if not given.
        timeout: Seconds to wait for the others, here and later; $PYROVAE_TIMEOUT, or ten minutes.

    Returns:
        Where this process is.

    Raises:
        ValueError: The environment contradicts itself; NCCL without a GPU for this process.
        ConnectionError: The others, or some of them, do not come.
    """
    if dist.is_available() and dist.is_initialized():
        return world()
    where = ranks.place()
    if where is None:
        return world()
    gpus = torch.cuda.device_count()
    backend = backend or os.environ.get("PYROVAE_BACKEND") or ("cpu:gloo,cuda:nccl" if gpus else "gloo")
    if "nccl" in backend and where.local >= gpus:
        mend = "use gloo" if not gpus else f"start {gpus} processes a machine"
        raise ValueError(
            f"NCCL takes a GPU for each process, and this machine has {gpus}: process {where.local} of it "
            f"has none: {mend}"
        )
    if gpus and "nccl" in backend:
        torch.cuda.set_device(where.local)
    seconds = ranks.seconds_to_wait() if timeout is None else timeout
    try:
        dist.init_process_group(
            backend,
            init_method=None if where.launcher == "torchrun" else f"tcp://{where.address}:{where.port}",
            rank=-1 if where.launcher == "torchrun" else where.rank,
            world_size=-1 if where.launcher == "torchrun" else where.size,
            timeout=timedelta(seconds=seconds),
        )
        dist.barrier() if backend == "nccl" else gather(None)
    except (RuntimeError, ValueError, OSError) as error:
        said = _short(error)
        raise ConnectionError(
            f"{ranks.told(where)}: the {where.size} processes do not meet at {where.address}:{where.port} "
            f"within {seconds:g} s ({said}): start all of them by one {where.launcher}, on machines that "
            f"reach the first"
        ) from error
    return world()


@contextmanager
def joined(backend: str | None = None) -> Iterator[World]:
    """Inside, in the process group; at the end it is left, if it was made here."""
    before = dist.is_available() and dist.is_initialized()
    yield join(backend)
    if not before and world().size > 1:  # and after an error the process ends, which the others notice
        dist.destroy_process_group()


def own_stream(purpose: str, *key: int) -> Any:
    """A stream of this process's own, by the key and its rank; of a process by itself, the one around it."""
    where = world()
    return stream(f"{purpose}, of a process", *key, where.rank) if where.size > 1 else nullcontext()


def barrier() -> None:
    """Wait for all."""
    gather(None)


def gather(value: Value) -> list[Value]:
    """The values of all processes, by rank; pickled on the way.

    Example:
        >>> gather("here")
        ['here']
    """
    if world().size == 1:
        return [value]
    found: list[Any] = [None] * world().size
    with translate_errors():
        dist.all_gather_object(found, value)
    return found


def total(values: Tensor) -> Tensor:
    """Their sum over all processes, the same to the last bit on each; where and what they are."""
    if world().size == 1:
        return values
    # By NCCL where it is: gloo's ring takes a turn of every process, of 512 longer than a step.
    place = f"cuda:{torch.cuda.current_device()}" if "nccl" in dist.get_backend_config() else "cpu"
    summed = values.detach().to(place, torch.float64, copy=True)
    with translate_errors():
        dist.all_reduce(summed)
    return summed.to(values)


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers: running statistics are of what each one saw."""
    if world().size > 1:
        with translate_errors():
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def from_first(compute: Callable[[], Value]) -> Value:
    """What the first process computes, on all; its error too."""
    if world().size == 1:
        return compute()
    value = None
    with collective():
        value = compute() if is_first() else None
    found: list[Any] = [value]
    with translate_errors():
        dist.broadcast_object_list(found, 0)
    return found[0]


@contextmanager
def collective() -> Iterator[None]:
    """All leave the block together: an error of one is raised on every process.

    Raises:
        ConnectionError: A process is gone.
    """
    if world().size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except ConnectionError:  # nobody left to tell
        raise
    except Exception as caught:
        error = caught
    raise_together(error)


def raise_together(error: Exception | None) -> None:
    """Raise, on every process, the error of the first one that has any."""
    mine = None if error is None else (type(error).__name__, str(error))
    found = gather(mine)
    owner = next((rank for rank, each in enumerate(found) if each is not None), None)
    if owner is None:
        return
    if owner == world().rank and error is not None:
        raise _common(error)
    name, message = found[owner]  # type: ignore[misc]
    kind = next((kind for kind in KINDS if kind.__name__ == name), RuntimeError)
    message = message if kind.__name__ == name else f"{name}: {message}"
    raise _common(kind(message if owner == 0 else f"{message} (process {owner})")) from error


def _common(error: Exception) -> Exception:
    """An error that all have: the first one tells it."""
    error.common = True  # type: ignore[attr-defined]
    return error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Say what it means where torch.distributed fails: a process is gone, or does not answer."""
    try:
        yield
    except RuntimeError as error:
        said = _short(error)
        of_group = isinstance(error, dist.DistError) or any(
            word in str(error).lower() for word in OF_THE_GROUP
        )
        if world().size == 1 or not of_group:
            raise
        gone = ConnectionError(
            f"another of the {world().size} processes ended, or did not answer in time ({said}): look "
            f"at what it said; what was kept goes on by --resume, or resume="
        )
        raise _common(gone) from error


def _short(error: Exception) -> str:
    """What torch says, without the place in its source and its surmises."""
    said = re.sub(r"^\[[^\]]*\] ?", "", " ".join(str(error).split()))
    return re.split(r" ?(Exception raised from|This may|. This)", said)[0][:160]


def check_same_settings(owner: str, said: dict[str, Any]) -> None:
    """Refuse processes that were started with different settings.

    Raises:
        ValueError: They differ; the first difference is named.
    """
    if world().size == 1:
        return
    found = gather(said)
    for rank, other in enumerate(found):
        different = diff_settings(other, found[0])
        if different:
            told = different[0].replace(" there and ", f" on process {rank} and ").removesuffix(" here")
            error = ValueError(
                f"{owner}: {told} on process 0: start every process with the same data, model and settings"
            )
            raise _common(error)


def check_shared(folder: Path) -> None:
    """Make sure that every process sees what the first one writes into a folder.

    Raises:
        OSError: It is not shared.
    """
    if world().size == 1:
        return
    name = from_first(lambda: f".shared-{secrets.token_hex(8)}")
    path = folder / name
    with collective():
        if is_first():
            path.write_text(name)
    try:
        with collective():
            until = time.monotonic() + PATIENCE
            while not path.is_file() and time.monotonic() < until:
                time.sleep(0.05)
            if not path.is_file():
                raise OSError(
                    f"{folder}: process {world().rank} does not see what process 0 writes there: name a "
                    f"folder that all machines share"
                )
    finally:
        if is_first():
            path.unlink(missing_ok=True)


def refuse_sharded(owner: str, modules: Iterable[nn.Module]) -> None:
    """Refuse modules of which each process holds a part.

    Raises:
        ValueError: One is under FSDP, or has parameters that are DTensors.
    """
    for module in modules:
        sharded = any(type(each).__name__ == "FullyShardedDataParallel" for each in module.modules())
        if sharded or any(type(each).__name__ == "DTensor" for each in module.parameters()):
            raise ValueError(
                f"{owner}: the parameters are sharded (FSDP), and each process computes its rows with all of "
                f"them: train by FSDP's own loop with Trace_ELBO()(model, guide) as the loss; evaluate the "
                f"full model, of get_model_state_dict with full_state_dict=True"
            )


def scatter_work(
    items: Iterable[Item], known: Callable[[Item], Value | None], compute: Callable[[Item], Value]
) -> Iterator[tuple[Item, Value, bool]]:
    """Each item, in order, with what is known of it or else computed by one of the processes.

    Every process gets all of it: those that are not known go round by turns, as many at a time as there are
    processes, without padding.

    Args:
        items: The same on every process.
        known: The same on every process.
        compute: By the item alone.

    Yields:
        The item, its value, and whether it was computed now.

    Example:
        >>> list(dealt([1, 2], {1: "one"}.get, str))
        [(1, 'one', False), (2, '2', True)]
    """
    where, waiting, open_ = world(), [], 0
    for item in items:
        found = known(item)
        waiting.append((item, found))
        open_ += found is None
        if open_ == where.size or where.size == 1:
            yield from _settled(waiting, compute)
            waiting, open_ = [], 0
    yield from _settled(waiting, compute)


def _settled(
    waiting: list[tuple[Item, Value | None]], compute: Callable[[Item], Value]
) -> Iterator[tuple[Item, Value, bool]]:
    """What is open of a round computed, each by one process, and given to all."""
    where = world()
    mine = [item for item, found in waiting if found is None][where.rank : where.rank + 1]
    if all(found is not None for _, found in waiting):
        values: Iterator[Any] = iter(())
    else:
        with collective():
            here = [compute(item) for item in mine]
        values = iter([value for some in gather(here) for value in some])
    for item, found in waiting:
        if found is not None:
            yield item, found, False
        else:
            yield item, next(values), True
