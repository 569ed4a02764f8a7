"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["locked"]

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""Errors of a file system that has no locks."""


@contextmanager
def locked(path: Path, *, passing: bool = False) -> Iterator[None]:
    """Hold a file's lock inside the block; the thread that holds it may take it again.

    The kernel releases the lock when the process ends, so a file left behind locks nothing.
    The file holds the number of the process; if ``passing`` it is deleted at the end. An OSError says which
    process holds the lock, if another one or another thread does.
    """
    path = path.resolve()
    lock = FileLock(path, timeout=0, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire()
        path.write_text(str(os.getpid()))
    except Timeout as error:
        holder = path.read_text() or "unknown"
        raise OSError(
            f"{path.parent}: process {holder} is at work in this folder: wait for it, or name another folder"
        ) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        reason = f"this file system has no locks ({error.strerror})"
        warnings.warn(f"{path.parent}: {reason}: run one process at a time there", UserWarning, stacklevel=3)
    try:
        yield
    finally:
        if lock.is_locked:  # by this process, and not by the parent of a fork
            if passing and lock.lock_counter == 1:
                path.unlink(missing_ok=True)
            lock.release()
