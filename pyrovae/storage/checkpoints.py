"""Checkpoints of a training: a folder each, complete or absent, of safetensors and JSON. Nothing is pickled.

A checkpoint has a file of tensors for each part of the state and ``state.json`` for the rest; its
``manifest.json`` lists them with their SHA-256 (see :mod:`pyrovae.storage.files`).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrovae.storage.files import PART, DamagedError, read_folder, read_manifest, remove, write_folder
from pyrovae.storage.tensors import flatten, from_bytes, to_bytes, unflatten

__all__ = ["CHECKPOINTS", "Checkpoints"]

CHECKPOINTS = "checkpoints"
STATE = "state.json"


class Checkpoints:
    """A folder for checkpoints alone, created with the first; the last two and the best are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: set[Path] = set()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name another run folder")
        known = self.paths()
        strange = [path.name for path in self._entries() if path.suffix != PART and path not in known]
        if strange:
            name = min(strange)
            raise ValueError(f"{folder} holds '{name}', which is no checkpoint: name another run folder")

    def paths(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(path for path in self._entries() if path.is_dir() and path.name.isdigit())

    def newest(self) -> dict[str, Any] | None:
        """The state in the newest checkpoint, or None; a damaged one is skipped with a warning.

        Raises:
            ValueError: All are damaged, or a newer version wrote the newest.
        """
        errors: list[str] = []
        for path in reversed(self.paths()):
            try:
                state = read(path)
            except DamagedError as error:
                self.damaged.add(path)
                errors.append(str(error))
                continue
            if errors:
                message = f"{'; '.join(errors)}: the checkpoint before it, {path.name}, is taken"
                warnings.warn(message, stacklevel=2)
            return state
        if errors:
            mend = "take a copy, or start in another folder"
            raise ValueError(f"{errors[0]}; no other checkpoint is whole: {mend}")
        return None

    def add(self, state: Mapping[str, Any], score: float | None = None) -> None:
        """Write a checkpoint, then delete those that are neither among the last two nor the best.

        Args:
            state: Parts by name, each a tree that :func:`pyrovae.storage.tensors.flatten` accepts.
            score: A number that is higher for a better state.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files, content = {}, {}
        for part, tree in state.items():
            content[part], tensors = flatten(tree)
            if tensors:
                files[f"{part}.safetensors"] = to_bytes(tensors)
        files[STATE] = json.dumps(content).encode()
        number = max((int(path.name) for path in self.paths()), default=0) + 1
        write_folder(self.folder / f"{number:08d}", files, {"score": score})
        self._prune()

    def _prune(self) -> None:
        whole = [path for path in self.paths() if path not in self.damaged]
        scored = [(score, path) for path in whole if not math.isnan(score := _score(path))]
        kept = {*whole[-2:], *([max(scored)[1]] if scored else [])}
        for path in self.paths():
            if path not in kept:
                remove(path)

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []


def read(path: Path) -> dict[str, Any]:
    """The state in one checkpoint; a DamagedError names a damaged file."""
    _, files = read_folder(path)
    if STATE not in files:
        raise DamagedError(f"{path}: no {STATE} in it")
    content: dict[str, Any] = json.loads(files.pop(STATE))
    tensors = {Path(name).stem: from_bytes(data, path / name) for name, data in files.items()}
    return {part: unflatten(tree, tensors.get(part, {})) for part, tree in content.items()}


def _score(path: Path) -> float:
    """The score in a checkpoint's manifest; nan if there is none."""
    try:
        score = read_manifest(path)["about"]["score"]
    except ValueError:
        return math.nan
    return math.nan if score is None else score
