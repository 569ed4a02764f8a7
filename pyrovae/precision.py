"""Networks in bfloat16, densities in the precision they came in."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Precision", "check_precision", "networks_in"]

Precision = Literal["float32", "bfloat16"]

LAYERS = {
    functional.linear,
    *(getattr(functional, f"conv{kind}{dims}d") for kind in ("", "_transpose") for dims in (1, 2, 3)),
}
"""What a network spends its time in; all else is densities, sums and what is between the layers."""


def check_precision(precision: str) -> None:
    """Refuse what is neither.

    Raises:
        ValueError: It is not.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is '{precision}': 'float32' or 'bfloat16'")


def networks_in(precision: Precision) -> Any:
    """A context in which layers of float32 multiply in bfloat16 and give float32.

    Between the layers values are of float32, and so are the parameters, the gradients and every
    density: the products alone lose digits, about 3 of 7.

    Args:
        precision: "float32" changes nothing.

    Example:
        >>> layer, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
        >>> with networks_in("bfloat16"):
        ...     y = layer(x)
        >>> y.dtype, 0 < (y - layer(x)).abs().max() < 0.05
        (torch.float32, tensor(True))
    """
    return _LowPrecision() if precision == "bfloat16" else nullcontext()


class _LowPrecision(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in LAYERS or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        with torch.autocast(args[0].device.type, dtype=torch.bfloat16):
            return func(*args, **(kwargs or {})).float()
