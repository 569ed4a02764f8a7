"""The modules of programs, their tensors by name, and their modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

__all__ = ["Program", "copy_into", "mode", "modules_by_name", "modules_of", "of_module", "of_programs"]

Program = Callable[..., Any]


def of_module(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a shared one has its first name.

    Example:
        >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
        >>> tied[1].weight = tied[0].weight
        >>> list(of_module(tied))
        ['0.weight', '0.bias']
    """
    return _once(module.state_dict(keep_vars=True))


def of_programs(model: Program, guide: Program, more: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """All tensors of two programs: ``model.*``, ``guide.*``, and ``parameter.*`` for those in no module.

    The tensors of ``more`` may be in closures or in Pyro's parameter store.
    """
    named: dict[str, Any] = {}
    for name, module in modules_by_name(model, guide).items():
        for tensors in (module._parameters, module._buffers):
            named |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
    return _once(named | {f"parameter.{i}": tensor for i, tensor in enumerate(more)})


def modules_by_name(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Every module in two programs, each once: ``model``, ``model.prior``, ``guide``, and so on."""
    owners = ("model", _owner(model)), ("guide", _owner(guide))
    seen: set[nn.Module] = set()
    return {
        name: module
        for kind, owner in owners
        if isinstance(owner, nn.Module)
        for name, module in owner.named_modules(seen, kind)
    }


@torch.no_grad()
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], where: str) -> None:
    """Copy values into the tensors of the same names.

    Raises:
        ValueError: Names or shapes differ; nothing has changed.
    """
    wrong = [f"'{name}' is missing" for name in tensors if name not in values]
    wrong += [f"'{name}' is of no part" for name in values if name not in tensors]
    wrong += [
        f"'{name}' has shape {tuple(values[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in values and values[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{where}: not the weights of this model: {'; '.join(wrong[:3])}{more}")
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def _once(named: Mapping[str, Any]) -> dict[str, Tensor]:
    """Each tensor under its first name, without other values."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, value in named.items():
        if isinstance(value, Tensor):
            first.setdefault(id(value), (name, value))
    return dict(first.values())


def modules_of(model: Program, guide: Program, device: torch.device | str | None = None) -> list[nn.Module]:
    """The modules behind two programs, moved to the device if given."""
    owners = [_owner(program) for program in (model, guide)]
    return [owner.to(device) for owner in owners if isinstance(owner, nn.Module)]


def _owner(program: Program) -> Any:
    """What a program is without the handlers around it; for a bound method its object."""
    bare = poutine.unwrap(program)
    return getattr(bare, "__self__", bare)


@contextmanager
def mode(modules: list[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules in training or evaluation mode for a block."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for part, was in before:
            part.training = was
