"""Saving and loading a model: ``pv.save``, ``pv.load``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pyrovae.core.modules import copy_into, modules_of, of_module, of_programs
from pyrovae.runs.recipe import RECIPE, Run, read_run
from pyrovae.storage.checkpoints import CHECKPOINTS, Checkpoints
from pyrovae.storage.files import write_file
from pyrovae.storage.tensors import from_bytes, hash_of, to_bytes

if TYPE_CHECKING:
    from pyrovae.models.vae import VAE

__all__ = ["MODEL", "WEIGHTS", "load", "needed", "save", "told"]

WEIGHTS = "weights.safetensors"
MODEL = "model.txt"
"""Beside the weights, where there is no recipe."""

PARTS = ("prior", "likelihood", "guide")


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
        >>> from pyrovae.runs.build import build
        >>> from pyrovae.runs.recipe import Recipe
        >>> import tempfile
        >>> recipe = Recipe(latent_dim=2, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(build(recipe, features=9), folder)
        ...     vae = load(folder, build(recipe, features=9))
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / WEIGHTS, to_bytes(of_module(vae)))
    if run is not None:
        pair: Any = vae
        run = run.model_copy(update={"weights": hash_of(modules_of(pair.model, pair.guide))})
        write_file(folder / RECIPE, run.model_dump_json(indent=2) + "\n")
    else:
        write_file(folder / MODEL, told(vae) + "\n")


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
                f"{folder}: weights{needed(folder)}, without a {RECIPE}: build the model they are of and "
                f"pass it, pv.load(folder, vae)"
            )
        run = read_run(folder)
        from pyrovae.runs.build import build

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


def told(model: nn.Module) -> str:
    """A model's class, and of a VAE its parts', each by the name that imports it.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(pv.networks.MLP(9, 4))
        >>> print(told(pv.VAE(pv.priors.Laplace(2), pv.likelihoods.Bernoulli(pv.networks.MLP(2, 9)), q)))
        pyrovae.models.vae.VAE
        prior pyrovae.models.priors.real.Laplace
        likelihood pyrovae.models.likelihoods.binary.Bernoulli of net MLP
        guide pyrovae.models.guides.real.Normal of net MLP
    """
    parts = {
        name: getattr(model, name) for name in PARTS if isinstance(getattr(model, name, None), nn.Module)
    }
    lines = [_name(model)]
    for name, part in parts.items():
        part = getattr(part, "part", part)  # a guide's program, or a function in the place of a module
        inside = [f"{key} {type(each).__name__}" for key, each in getattr(part, "named_children", dict)()]
        lines.append(f"{name} {_name(part)}{' of ' if inside else ''}{', '.join(inside)}")
    return "\n".join(lines)


def needed(folder: Path) -> str:
    """What :func:`told` said of the weights in a folder, in one line; nothing where nothing was said.

    Args:
        folder: Where the weights are.
    """
    path = folder / MODEL
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    return f" of {lines[0]}{' with ' if lines[1:] else ''}{', '.join(lines[1:])}" if lines else ""


def _name(part: object) -> str:
    cls = part if hasattr(part, "__qualname__") else type(part)
    return f"{cls.__module__}.{getattr(cls, '__qualname__', '')}"
