"""Writing and reading run folders: ``pv.save``, ``pv.load``, and the callback that keeps a training there."""

from __future__ import annotations

import os
from dataclasses import asdict
from json import dumps
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from pyrovae.core.launch import is_main_process
from pyrovae.core.modules import copy_into, modules_of, of_module, of_programs
from pyrovae.runs.build import build
from pyrovae.runs.folder import CHECKPOINTS, HISTORY, MODEL, WEIGHTS
from pyrovae.runs.recipe import RECIPE, Run, read_run
from pyrovae.storage.checkpoints import Checkpoints
from pyrovae.storage.files import write_file
from pyrovae.storage.tensors import from_bytes, hash_of, to_bytes

if TYPE_CHECKING:
    from pyrovae.models.vae import VAE
    from pyrovae.training.history import History
    from pyrovae.training.state import Training

__all__ = ["Keeper", "describe_model", "load", "save"]


def save(vae: nn.Module, folder: str | os.PathLike[str], run: Run | None = None) -> None:
    """Write a model's weights, and the run they belong to, into a folder.

    Args:
        vae: The model.
        folder: The folder, made if it is missing.
        run: Recipe and data of the model, to which the hash of the weights is added. Without it, :func:`load`
            needs a model that was built the same way.

    Raises:
        OSError: The files cannot be written; previous files are unchanged.

    Example:
        >>> from pyrovae.runs.build import build
        >>> from pyrovae.runs.recipe import Recipe
        >>> import tempfile
        >>> recipe = Recipe(latent_dim=2, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(build(recipe, features=9), folder)
        ...     vae = load(folder, build(recipe, features=9))
    """
    folder, pair = Path(folder), cast("VAE", vae)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / WEIGHTS, to_bytes(of_module(vae)))
    if run is not None:
        run = run.model_copy(update={"weights": hash_of(modules_of(pair.model, pair.guide))})
        write_file(folder / RECIPE, run.model_dump_json(indent=2) + "\n")
    else:
        write_file(folder / MODEL, describe_model(vae) + "\n")


def load(folder: str | os.PathLike[str], vae: nn.Module | None = None) -> VAE:
    """Load a model that :func:`save` wrote, or that a run left in its last checkpoint.

    Args:
        folder: The run folder.
        vae: A model built as the saved one was, which receives the weights; built from the folder's recipe
            if not given.

    Returns:
        The model with its weights.

    Raises:
        FileNotFoundError: The folder has no recipe and no model is given, or it has no weights.
        ValueError: The weights are damaged or belong to another model.

    Example:
        >>> import tempfile
        >>> from pyrovae.models.priors import Normal
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
                f"{folder}: weights{_of_model(folder)}, without a {RECIPE}: build the model they are of and "
                f"pass it, pv.load(folder, vae)"
            )
        run = read_run(folder)
        vae = build(run.recipe, run.features, run.shape)
    pair: Any = vae
    if path.is_file():
        copy_into(of_module(vae), from_bytes(path.read_bytes(), path), str(path))
        return pair
    state = Checkpoints(folder / CHECKPOINTS).newest()
    if state is None or not hasattr(pair, "model"):
        raise FileNotFoundError(f"{path}: no weights there: the run was never saved")
    copy_into(of_programs(pair.model, pair.guide), state["weights"], str(folder / CHECKPOINTS))
    return pair


def describe_model(model: nn.Module) -> str:
    """A model's class, and a VAE's parts with theirs, each by the name that imports it.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(pv.networks.MLP(9, 4))
        >>> vae = pv.VAE(pv.priors.Laplace(2), pv.likelihoods.Bernoulli(pv.networks.MLP(2, 9)), q)
        >>> print(describe_model(vae))
        pyrovae.models.vae.VAE
        prior pyrovae.models.priors.real.Laplace
        likelihood pyrovae.models.likelihoods.binary.Bernoulli of net MLP
        guide pyrovae.models.guides.real.Normal of net MLP
    """
    lines = [_import_name(model)]
    for name in ("prior", "likelihood", "guide"):
        part: Any = getattr(model, name, None)
        if isinstance(part, nn.Module):
            part = getattr(part, "part", part)  # a guide's program, or a function in the place of a module
            inside = [f"{key} {type(each).__name__}" for key, each in getattr(part, "named_children", dict)()]
            lines.append(f"{name} {_import_name(part)}{' of ' if inside else ''}{', '.join(inside)}")
    return "\n".join(lines)


def _of_model(folder: Path) -> str:
    """What ``model.txt`` says, in one line; nothing where it is missing."""
    try:
        lines = (folder / MODEL).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    return f" of {lines[0]}{' with ' if lines[1:] else ''}{', '.join(lines[1:])}" if lines else ""


def _import_name(part: object) -> str:
    cls = part if hasattr(part, "__qualname__") else type(part)
    return f"{cls.__module__}.{getattr(cls, '__qualname__', '')}"


class Keeper:
    """A callback of :func:`pyrovae.fit` that writes a run folder; of several processes the first writes.

    The recipe is written at the start, weights and history at the end. Between the two, `fit` keeps its
    checkpoints in the same folder.
    """

    def __init__(self, vae: VAE, folder: Path, run: Run) -> None:
        self.vae, self.folder, self.run = vae, folder, run
        self.history: History | None = None
        self.first = True

    def begin(self) -> None:
        """Write the recipe, unless there is one: `fit` checks first whether that run can be resumed."""
        if is_main_process() and not (self.folder / RECIPE).exists():
            self._write_recipe()

    def __call__(self, training: Training) -> None:
        """After the first epoch of a resumed run, delete its final weights and rewrite the recipe."""
        if self.first and is_main_process():
            self.first = False
            (self.folder / WEIGHTS).unlink(missing_ok=True)
            self._write_recipe()

    def interrupted(self) -> str:
        """Write the history so far; a message that says what was kept and how to resume."""
        state = Checkpoints(self.folder / CHECKPOINTS).newest()
        if state is None:
            self.forget()
            return "interrupted before anything could be kept"
        self._write_history(state["history"])
        epochs, steps = state["position"]["epoch"], state["position"]["step"]
        return (
            f"interrupted: {epochs} epochs and {steps} steps are in {self.folder}: go on with "
            f"pyrovae train {quote(str(self.folder))} --resume"
        )

    def forget(self) -> None:
        """Delete the recipe of a training that failed before its first checkpoint."""
        if is_main_process() and not (self.folder / CHECKPOINTS).exists():
            (self.folder / RECIPE).unlink(missing_ok=True)

    def finish(self) -> list[Path]:
        """Write weights and history, and return the run's files."""
        save(self.vae, self.folder, self.run)
        if self.history is not None:
            self._write_history(asdict(self.history))
        return [path for name in (RECIPE, WEIGHTS, HISTORY) if (path := self.folder / name).exists()]

    def _write_recipe(self) -> None:
        write_file(self.folder / RECIPE, self.run.model_dump_json(indent=2) + "\n")

    def _write_history(self, history: dict[str, Any]) -> None:
        write_file(self.folder / HISTORY, dumps(history, indent=1) + "\n")
