"""What several tests ask: of a module's parameters, and of ArviZ."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

IS_OLD_ARVIZ = version("arviz").startswith("0.")


def snapshot(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def all_moved(before: list[torch.Tensor], module: nn.Module) -> bool:
    return all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def none_moved(before: list[torch.Tensor], module: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def psislw_of_arviz(log_weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """ArviZ's smoothed log-weights and k-hat of one datum.

    Trap: psislw took log-weights up to 0.23, and takes their negatives from 1.0.
    """
    values = log_weights.double().numpy().copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it overflows in its own way on wide ranges
        if IS_OLD_ARVIZ:
            import arviz

            smoothed, khat = arviz.psislw(values)
        else:
            from arviz_stats.base import array_stats

            smoothed, khat = array_stats.psislw(-values)
    return torch.as_tensor(smoothed), float(khat)


@contextmanager
def locked_by_another(path: Path) -> Iterator[int]:
    """A file locked by another process, whose number is in it; killed at the end."""
    code = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "file.write(str(os.getpid())); file.flush(); print('held', flush=True); sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", code, path], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()
