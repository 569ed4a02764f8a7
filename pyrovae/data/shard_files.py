"""The files of a folder of shards: ``index.json``, and ``.npy``, ``.npz`` or ``.safetensors`` files."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import safe_open
from torch import Tensor

from pyrovae.core.checks import one_line
from pyrovae.storage.files import PART, what_is
from pyrovae.storage.tensors import to_bytes

INDEX = "index.json"
UNFINISHED = f"{INDEX}{PART}"
"""A file in folders whose shards are not all written."""
FORMAT = 2
"""Version of the index. Version 1 had no ``.npy`` files."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Model):
    """One shard: its file's name, its rows, its bytes, and the CRC-32 of the values of each array."""

    file: str = Field(pattern=r"^[^/\\]+$")
    rows: int = Field(ge=1)
    size: int
    crc32: dict[str, int]


class SplitSettings(_Model):
    """Keywords of the :class:`pyrovae.datasets.Split` that was written."""

    scale: float = Field(1.0, gt=0)
    redraw: bool = False
    dequantise: bool = False
    seed: int = Field(0, ge=0)
    shape: tuple[int, ...] | None = None
    conventions: dict[str, Any] = {}


class ShardIndex(_Model):
    """Content of ``index.json``."""

    format: int = FORMAT
    shards: tuple[Shard, ...] = Field(min_length=1)
    split: SplitSettings = SplitSettings()

    @model_validator(mode="after")
    def _check_same_arrays(self) -> ShardIndex:
        first = self.shards[0]
        for shard in self.shards:
            if shard.crc32.keys() != first.crc32.keys():
                raise ValueError(f"{first.file} has arrays {[*first.crc32]}, {shard.file} {[*shard.crc32]}")
        return self


def array_path(folder: Path, file: str, name: str) -> Path:
    """The file of an array. Each array has its own folder of ``.npy`` files; other files hold all arrays."""
    return folder / name / file if file.endswith(".npy") else folder / file


def read_index(folder: Path) -> ShardIndex | None:
    """The index of a folder, or None; its files have to be there, in the size that was written."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no index of shards ({one_line(error)}): write them again") from error
    if index.format > FORMAT:
        raise ValueError(f"{path}: format {index.format}, and this version reads {FORMAT}: update pyrovae")
    for shard in index.shards:
        files = {array_path(folder, shard.file, name) for name in shard.crc32}
        for file in files:
            if not file.is_file():
                raise ValueError(f"{file}: missing, and {INDEX} lists it: put it back, or write all again")
        if (size := sum(file.stat().st_size for file in files)) != shard.size:
            raise ValueError(f"{file}: {size:,} bytes, and {shard.size:,} were written: write it again")
    return index


def list_files(folder: Path, key: str) -> list[str]:
    """The shards of a folder without an index, in the order of their numbers, none of which is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: name one of shards, or use write_shards")
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder}: its writing was cut short: empty the folder, and write the shards again")
    kinds: tuple[str, ...] = (".npz", ".safetensors")
    if (folder / key).is_dir():
        folder, kinds = folder / key, (".npy",)
    files = sorted(
        (match[1], int(match[2] or -1), match[0])
        for path in folder.iterdir()
        if path.suffix in kinds and (match := re.fullmatch(r"(.*?)(\d*)\.\w+", path.name))
    )
    if not files:
        raise FileNotFoundError(f"{folder}: no {' or '.join(kinds)} in it: write shards by write_shards")
    if len({Path(name).suffix for *_, name in files}) > 1:
        raise ValueError(f"{folder}: holds {' and '.join(kinds)} files: keep one kind in a folder")
    numbers = [number for stem, number, _ in files if stem == files[0][0]]
    missing = sorted({*range(numbers[0], numbers[-1])} - {*numbers})
    if missing:
        raise ValueError(f"{folder}: file number {missing[0]} of '{files[0][0]}' is missing: put it back")
    return [name for *_, name in files]


def open_array(path: Path, name: str) -> Tensor:
    """An array of a file, mapped into memory; a compressed one is read. An error names the file."""
    try:
        if path.suffix == ".npy":
            # Mode "c" is "r" without torch's warning of arrays that cannot be written to.
            array = torch.from_numpy(np.load(path, mmap_mode="c"))
        elif path.suffix == ".npz":
            array = torch.from_numpy(_open_npz(path, name))
        else:
            with safe_open(path, "pt") as file:
                _check_name(name, file.keys())
                array = file.get_tensor(name)
        if not array.ndim or not len(array):
            raise ValueError("it has no rows")
        return array
    except Exception as error:  # numpy, zipfile, safetensors and torch raise errors of many types
        state = what_is(path) or f"array '{name}' cannot be read"
        raise ValueError(f"{path}: {state} ({one_line(error)}): write it again") from error


def encode_arrays(arrays: Mapping[str, Tensor], format: str, compress: bool) -> dict[str, bytes]:
    """The files of a shard, each by the name of its first array."""
    if format == "safetensors":
        return {"x": to_bytes(arrays)}
    if torch.bfloat16 in {each.dtype for each in arrays.values()}:
        raise ValueError("write_shards: numpy has no bfloat16: pass format='safetensors'")
    as_numpy: dict[str, Any] = {name: each.cpu().numpy() for name, each in arrays.items()}
    if format == "npy":
        return {name: _saved(np.save, array) for name, array in as_numpy.items()}
    return {"x": _saved(np.savez_compressed if compress else np.savez, **as_numpy)}


def _saved(save: Callable[..., None], *array: Any, **arrays: Any) -> bytes:
    content = io.BytesIO()
    save(content, *array, **arrays)
    return content.getvalue()


def _open_npz(path: Path, name: str) -> np.ndarray:
    """An array of an ``.npz`` file, which numpy reads whole: here it is mapped if it is not compressed."""
    with zipfile.ZipFile(path) as archive:
        _check_name(name, [each.removesuffix(".npy") for each in archive.namelist()])
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with np.load(path) as file:
                return file[name]
        with archive.open(member) as content:
            is_first = np.lib.format.read_magic(content) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(content)
            header = content.tell()
    if dtype.hasobject or member.file_size != header + math.prod(shape) * dtype.itemsize:
        raise ValueError("it holds Python objects, or is not as long as its header says")
    with path.open("rb") as stored:
        stored.seek(member.header_offset + 26)  # the lengths of the two texts before the member's content
        lengths = np.frombuffer(stored.read(4), "<u2")
    offset = member.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "c", offset, shape, "F" if is_fortran else "C")


def _check_name(name: str, names: list[str]) -> None:
    if name not in names:
        raise ValueError(f"no array '{name}' in it, only {', '.join(sorted(names)) or 'none'}")
