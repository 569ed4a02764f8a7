"""What is finished of a long evaluation, line by line on disk, so that a killed one goes on where it was."""

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

FOLLOWS = ("chosen", "first weights")
"""What follows from the rest, or is known by a sum alone: of a difference it is the last to be named."""


class ResumeLog:
    """A file of one JSON line for what is evaluated how, and one for each tile that is done.

    A line that a kill cut short is dropped. Floats are written so that they come back to the last bit.

    Args:
        path: The file, made if it is not there.
        said: What the results are of; a file that says something else is refused.

    Raises:
        ValueError: The file is of another evaluation (the differences are named), or no such file.
    """

    def __init__(self, path: str | os.PathLike[str], said: dict[str, Any]) -> None:
        self.path = Path(path)
        self.said = json.loads(json.dumps(said))
        self._done: dict[int, dict[str, Any]] = {}
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        if lines:
            self._read(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(
            self.path, b"".join(map(_line, (self.said, *self._done.values())))
        )  # less what was cut short

    def find(self, tile: Tile) -> dict[str, Tensor] | None:
        """The columns of a tile, if they are there.

        Raises:
            ValueError: They are of other data.
        """
        line = self._done.get(tile.position)
        if line is None:
            return None
        if line["crc32"] != fingerprint(tile.data()):
            raise ValueError(f"evaluate: {tile.name} are not those that {self.path} is of: name another file")
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in line["columns"].items()}

    def add(self, tile: Tile, columns: dict[str, Tensor]) -> None:
        """Write the columns of a tile, and see to it that they are on the disk."""
        values = {name: column.tolist() for name, column in columns.items()}
        line = {"tile": tile.position, "crc32": fingerprint(tile.data()), "columns": values}
        with self.path.open("ab") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, lines: list[bytes]) -> None:
        try:
            said, *done = [json.loads(line) for line in lines]
            self._done = {line["tile"]: line for line in done}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"evaluate: {self.path} holds no evaluation: name another file to resume from"
            ) from error
        keys = [*self.said, *said]
        for key in sorted(keys, key=lambda each: (each in FOLLOWS, keys.index(each))):
            there, here = (each.get(key, "unset") for each in (said, self.said))
            if there != here:
                raise ValueError(
                    f"evaluate: {self.path} is of {key} {there}, and this evaluation of {here}: "
                    f"finish that one, or delete the file"
                )


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
