"""The tensors of modules and programs by name, and values put in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

__all__ = ["Program", "copy_into", "mode", "modules_by_name", "modules_of", "of_module", "of_programs"]


def of_module(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, one that several parts share by its first name.

    Example:
        >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
        >>> tied[1].weight = tied[0].weight
        >>> list(of_module(tied))
        ['0.weight', '0.bias']
    """
    return _once(module.state_dict(keep_vars=True))


def of_programs(model: Program, guide: Program, more: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """All that two programs compute with: ``model.*``, ``guide.*``, and ``parameter.*`` of no module.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        more: Parameters; those that are in no module are in closures or in Pyro's store.
    """
    found: dict[str, Any] = {}
    for name, module in modules_by_name(model, guide).items():
        for held in (module._parameters, module._buffers):
            found |= {f"{name}.{key}": tensor for key, tensor in held.items()}
    found |= {f"parameter.{i}": tensor for i, tensor in enumerate(more)}
    return _once(found)


def modules_by_name(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Every module in two programs, each once: ``model``, ``model.prior``, ``guide``, and so on."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for kind, program in (("model", model), ("guide", guide)):
        bare = poutine.unwrap(program)
        owner = getattr(bare, "__self__", bare)
        if isinstance(owner, nn.Module):
            for name, module in owner.named_modules(prefix=kind):
                found.setdefault(id(module), (name, module))
    return dict(found.values())


@torch.no_grad()
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], where: str) -> None:
    """Put values in the place of the tensors of the same names.

    Raises:
        ValueError: Names or shapes differ; nothing is changed then.
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
    """Each tensor under its first name; what is no tensor is left out."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in named.items():
        if isinstance(value, Tensor):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


Program = Callable[..., Any]


def modules_of(model: Program, guide: Program, device: torch.device | str | None = None) -> list[nn.Module]:
    """The modules that the two programs are, or are handlers around, moved to the device if given."""
    bare = [poutine.unwrap(program) for program in (model, guide)]  # of handlers around them
    owners = [getattr(program, "__self__", program) for program in bare]  # of bound methods
    return [owner.to(device) for owner in owners if isinstance(owner, nn.Module)]


@contextmanager
def mode(modules: list[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules in training or evaluation mode, and back at the end."""
    with ExitStack() as stack:
        for module in modules:
            for part in module.modules():
                stack.callback(setattr, part, "training", part.training)
        for module in modules:
            module.train(training)
        yield
