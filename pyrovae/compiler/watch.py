"""Snapshot of everything a program depends on, to detect edits between calls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pyro
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.core.clock import Clock

__all__ = ["ProgramSnapshot", "leaves_of"]

PLAIN = (int, float, complex, bool, str, bytes, type(None))
FEW = 16
OWN = {*nn.Module().__dict__, "_pyro_context", "_pyro_name"}
"""Attributes of a module that are compared separately, or do not affect what it computes."""


class ProgramSnapshot:
    """The parts of programs and losses, and every plain value in them.

    Modules, handlers, methods, and the closures and globals of functions are searched. Tensors are compared
    by identity, since a graph reads their values at each call. ``names`` are of Pyro's parameter store.
    """

    def __init__(self, roots: Iterable[Any], names: Iterable[str] = ()) -> None:
        self.values: list[Any] = []
        self.modules: list[nn.Module] = []
        self._kept: list[Any] = []  # alive, so that no id comes again
        self._seen: set[int] = set()
        for root in roots:
            self._look("", root)
        for name in names:
            self._tensor(name, pyro.get_param_store()._params.get(name))

    def changed_since(self, before: ProgramSnapshot) -> str | None:
        """The name of the first part that differs from an earlier snapshot, or None."""
        if self.values == before.values:
            return None
        for now, then in zip(self.values, before.values, strict=False):
            if now != then:
                return now[0] or "the program"
        return "the program"

    def tensors(self, kind: str) -> list[Tensor]:
        """The modules' "parameters" or "buffers", each once."""
        held = [tensor for module in self.modules for tensor in getattr(module, f"_{kind}").values()]
        return list({id(tensor): tensor for tensor in held if tensor is not None}.values())

    def _look(self, name: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, PLAIN):
            self.values.append((name, value))
        elif isinstance(value, Tensor):
            self._tensor(name, value)
        elif isinstance(value, (list, tuple, set, frozenset, dict)):
            self.values.append((name, len(value)))
            if not isinstance(value, Clock) and len(value) <= FEW and depth < 3:
                for each in value.values() if isinstance(value, dict) else value:
                    self._look(name, each, depth + 1)
        elif isinstance(value, (ModuleType, type, CodeType)):
            pass
        elif id(value) in self._seen:
            self.values.append((name, id(value)))
        else:
            self._object(name, value)

    def _object(self, name: str, value: Any) -> None:
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, MethodType):  # made anew at each access
            self._look(name, value.__self__)
            self._look(name, value.__func__)
            return
        self.values.append((name, id(value)))
        if isinstance(value, nn.Module):
            self._module(name, value)
        elif isinstance(value, FunctionType):
            self._function(name, value)
        elif isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self._look(name, part)
        elif isinstance(value, (Messenger, ELBO)):
            for key, part in value.__dict__.items():
                if not key.startswith("_") and not isinstance(part, Clock):
                    self._look(f"{type(value).__name__}.{key}", part)

    def _module(self, name: str, module: nn.Module) -> None:
        self.modules.append(module)
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        self.values.append((f"{name}.training" if name else "training", module.training, hooks))
        prefix = f"{name}." if name else ""
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                self._tensor(prefix + key, tensor)
        for key, part in module._modules.items():
            self._look(prefix + key, part)
        for key, part in module.__dict__.items():
            if key not in OWN:
                self._look(prefix + key, part)

    def _function(self, name: str, function: FunctionType) -> None:
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._look(key, cell.cell_contents)
            except ValueError:  # not filled yet
                self.values.append((key, "empty"))
        for key in function.__code__.co_names:
            if key in function.__globals__ and not function.__module__.startswith(("torch", "pyro.")):
                self._look(key, function.__globals__[key])

    def _tensor(self, name: str, tensor: Tensor | None) -> None:
        self._kept.append(tensor)
        if tensor is None:
            self.values.append((name, None))
        else:
            self.values.append((name, id(tensor), tensor.requires_grad, tensor.dtype, tensor.device))


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The leaf tensors that a loss depends on, those of no module too."""
    waiting, seen, leaves = [loss.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return leaves
