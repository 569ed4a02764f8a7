"""Arrays in .npz and .safetensors files, of which rows are read without the rest."""

from __future__ import annotations

import itertools
import json
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.storage.files import what_is

__all__ = ["SUFFIXES", "StoredArray", "stored_array"]

SUFFIXES = (".npz", ".safetensors")

_OF_SAFETENSORS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class StoredArray(NamedTuple):
    """Where an array is.

    Attributes:
        path: Of the file.
        name: Of the array in it.
        shape: Its shape, ``[n, *event]``.
        dtype: Its type.
        offset: Of its first byte; None where it is compressed.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int | None

    def read(self, rows: np.ndarray) -> Tensor:
        """Some rows, ``[k, *event]``, in the order of their numbers; those that follow one another at once.

        Nothing is kept: what is read often is in the system's own cache of files. A compressed array is
        read whole.

        Raises:
            ValueError: The file is not as long as it was, or cannot be read.
        """
        if self.offset is None:
            return self.read_all()[torch.from_numpy(rows)]
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if not len(rows) or not width:
            return found
        held: Any = found.view(-1).view(torch.uint8).numpy()
        into = memoryview(held)
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({error.strerror}): put it back") from error
        try:
            for start, end in itertools.pairwise(cuts):
                self._fill(descriptor, into[start * width : end * width], int(rows[start]) * width)
        finally:
            os.close(descriptor)
        return found

    def read_all(self) -> Tensor:
        """All of it.

        Raises:
            ValueError: The file is damaged.
        """
        if self.offset is not None:
            return self.read(np.arange(self.shape[0]))
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return torch.from_numpy(file[self.name])
        except Exception as error:  # numpy, zipfile and zlib raise what they like of such a file
            raise _damaged(self.path, error) from error

    def _fill(self, descriptor: int, into: memoryview, place: int) -> None:
        """Read into a buffer until it is full: one call gives two gigabytes at most."""
        assert self.offset is not None
        done = 0
        while done < len(into):
            try:
                count = os.preadv(descriptor, [into[done:]], self.offset + place + done)
            except OSError as error:
                raise ValueError(
                    f"{self.path}: cannot be read ({error.strerror}): look at the disk"
                ) from error
            if not count:
                raise ValueError(f"{self.path}: it ends before its rows do: it was cut off, write it again")
            done += count


def stored_array(path: Path, name: str) -> StoredArray:
    """Look up where an array is in a file; of what is in it the header alone is read.

    Raises:
        ValueError: The file is damaged, has no such array, or it is of no type that torch has.
    """
    try:
        found = _in_npz(path, name) if path.suffix == ".npz" else _in_safetensors(path, name)
    except KeyError as error:
        raise ValueError(f"{path}: no array '{name}' in it, only {error.args[0] or 'none'}") from error
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    if not found.shape:
        raise ValueError(f"{path}: '{name}' is one number, expected rows [n, d]")
    return found


def _in_npz(path: Path, name: str) -> StoredArray:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if f"{name}.npy" not in names:
            raise KeyError(", ".join(sorted(each.removesuffix(".npy") for each in names)))
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as content:
            version = np.lib.format.read_magic(content)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2_0
            shape, is_fortran, dtype = read(content)
            header = content.tell()
    if is_fortran and len(shape) > 1:
        raise ValueError(f"'{name}' is in Fortran's order: save np.ascontiguousarray of it")
    if dtype.byteorder == ">":
        raise ValueError(f"'{name}' has its bytes in the other order: save it as {dtype.newbyteorder('<')}")
    try:
        of_torch = torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise ValueError(f"'{name}' is of {dtype}: numbers are needed") from error
    if member.file_size != header + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"'{name}' is not as long as its header says")
    if member.compress_type != zipfile.ZIP_STORED:
        return StoredArray(path, name, shape, of_torch, None)
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # where a member's own header has the lengths of two texts
        lengths = np.frombuffer(file.read(4), "<u2")
    return StoredArray(path, name, shape, of_torch, member.header_offset + 30 + int(lengths.sum()) + header)


def _header_2_0(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    return np.lib.format.read_array_header_2_0(content)


def _in_safetensors(path: Path, name: str) -> StoredArray:
    """By hand: the library reads slices, and not the rows that a shuffled batch has."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    if name not in header:
        raise KeyError(", ".join(sorted(header)))
    said = header[name]
    start, end = said["data_offsets"]
    if said["dtype"] not in _OF_SAFETENSORS:
        raise ValueError(f"'{name}' is of {said['dtype']}: one of {', '.join(_OF_SAFETENSORS)} is needed")
    dtype, shape = _OF_SAFETENSORS[said["dtype"]], tuple(said["shape"])
    if (
        min(start, *shape, 0) < 0
        or start + math.prod(shape) * dtype.itemsize != end
        or 8 + length + end > size
    ):
        raise ValueError(f"'{name}' is not as long as its header says")
    return StoredArray(path, name, shape, dtype, 8 + length + start)


def _damaged(path: Path, error: BaseException) -> ValueError:
    """The file, and what it is or why it cannot be read."""
    said = what_is(path) or f"is no {path.suffix} that can be read"
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: {said} ({reason}): write it again")
