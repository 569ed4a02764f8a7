"""What may stand for a prior, a likelihood or a guide, and the modules of the programs made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Part", "ProgramModule", "as_module", "as_wide"]

Part = nn.Module | Callable[..., Distribution] | Distribution

_serial = itertools.count()


def as_module(part: Part) -> nn.Module:
    """The part as a module: a module is handed back, a function or a Distribution is wrapped.

    Of a VAE's ``vae.guide``, a Pyro program, the part is what it was made of, ``vae.guide.part``.

    Raises:
        TypeError: It is none of the three.

    Example:
        >>> import torch
        >>> as_module(torch.distributions.Normal(0.0, 1.0))()
        Normal(loc: 0.0, scale: 1.0)
    """
    if isinstance(part, type) or not (callable(part) or isinstance(part, Distribution)):
        raise TypeError(f"a part is a module, a function or a Distribution, got {part!r}")
    if isinstance(part, ProgramModule):
        return part.part if hasattr(part, "part") else part
    return part if isinstance(part, nn.Module) else _Part(part)


def as_wide(have: int, want: int) -> str:
    """How wide a network's output has to be, told by how wide it is.

    Example:
        >>> as_wide(392, 784), as_wide(1568, 784), as_wide(9, 10)
        ('2 times as wide', '1/2 as wide', 'another width, which its docstring tells')
    """
    if have and want % have == 0:
        return f"{want // have} times as wide"
    if want and have % want == 0:
        return f"1/{have // want} as wide"
    return "another width, which its docstring tells"


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
    train only the first, and of a part that was swapped the one before.
    """

    def __init__(self) -> None:
        super().__init__(name=self._new_name())

    @classmethod
    def _new_name(cls) -> str:
        return f"pyrovae_{cls.__name__.lower()}_{next(_serial)}"

    def __setattr__(self, name: str, value: Any) -> None:
        swapped = isinstance(value, nn.Module) and name in self.__dict__.get("_modules", ())
        super().__setattr__(name, value)
        if swapped:  # the store would give the new part the old one's parameters
            self._rename()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rename()

    def _rename(self) -> None:
        old, new = self._pyro_name, self._new_name()
        for module in self.modules():
            if isinstance(module, PyroModule):
                module._pyro_name = new + module._pyro_name.removeprefix(old)
