"""Files and folders that are there complete or not at all, whatever kills the process. No torch.

Everything is written beside its place under a name that ends in ``.part``, flushed to the disk, read back,
and then renamed, which the file system does at once. A folder has a ``manifest.json``, written last, with the
size and the SHA-256 of each file and of itself.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a seventh of a second, which an error or --help would wait for
    pass

__all__ = [
    "DamagedError",
    "check_writable",
    "read_folder",
    "read_manifest",
    "remove",
    "sweep",
    "what_is",
    "write_file",
    "write_folder",
]

MANIFEST = "manifest.json"
FORMAT = 1
"""Of folders and what is in them; a version reads all up to its own."""

PART = ".part"


class DamagedError(ValueError):
    """Not what was written: a byte is another, a file is shorter, or something else is in its place."""


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file, complete or not at all: at any moment the old content is there or the new one.

    Raises:
        OSError: It cannot be written; what was there still is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(Path(folder) / "a.txt", "some text")
        ...     (Path(folder) / "a.txt").read_text(), len(list(Path(folder).iterdir()))
        ('some text', 1)
    """
    temporary = path.with_name(f"{path.name}{PART}")
    try:
        _put(temporary, content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # it may hold the room that is wanting
        raise
    _reached("renamed")
    _sync(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write a folder of files with its manifest, complete or not at all. It must not be there yet.

    Args:
        path: Of the folder; its parent is there.
        files: Their contents by name.
        about: What the manifest says of them, as JSON.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    temporary = path.with_name(f"{path.name}{PART}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        _reached("made")
        for name, content in files.items():
            _put(temporary / name, content)
        listed = {
            name: {"bytes": len(content), "sha256": sha256(content).hexdigest()}
            for name, content in files.items()
        }
        _put(temporary / MANIFEST, _sealed({"format": FORMAT, "about": dict(about), "files": listed}))
        _sync(temporary)
        _reached("complete")
        temporary.replace(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _reached("renamed")
    _sync(path.parent)


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a folder's manifest says of it, and its files, all as they were written.

    Raises:
        DamagedError: They are not; the message names the file.
        ValueError: A newer version wrote them.
    """
    manifest = read_manifest(path)
    files = {}
    for name, said in manifest["files"].items():
        content = _read(path / name)
        if len(content) != said["bytes"]:
            raise DamagedError(f"{path / name}: {len(content)} bytes, and {said['bytes']} were written")
        if sha256(content).hexdigest() != said["sha256"]:
            raise DamagedError(f"{path / name}: not the bytes that were written (its SHA-256 is another)")
        files[name] = content
    return manifest["about"], files


def read_manifest(path: Path) -> dict[str, Any]:
    """A folder's manifest, as it was written.

    Raises:
        DamagedError: It is not.
        ValueError: A newer version wrote it.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(_read(file))
        seal, version = manifest.pop("sha256"), manifest["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{file}: not a manifest, or a damaged one") from error
    if json.loads(_sealed(manifest))["sha256"] != seal:
        raise DamagedError(f"{file}: not the content that was written (its SHA-256 is another)")
    if version > FORMAT:
        raise ValueError(
            f"{path}: format {version}, and this version reads up to {FORMAT}: use the pyrovae that wrote it"
        )
    return manifest


def remove(path: Path) -> None:
    """Delete a folder: it is there complete, or not at all for who reads."""
    doomed = path.with_name(f"{path.name}{PART}")
    path.replace(doomed)
    _reached("doomed")
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path, *names: str) -> None:
    """Delete what a killed process left half written or half deleted.

    Args:
        folder: Where.
        names: Of what; all if not given, in a folder of one's own.
    """
    for path in [path for name in names or ("*",) for path in folder.glob(f"{name}{PART}")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to."""
    probe = folder / ".writable"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error


def _put(path: Path, content: bytes) -> None:
    """Write and flush, and look whether it is there."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        _reached("written")
        os.fsync(file.fileno())
    if not _holds(path, content):
        raise OSError(f"{path}: what was read back is not what was written: look at the disk")
    _reached("verified")


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file is what was written, without another copy of all of it in memory."""
    place, block = 0, 1 << 20
    with path.open("rb") as file:
        while found := file.read(block):
            if found != content[place : place + block]:
                return False
            place += len(found)
    return place == len(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error


def _sealed(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "sha256": sha256(text.encode()).hexdigest()}, indent=1).encode() + b"\n"


def _sync(folder: Path) -> None:
    """See to it that a folder's entries are on the disk, where its file system can be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _reached(point: str) -> None:
    """A point of the protocol; tests kill the process at each."""


def what_is(path: Path) -> str:
    """What a file is that cannot be read as what it should be, as far as its first bytes tell."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, and not the file it stands for: `git lfs pull` fetches that"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page: what was fetched is not the file"
    return ""
