"""How a network's output is cut into the parameters of a distribution, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.core.checks import check_positive

__all__ = ["Part", "ProgramModule", "Scale", "as_module", "as_wide", "blocks", "cut", "loc_and_scale"]


def blocks(owner: str, parameters: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Cut ``[..., k * width]`` into k blocks of the same width, one after the other.

    Args:
        owner: Whose network it is, for the error.
        parameters: The network's output.
        names: What each block is.

    Raises:
        ValueError: The width does not divide.

    Example:
        >>> [block.shape for block in blocks("guides.Normal", torch.zeros(5, 8), "loc", "log variance")]
        [torch.Size([5, 4]), torch.Size([5, 4])]
    """
    width = parameters.shape[-1]
    if width % len(names):
        kind = "an even width" if len(names) == 2 else f"a multiple of {len(names)}"
        raise ValueError(f"{owner}: the network must give {' and '.join(names)}, {kind}; it gives {width}")
    return parameters.chunk(len(names), dim=-1)


def cut(owner: str, parameters: Tensor, **widths: int) -> tuple[Tensor, ...]:
    """Cut ``[..., sum of widths]`` into blocks of these widths, one after the other.

    Raises:
        ValueError: The network gives another width.

    Example:
        >>> [part.shape for part in cut("guides.LowRankNormal", torch.zeros(5, 8), loc=2, factor=6)]
        [torch.Size([5, 2]), torch.Size([5, 6])]
    """
    if parameters.shape[-1] != sum(widths.values()):
        wanted = " + ".join(f"{width} of {name.replace('_', ' ')}" for name, width in widths.items())
        raise ValueError(
            f"{owner}: the network must give {sum(widths.values())} numbers, {wanted}; "
            f"it gives {parameters.shape[-1]}"
        )
    return parameters.split(list(widths.values()), dim=-1)


def loc_and_scale(owner: str, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Loc and scale of a network's loc and log variance, ``[..., 2 * dim]``."""
    loc, log_variance = blocks(owner, parameters, "loc", "log variance")
    return loc, (log_variance / 2).exp()


class Scale(nn.Module):
    """A positive scale that is no network's: fixed or learned, one for all or one for each dim.

    Args:
        owner: Whose scale it is, for the error.
        value: The scale, or where learning starts.
        learn: Whether it is a parameter.
    """

    log_value: Tensor

    def __init__(self, owner: str, value: float | Tensor, *, learn: bool) -> None:
        super().__init__()
        value = torch.as_tensor(value, dtype=torch.get_default_dtype())
        check_positive(f"{owner}: scale", value)
        if learn:
            self.log_value = nn.Parameter(value.log())
        else:
            self.register_buffer("log_value", value.log())

    def forward(self) -> Tensor:
        """The scale, ``[]`` or ``[dim]``."""
        return self.log_value.exp()


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
