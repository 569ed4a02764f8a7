"""What the parts share: base classes, and how a network's output becomes parameters of a distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.core.checks import check_positive

__all__ = [
    "NetGuide",
    "NetLikelihood",
    "NetPart",
    "Part",
    "ProgramModule",
    "Scale",
    "as_module",
    "blocks",
    "check_at_least_two",
    "check_multiple",
    "cut",
    "in_float64",
    "loc_and_scale",
    "register_value",
    "width_hint",
]


class NetPart(nn.Module):
    """A distribution whose parameters are the output of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Distribution:
        """The distribution given the network's inputs; it has their leading dims as its batch shape."""
        return self.given(self.net(inputs))

    def given(self, parameters: Tensor) -> Distribution:
        """The distribution whose parameters are ``parameters``, an output of the network."""
        raise NotImplementedError


class NetGuide(NetPart):
    """A guide q(z | x) of a network, which maps ``[..., *event]`` to ``[..., net_width(dim)]``."""

    @staticmethod
    def net_width(dim: int) -> int:
        """Width of the network's output for ``dim`` latents."""
        return dim


class NetLikelihood(NetPart):
    """A likelihood p(x | z) of a network, which maps ``[..., dim]`` to ``[..., net_width(features)]``."""

    @staticmethod
    def net_width(features: int) -> int:
        """Width of the network's output for ``features`` features of x."""
        return features


def blocks(owner: str, parameters: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Cut ``[..., k * width]`` into k consecutive blocks of the same width; errors name the owner."""
    width = parameters.shape[-1]
    if width % len(names):
        kind = "an even width" if len(names) == 2 else f"a multiple of {len(names)}"
        raise ValueError(f"{owner}: the network must give {' and '.join(names)}, {kind}; it gives {width}")
    return parameters.chunk(len(names), dim=-1)


def cut(owner: str, parameters: Tensor, **widths: int) -> tuple[Tensor, ...]:
    """Cut ``[..., sum of widths]`` into consecutive blocks of these widths; errors name the owner."""
    if parameters.shape[-1] != sum(widths.values()):
        wanted = " + ".join(f"{width} of {name.replace('_', ' ')}" for name, width in widths.items())
        raise ValueError(
            f"{owner}: the network must give {sum(widths.values())} numbers, {wanted}; "
            f"it gives {parameters.shape[-1]}"
        )
    return parameters.split(list(widths.values()), dim=-1)


def check_multiple(owner: str, parameters: Tensor, count: int, what: str) -> None:
    """Refuse an output of a network that has not ``count`` logits for each variable or feature."""
    if parameters.shape[-1] % count:
        raise ValueError(
            f"{owner}: the network must give {count} logits a {what}, a multiple of {count}; "
            f"it gives {parameters.shape[-1]}"
        )


def loc_and_scale(owner: str, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Loc and scale, each ``[..., dim]``, of a network's loc and log variance, ``[..., 2 * dim]``."""
    loc, log_variance = blocks(owner, parameters, "loc", "log variance")
    return loc, (log_variance / 2).exp()


def in_float64(family: Callable[..., Any], **parameters: Tensor) -> Any:
    """``family(**parameters)`` in float64, for a log density that loses digits in float32."""
    return family(**{name: value.double() for name, value in parameters.items()}, validate_args=False)


def width_hint(have: int, want: int) -> str:
    """Say how to change a network's output from one width to another.

    Example:
        >>> width_hint(392, 784), width_hint(1568, 784), width_hint(9, 10)
        ('2 times as wide', '1/2 as wide', 'another width, which its docstring tells')
    """
    if have and want % have == 0:
        return f"{want // have} times as wide"
    if want and have % want == 0:
        return f"1/{have // want} as wide"
    return "another width, which its docstring tells"


def check_at_least_two(name: str, value: int, mend: str = "") -> None:
    """Refuse an argument below 2."""
    if value < 2:
        raise ValueError(f"{name} must be at least 2, got {value}{mend}")


def register_value(
    module: nn.Module, name: str, value: Tensor, *, learn: bool, persistent: bool = True
) -> None:
    """Register a tensor as a parameter where it is learned, else as a buffer."""
    if learn:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value, persistent=persistent)


class Scale(nn.Module):
    """A positive scale, ``[]`` or ``[dim]``, fixed or learned; errors name the owner."""

    log_value: Tensor

    def __init__(self, owner: str, value: float | Tensor, *, learn: bool) -> None:
        super().__init__()
        value = torch.as_tensor(value, dtype=torch.get_default_dtype())
        check_positive(f"{owner}: scale", value)
        register_value(self, "log_value", value.log(), learn=learn)

    def forward(self) -> Tensor:
        """The scale, ``[]`` or ``[dim]``."""
        return self.log_value.exp()


Part = nn.Module | Callable[..., Distribution] | Distribution
_serial = itertools.count()


def as_module(part: Part) -> nn.Module:
    """The part as a module: a module is returned as it is, a function or a Distribution is wrapped.

    For ``vae.guide``, which is a Pyro program, the part is ``vae.guide.part``. Others are a TypeError.

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


class _Part(nn.Module):
    """A module that calls a function, or returns a fixed Distribution."""

    def __init__(self, part: Callable[..., Distribution] | Distribution) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Tensor) -> Distribution:
        return self.part if isinstance(self.part, Distribution) else self.part(*args)


class ProgramModule(PyroModule):
    """A Pyro program with a unique root name; a copy of it gets another one.

    Pyro's parameter store finds parameters by name. If two programs had the same names, SVI would train
    only the first; if a new part had the names of the part it replaces, SVI would train the old one.
    """

    def __init__(self) -> None:
        super().__init__(name=self._new_name())

    @classmethod
    def _new_name(cls) -> str:
        return f"pyrovae_{cls.__name__.lower()}_{next(_serial)}"

    def __setattr__(self, name: str, value: Any) -> None:
        swapped = isinstance(value, nn.Module) and name in self.__dict__.get("_modules", ())
        super().__setattr__(name, value)
        if swapped:  # else the store would keep the old part's parameters
            self._rename()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rename()

    def _rename(self) -> None:
        old, new = self._pyro_name, self._new_name()
        for module in self.modules():
            if isinstance(module, PyroModule):
                module._pyro_name = new + module._pyro_name.removeprefix(old)
