"""Files and folders that are complete or absent, whatever kills the process.

Everything is written beside its place under a name that ends in ``.part``, flushed to the disk and then
renamed, which is atomic. A folder has a ``manifest.json``, written last, with the size and SHA-256 of each
file and of the manifest itself. This module does not import torch.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
"""Format of folders and of their files; a version reads every format up to its own."""

PART = ".part"


class DamagedError(ValueError):
    """A file is missing, truncated or altered since it was written."""


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file atomically: a reader finds either the old content or the new."""
    with _replacing(path) as temporary:
        _write(temporary, content.encode() if isinstance(content, str) else content)


def write_folder(path: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write a new folder atomically: files by name, and a manifest with the metadata ``about``."""
    listed = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()}
    manifest = {"format": FORMAT, "about": dict(about), "files": listed}
    with _replacing(path) as temporary:
        temporary.mkdir()
        _reached("made")
        for name, content in files.items():
            _write(temporary / name, content)
        text = json.dumps({**manifest, "sha256": _seal(manifest)}, indent=1)
        _write(temporary / MANIFEST, f"{text}\n".encode())
        _sync(temporary)
        _reached("complete")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` after the block, or is deleted if the block fails."""
    temporary = path.with_name(f"{path.name}{PART}")
    _delete(temporary)
    try:
        yield temporary
        temporary.replace(path)
    except OSError:  # such as a full disk
        _delete(temporary)
        raise
    _reached("renamed")
    _sync(path.parent)


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The metadata of a folder and the contents of its files; a DamagedError names a damaged file."""
    manifest = read_manifest(path)
    files = {}
    for name, entry in manifest["files"].items():
        content = _read(path / name)
        if len(content) != entry["bytes"]:
            raise DamagedError(f"{path / name}: {len(content)} bytes, and {entry['bytes']} were written")
        if sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedError(f"{path / name}: not the bytes that were written (the SHA-256 differs)")
        files[name] = content
    return manifest["about"], files


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a folder, verified; a ValueError says if a newer version wrote it."""
    file = path / MANIFEST
    content = _read(file)
    try:
        manifest = json.loads(content)
        seal, version = manifest.pop("sha256"), manifest["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{file}: not a manifest, or a damaged one") from error
    if _seal(manifest) != seal:
        raise DamagedError(f"{file}: not the content that was written (the SHA-256 differs)")
    if version > FORMAT:
        known = f"this version reads up to {FORMAT}"
        raise ValueError(f"{path}: format {version}, and {known}: use the pyrovae that wrote it")
    return manifest


def remove(path: Path) -> None:
    """Delete a folder atomically."""
    doomed = path.with_name(f"{path.name}{PART}")
    path.replace(doomed)
    _reached("doomed")
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path, *names: str) -> None:
    """Delete what a killed process left half written or half deleted: of these names, or all."""
    for path in [path for name in names or ("*",) for path in folder.glob(f"{name}{PART}")]:
        _delete(path)


def _delete(path: Path) -> None:
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


def what_is(path: Path) -> str:
    """What is wrong with a file that cannot be read, judged by its first bytes; empty if unknown."""
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


def _write(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        _reached("written")
        os.fsync(file.fileno())
    _reached("flushed")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error


def _seal(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    """Flush a folder's entries to the disk, if its file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _reached(point: str) -> None:
    """Mark a point of the protocol; tests kill the process at each."""
