"""What weights without a recipe are of, so that whoever loads them knows what to build."""

from __future__ import annotations

from pathlib import Path

from torch import nn

__all__ = ["MODEL", "needed", "told"]

MODEL = "model.txt"
"""Beside the weights, where there is no recipe."""

PARTS = ("prior", "likelihood", "guide")


def told(model: nn.Module) -> str:
    """A model's class, and of a VAE its parts', each by the name that imports it.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(pv.networks.MLP(9, 4))
        >>> print(told(pv.VAE(pv.priors.Laplace(2), pv.likelihoods.Bernoulli(pv.networks.MLP(2, 9)), q)))
        pyrovae.vae.VAE
        prior pyrovae.priors.normal.Laplace
        likelihood pyrovae.likelihoods.binary.Bernoulli of net MLP
        guide pyrovae.guides.normal.Normal of net MLP
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
