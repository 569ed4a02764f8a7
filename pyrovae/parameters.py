"""How a network's output is cut into the parameters of a distribution, and what is refused."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Scale", "blocks", "check_positive", "cut", "loc_and_scale"]


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


def check_positive(name: str, value: float | Tensor) -> None:
    """Refuse what is not a positive finite number, or has an element that is not."""
    values = torch.as_tensor(value, dtype=torch.float64)
    bad = values[~((values > 0) & (values < math.inf))]
    if bad.numel():
        raise ValueError(f"{name} must be positive, got {bad.flatten()[0].item():g}")
