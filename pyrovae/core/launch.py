"""Which of several processes this one is, by the environment that torchrun or Slurm gives it. No torch."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Place", "first_host", "is_main_process", "part", "place", "seconds_to_wait", "told"]

TIMEOUT = 600.0
"""Seconds that a process waits for the others, at the start and whenever all have to agree."""

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
PORTS = 20_000
"""Slurm gives no port: one of as many from here on, by job and step, so that two runs do not meet."""


class Place(NamedTuple):
    """One process among several.

    Attributes:
        rank: Which one it is.
        size: How many there are.
        local: Which one on its machine: the GPU that it takes.
        address: Where the first one is.
        port: Where the first one listens.
        launcher: Who started them.
    """

    rank: int
    size: int
    local: int
    address: str
    port: int
    launcher: str


def place(environ: Mapping[str, str] | None = None) -> Place | None:
    """The place that torchrun's or Slurm's environment says; None of a process by itself.

    Args:
        environ: The environment; that of the process if not given.

    Raises:
        ValueError: A part of it is missing, is no number, or does not fit the rest.

    Example:
        >>> place({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"})
        Place(rank=1, size=2, local=1, address='a', port=29500, launcher='torchrun')
        >>> slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
        >>> place(slurm | {"SLURM_NODELIST": "gpu[07-08],x1", "SLURM_JOB_ID": "5"})
        Place(rank=3, size=4, local=1, address='gpu07', port=20160, launcher='srun')
        >>> place({}) is None
        True
    """
    environ = os.environ if environ is None else environ
    if "WORLD_SIZE" in environ or "RANK" in environ:
        launcher, (of_rank, of_size, of_local) = "torchrun", TORCHRUN
    elif "SLURM_PROCID" in environ and environ.get("SLURM_NTASKS", "1") != "1":
        launcher, (of_rank, of_size, of_local) = "srun", SLURM
    else:
        return None
    rank, size = (_number(environ, name, launcher) for name in (of_rank, of_size))
    if not 0 <= rank < size:
        raise ValueError(
            f"{of_rank} is {rank} and {of_size} is {size}: ranks go from 0 to {size - 1}: start all "
            f"processes by one {launcher}"
        )
    if size == 1:
        return None
    local = _number(environ, of_local, launcher) if of_local in environ else rank
    job, step = environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", "0")
    if launcher == "srun":
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST")
        nodes = nodes or environ.get("SLURM_JOB_NODELIST", "")
        address = environ.get("MASTER_ADDR") or first_host(nodes)
        by_job = PORTS + (32 * int(job) + int(step)) % PORTS if (job + step).isdigit() else PORTS
        port = _number(environ, "MASTER_PORT", launcher) if "MASTER_PORT" in environ else by_job
    else:
        address, port = environ.get("MASTER_ADDR", ""), _number(environ, "MASTER_PORT", launcher)
    if not address:
        raise ValueError(
            f"{launcher} started {size} processes, and nothing says where the first one is: set MASTER_ADDR"
        )
    return Place(rank, size, local, address, port, launcher)


def first_host(nodes: str) -> str:
    """The first of a list of Slurm's.

    Example:
        >>> first_host("node[03-05,9],other"), first_host("a,b"), first_host("")
        ('node03', 'a', '')
    """
    found = re.match(r"([^,\[]*)(?:\[([^\],-]*)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def part(rows: int, rank: int, size: int) -> slice:
    """The rows of a batch that a process takes: the first ones one more where they are uneven.

    Example:
        >>> [part(10, rank, 4) for rank in range(4)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    each, more = divmod(rows, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def seconds_to_wait() -> float:
    """How long processes wait for each other: PYROVAE_TIMEOUT, or ten minutes.

    Raises:
        ValueError: It is no positive number.
    """
    given = os.environ.get("PYROVAE_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"PYROVAE_TIMEOUT is {given!r}: seconds to wait for other processes, such as 600")
    return seconds


def is_main_process(error: BaseException | None = None) -> bool:
    """Whether this process is to print and to write: the first one, or, of an error of its own, any.

    Args:
        error: One that it may have alone is marked ``own``.

    Example:
        >>> is_main_process()
        True
    """
    try:
        where = place()
    except ValueError:
        where = None
    if where is None or where.rank == 0:
        return True
    return hasattr(error, "own")


def told(where: Place) -> str:
    """A process by its number and machine, for messages.

    Example:
        >>> told(Place(1, 2, 1, "a", 1, "torchrun")).startswith("process 1 of 2, on ")
        True
    """
    return f"process {where.rank} of {where.size}, on {socket.gethostname()}"


def _number(environ: Mapping[str, str], name: str, launcher: str) -> int:
    given = environ.get(name)
    if given is None:
        raise ValueError(f"{name} is not set, beside {_set(environ)}: start all processes by one {launcher}")
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"{name} is {given!r}, expected a number: start all by one {launcher}") from None


def _set(environ: Mapping[str, str]) -> str:
    """What there is of the launcher's variables, in words."""
    there = [f"{name}={environ[name]}" for name in (*TORCHRUN, *SLURM) if name in environ]
    return " and ".join(there[:2]) or "the rest"
