"""What may stand for a prior, a likelihood or a guide, and the modules of the programs made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Part", "ProgramModule", "as_module"]

Part = nn.Module | Callable[..., Distribution] | Distribution

_serial = itertools.count()


def as_module(part: Part) -> nn.Module:
    """The part as a module: a module is handed back, a function or a Distribution is wrapped.

    Raises:
        TypeError: It is none of the three.

    Example:
        >>> import torch
        >>> as_module(torch.distributions.Normal(0.0, 1.0))()
        Normal(loc: 0.0, scale: 1.0)
    """
    if isinstance(part, type) or not (callable(part) or isinstance(part, Distribution)):
        raise TypeError(f"a part is a module, a function or a Distribution, got {part!r}")
    return part if isinstance(part, nn.Module) else _Part(part)


class _Part(nn.Module):
    """A function, or a fixed Distribution, in the place of a module."""

    def __init__(self, part: Callable[..., Distribution] | Distribution) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Tensor) -> Distribution:
        return self.part if isinstance(self.part, Distribution) else self.part(*args)


class ProgramModule(PyroModule):
    """A Pyro program with a root name of its own, its copies too.

    Pyro's parameter store knows parameters by name: of two programs with the same names SVI would
    train only the first.
    """

    def __init__(self) -> None:
        super().__init__(name=self._new_name())

    @classmethod
    def _new_name(cls) -> str:
        return f"pyrovae_{cls.__name__.lower()}_{next(_serial)}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        old, new = self._pyro_name, self._new_name()
        for module in self.modules():
            if isinstance(module, PyroModule):
                module._pyro_name = new + module._pyro_name.removeprefix(old)
