"""Save and load: safetensors for weights, JSON for the rest, each file complete or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from pyrovae.recipes import RECIPE, Run, read_run
from pyrovae.supplies import MODEL, needed, told

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.vae import VAE

__all__ = ["load", "save", "write_text"]

WEIGHTS = "weights.safetensors"


def save(vae: nn.Module, folder: str | os.PathLike[str], run: Run | None = None) -> None:
    """Write a model's weights, and the run they belong to, into a folder.

    Args:
        vae: The model.
        folder: Made if it is not there.
        run: Recipe and data of the model. Without it, :func:`load` has to be handed a model built
            the same way.

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
    temporary = folder / f"{WEIGHTS}.part"
    save_model(vae, str(temporary))
    _move(temporary, folder / WEIGHTS)
    if run is not None:
        write_text(folder / RECIPE, run.model_dump_json(indent=2) + "\n")
    else:
        write_text(folder / MODEL, told(vae) + "\n")


def load(folder: str | os.PathLike[str], vae: nn.Module | None = None) -> VAE:
    """Load a model that :func:`save` wrote.

    Args:
        folder: The run folder.
        vae: A model built as the saved one was, which receives the weights; built from the
            folder's recipe if not given.

    Returns:
        The model with its weights.

    Raises:
        FileNotFoundError: No recipe and no model, or no weights.
        ValueError: The weights are damaged or belong to another model.
    """
    folder = Path(folder)
    if vae is None:
        if (folder / WEIGHTS).is_file() and not (folder / RECIPE).is_file():
            raise FileNotFoundError(
                f"{folder}: weights{needed(folder)}, without a {RECIPE}: build the model they are of and "
                f"pass it, pv.load(folder, vae)"
            )
        run = read_run(folder)
        from pyrovae.building import build

        vae = build(run.recipe, run.features, run.shape)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no weights there: the run was never saved")
    try:
        load_model(vae, str(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not the weights of this model: {reason}") from error
    return vae  # type: ignore[return-value]


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    _move(temporary, path)


def _move(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, once its bytes are on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
