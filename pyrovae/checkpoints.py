"""Save and load: safetensors for tensors, JSON for the rest, each file complete or not there.

A run folder has its weights in ``weights.safetensors``, which carries a hash of what is in it, and the state
of its training in ``checkpoints/``: a folder for each kept moment, with a file of tensors for each part of
the state and ``state.json`` for the rest, listed with their SHA-256 in ``manifest.json``; see
:mod:`pyrovae.durable`. Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae import durable
from pyrovae.durable import DamagedError
from pyrovae.ledger import hash_of
from pyrovae.programs import modules_of
from pyrovae.recipes import RECIPE, Run, read_run
from pyrovae.supplies import MODEL, needed, told
from pyrovae.trees import from_bytes, join, split, to_bytes
from pyrovae.weights import copy_into, of_module, of_programs

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.vae import VAE

__all__ = ["CHECKPOINTS", "Checkpoints", "load", "save"]

WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
STATE = "state.json"


def save(vae: nn.Module, folder: str | os.PathLike[str], run: Run | None = None) -> None:
    """Write a model's weights, and the run they belong to, into a folder.

    Args:
        vae: The model.
        folder: Made if it is not there.
        run: Recipe and data of the model, to which the hash of the weights is added. Without it, :func:`load`
            has to be handed a model built the same way.

    Raises:
        OSError: They cannot be written; what was there still is.

    Example:
        >>> from pyrovae.building import build
        >>> from pyrovae.recipes import Recipe
        >>> import tempfile
        >>> recipe = Recipe(latent_dim=2, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(build(recipe, features=9), folder)
        ...     vae = load(folder, build(recipe, features=9))
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_file(folder / WEIGHTS, to_bytes(of_module(vae)))
    if run is not None:
        pair: Any = vae
        run = run.model_copy(update={"weights": hash_of(modules_of(pair.model, pair.guide))})
        durable.write_file(folder / RECIPE, run.model_dump_json(indent=2) + "\n")
    else:
        durable.write_file(folder / MODEL, told(vae) + "\n")


def load(folder: str | os.PathLike[str], vae: nn.Module | None = None) -> VAE:
    """Load a model that :func:`save` wrote, or that a run left in its last checkpoint.

    Args:
        folder: The run folder.
        vae: A model built as the saved one was, which receives the weights; built from the
            folder's recipe if not given.

    Returns:
        The model with its weights.

    Raises:
        FileNotFoundError: No recipe and no model, or no weights.
        ValueError: The weights are damaged or belong to another model.

    Example:
        >>> import tempfile
        >>> from pyrovae.priors import Normal
        >>> a, b = Normal(2), Normal(2)
        >>> _ = a.loc.data.fill_(3.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(a, folder)
        ...     _ = load(folder, b)
        >>> bool((a.loc == b.loc).all())
        True
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    if vae is None:
        if path.is_file() and not (folder / RECIPE).is_file():
            raise FileNotFoundError(
                f"{folder}: weights{needed(folder)}, without a {RECIPE}: build the model they are of and "
                f"pass it, pv.load(folder, vae)"
            )
        run = read_run(folder)
        from pyrovae.building import build

        vae = build(run.recipe, run.features, run.shape)
    if path.is_file():
        copy_into(of_module(vae), from_bytes(path.read_bytes(), path), str(path))
        return vae  # type: ignore[return-value]
    state = Checkpoints(folder / CHECKPOINTS).newest()
    pair: Any = vae
    if state is None or not hasattr(pair, "model"):
        raise FileNotFoundError(f"{path}: no weights there: the run was never saved")
    copy_into(of_programs(pair.model, pair.guide), state["weights"], str(folder / CHECKPOINTS))
    return pair


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
            state: Parts by name, each a tree that :func:`pyrovae.trees.split` takes.
            score: The higher the better.

        Raises:
            OSError: It cannot be written; those before are as they were.
            TypeError: A part holds what cannot be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files, content = {}, {}
        for part, tree in state.items():
            content[part], tensors = split(tree)
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
    return {part: join(tree, tensors.get(part, {})) for part, tree in content.items()}


def _is_one(path: Path) -> bool:
    return path.is_dir() and path.name.isdigit()
