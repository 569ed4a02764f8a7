"""``index.json`` of a folder of shards: which files there are, how many rows each has, and what they hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyrovae.core.checks import one_line
from pyrovae.data.stored_arrays import SUFFIXES
from pyrovae.storage.files import PART, write_file

__all__ = ["INDEX", "Index", "Kind", "Shard", "begin_index", "listed", "read_index", "write_index"]

INDEX = "index.json"
FORMAT = 1


class Shard(BaseModel):
    """One file.

    Attributes:
        file: Its name.
        rows: How many it has.
        size: Bytes of the file.
        crc32: Of the bytes of each array in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^[^/\\]+$")
    rows: int = Field(ge=1)
    size: int
    crc32: dict[str, int]


class Kind(BaseModel):
    """What a :class:`pyrovae.datasets.Split` of them is: its keywords."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(1.0, gt=0)
    redraw: bool = False
    dequantise: bool = False
    seed: int = Field(0, ge=0)
    shape: tuple[int, ...] | None = None
    conventions: dict[str, Any] = {}


class Index(BaseModel):
    """All of them, and of what kind they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    shards: tuple[Shard, ...] = Field(min_length=1)
    split: Kind = Kind()

    @model_validator(mode="after")
    def _of_the_same_arrays(self) -> Index:
        first = self.shards[0]
        for shard in self.shards:
            if shard.crc32.keys() != first.crc32.keys():
                raise ValueError(
                    f"{first.file} has hashes of {', '.join(first.crc32)}, and {shard.file} of "
                    f"{', '.join(shard.crc32)}"
                )
        return self


def read_index(folder: Path) -> Index | None:
    """The index of a folder; None where it has none.

    Raises:
        ValueError: It is none, or a file is missing or of another size than was written.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = Index.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no index of shards ({one_line(error)}): write them again") from error
    if index.format > FORMAT:
        raise ValueError(f"{path}: format {index.format}, and this version reads {FORMAT}: update pyrovae")
    for shard in index.shards:
        file = folder / shard.file
        if not file.is_file():
            raise ValueError(f"{file}: missing, and {INDEX} has it: put it back, or write the shards again")
        if (size := file.stat().st_size) != shard.size:
            raise ValueError(f"{file}: {size:,} bytes, and {shard.size:,} were written: write it again")
    return index


def begin_index(folder: Path) -> None:
    """Mark a folder that shards are written to, before the first one: :func:`write_index` takes it away."""
    write_file(folder / f"{INDEX}{PART}", b"")


def write_index(folder: Path, index: Index) -> None:
    """Write it: last, so that a folder that has one is complete."""
    write_file(folder / INDEX, index.model_dump_json(indent=1) + "\n")


def listed(folder: Path) -> list[Path]:
    """The shards of a folder without an index, by their names.

    Raises:
        FileNotFoundError: There is no such folder, or no shard in it.
        ValueError: They were not written to the end, of numbered files one is missing, or they are of two
            kinds.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: name one of shards, or use write_shards")
    if (folder / f"{INDEX}{PART}").exists():
        raise ValueError(f"{folder}: its writing was cut short: empty the folder, and write the shards again")
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{folder}: no {' or '.join(SUFFIXES)} in it: write shards by write_shards")
    if len({path.suffix for path in found}) > 1:
        raise ValueError(f"{folder}: holds {SUFFIXES[0]} and {SUFFIXES[1]} files: keep one kind in a folder")
    numbers = [re.fullmatch(r"(.*?)(\d+)", path.stem) for path in found]
    if all(numbers) and len({each[1] for each in numbers if each}) == 1:
        first, width = int(numbers[0][2]), len(numbers[0][2])  # type: ignore[index]
        there = {int(each[2]) for each in numbers if each}
        for number in range(first, max(there)):
            if number not in there:
                name = f"{numbers[0][1]}{number:0{width}d}{found[0].suffix}"  # type: ignore[index]
                raise ValueError(f"{folder / name}: missing, of files that are numbered: put it back")
        found.sort(key=lambda path: int(re.search(r"\d+$", path.stem)[0]))  # type: ignore[index]
    return found
