"""The finished tiles of a long evaluation on disk, from which an interrupted one continues."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae.data.rows import fingerprint
from pyrovae.evaluation.tiles import Tile
from pyrovae.storage.files import write_file

__all__ = ["ResumeLog"]

# Conventions that follow from the others: their differences are reported last.
FOLLOWS = ("chosen", "first weights")


class ResumeLog:
    """A file with one JSON line of conventions, and one for each finished tile.

    A line that was cut short is dropped; floats are written to the last bit.

    Raises:
        ValueError: The file is of another evaluation (the differences are named), or not of this kind.
    """

    def __init__(self, path: str | os.PathLike[str], conventions: dict[str, Any]) -> None:
        self.path = Path(path)
        self.conventions = json.loads(json.dumps(conventions))
        self._done: dict[int, dict[str, Any]] = {}
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        if lines:
            self._read(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, b"".join(map(_line, (self.conventions, *self._done.values()))))

    def find(self, tile: Tile) -> dict[str, Tensor] | None:
        """The columns of a tile, if it is finished; a ValueError if they are of other data."""
        line = self._done.get(tile.position)
        if line is None:
            return None
        if line["crc32"] != fingerprint(tile.data()):
            raise ValueError(f"evaluate: {tile.name} are not those that {self.path} is of: name another file")
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in line["columns"].items()}

    def add(self, tile: Tile, columns: dict[str, Tensor]) -> None:
        """Append the columns of a tile, and flush them to the disk."""
        values = {name: column.tolist() for name, column in columns.items()}
        line = {"tile": tile.position, "crc32": fingerprint(tile.data()), "columns": values}
        with self.path.open("ab") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, lines: list[bytes]) -> None:
        try:
            stored, *done = [json.loads(line) for line in lines]
            self._done = {line["tile"]: line for line in done}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"evaluate: {self.path} holds no evaluation: name another file to resume from"
            ) from error
        keys = [*self.conventions, *stored]
        for key in sorted(keys, key=lambda each: (each in FOLLOWS, keys.index(each))):
            there, here = (each.get(key, "unset") for each in (stored, self.conventions))
            if there != here:
                raise ValueError(
                    f"evaluate: {self.path} is of {key} {there}, and this evaluation of {here}: "
                    f"finish that one, or delete the file"
                )


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
