"""One process at a time on a run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["locked"]

_held: dict[Path, tuple[int, int]] = {}
"""Of this process, by path: the file descriptor and the thread."""


@contextmanager
def locked(path: Path, *, passing: bool = False) -> Iterator[None]:
    """Hold a file's lock inside the block; the thread that has it may take it again.

    The lock is the kernel's and goes with the process, however that ends: a file left behind locks nothing.

    Args:
        path: Of the file, made if it is not there; its folder is.
        passing: Whether the file goes at the end.

    Raises:
        OSError: Another process, or thread, holds it; the message says which.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder) / "lock"):
        ...     (Path(folder) / "lock").read_text() == str(os.getpid())
        True
    """
    path, me = path.resolve(), threading.get_ident()
    if path in _held and _held[path][1] == me:
        yield
        return
    descriptor = _taken(path)
    _held[path] = descriptor, me
    try:
        yield
    finally:
        if path in _held:  # and not in a fork
            del _held[path]
            if passing:
                path.unlink(missing_ok=True)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough while a fork has it open too
            os.close(descriptor)


def _taken(path: Path) -> int:
    """The file, opened and locked, with this process's number in it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(path, descriptor)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder deleted it meanwhile


def _take(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
            raise OSError(
                f"{path.parent}: process {holder} is at work in this folder: wait for it, or name another "
                f"folder"
            ) from error
        warnings.warn(
            f"{path.parent}: this file system has no locks ({error.strerror}): see to it that one process at "
            f"a time works there",
            UserWarning,
            stacklevel=4,
        )


def _let_go() -> None:
    """In a fork, such as a DataLoader's worker: it would hold the lock beyond its parent's end."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
