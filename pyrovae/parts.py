"""What may stand for a prior, a likelihood or a guide."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Part", "as_module"]

Part = nn.Module | Callable[..., Distribution] | Distribution


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
