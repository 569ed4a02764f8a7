"""Save and load: safetensors for tensors, JSON for the rest, each file complete or not there.

A run folder has its weights in ``weights.safetensors``, which carries a hash of what is in it, and the state
of its training in ``checkpoints/``: a folder for each kept moment, with a file of tensors for each part of
the state and ``state.json`` for the rest, listed with their SHA-256 in ``manifest.json``; see
:mod:`pyrovae.storage.files`. Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.storage import files as durable
from pyrovae.storage.files import DamagedError
from pyrovae.storage.tensors import flatten, from_bytes, to_bytes, unflatten

if TYPE_CHECKING:
    pass

__all__ = ["CHECKPOINTS", "Checkpoints"]

CHECKPOINTS = "checkpoints"
STATE = "state.json"


class Checkpoints:
    """A folder of checkpoints, of which the last two stay, and the best.

    Args:
        folder: Theirs alone; made at the first one.

    Raises:
        ValueError: The folder holds something else.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(Path(folder) / "checkpoints")
        ...     for step in range(5):
        ...         checkpoints.add({"step": step, "weights": {"w": torch.ones(2)}})
        ...     checkpoints.newest()["step"], len(checkpoints.paths())
        (4, 2)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: set[Path] = set()
        self._scores: dict[Path, float] = {}
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name another run folder")
        strange = [path.name for path in self._entries() if path.suffix != durable.PART and not _is_one(path)]
        if strange:
            raise ValueError(
                f"{folder} holds '{min(strange)}', which is no checkpoint: name another run folder"
            )

    def paths(self) -> list[Path]:
        """Those that are there, the oldest first."""
        return sorted(path for path in self._entries() if _is_one(path))

    def newest(self) -> dict[str, Any] | None:
        """The state in the newest one that is whole; None where there is none yet.

        A damaged one is passed over, with a warning.

        Raises:
            ValueError: All are damaged, or a newer version wrote the newest.
        """
        found: list[str] = []
        for path in reversed(self.paths()):
            try:
                state = read(path)
            except DamagedError as error:
                self.damaged.add(path)
                found.append(str(error))
            else:
                if found:
                    said = f"{'; '.join(found)}: the checkpoint before it, {path.name}, is taken"
                    warnings.warn(said, UserWarning, stacklevel=2)
                return state
        if found:
            raise ValueError(
                f"{found[0]}; no other checkpoint is whole: take a copy, or start in another folder"
            )
        return None

    def add(self, state: Mapping[str, Any], score: float | None = None) -> None:
        """Write one, then delete those that are neither of the last two nor the best.

        Args:
            state: Parts by name, each a tree that :func:`pyrovae.storage.tensors.split` takes.
            score: The higher the better.

        Raises:
            OSError: It cannot be written; those before are as they were.
            TypeError: A part holds what cannot be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files, content = {}, {}
        for part, tree in state.items():
            content[part], tensors = flatten(tree)
            if tensors:
                files[f"{part}.safetensors"] = to_bytes(tensors)
        files[STATE] = json.dumps(content).encode()
        number = max((int(path.name) for path in self.paths()), default=0) + 1
        durable.write_folder(self.folder / f"{number:08d}", files, {"score": score})
        self._drop()

    def _drop(self) -> None:
        whole = [path for path in self.paths() if path not in self.damaged]
        scored = [(score, path) for path in whole if not math.isnan(score := self._score(path))]
        kept = {*whole[-2:], *([max(scored)[1]] if scored else [])}
        for path in self.paths():
            if path not in kept:
                durable.remove(path)

    def _score(self, path: Path) -> float:
        if path not in self._scores:
            try:
                score = durable.read_manifest(path)["about"]["score"]
            except ValueError:
                score = None
            self._scores[path] = math.nan if score is None else score
        return self._scores[path]

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []


def read(path: Path) -> dict[str, Any]:
    """The state in one checkpoint.

    Raises:
        DamagedError: It is damaged; the message names the file.
        ValueError: A newer version wrote it.
    """
    _, files = durable.read_folder(path)
    if STATE not in files:
        raise DamagedError(f"{path}: no {STATE} in it")
    content: dict[str, Any] = json.loads(files.pop(STATE))
    tensors = {Path(name).stem: from_bytes(held, path / name) for name, held in files.items()}
    return {part: unflatten(tree, tensors.get(part, {})) for part, tree in content.items()}


def _is_one(path: Path) -> bool:
    return path.is_dir() and path.name.isdigit()
