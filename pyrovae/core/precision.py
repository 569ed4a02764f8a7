"""Networks in bfloat16 or TF32, and densities in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Precision", "check_precision", "networks_in", "products_in"]

Precision = Literal["float32", "tf32", "bfloat16"]

LAYERS = {
    functional.linear,
    *(getattr(functional, f"conv{kind}{dims}d") for kind in ("", "_transpose") for dims in (1, 2, 3)),
}
"""The functions that run in low precision, where a network spends its time."""


def check_precision(precision: str) -> None:
    """Refuse an unknown precision."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is '{precision}': 'float32', 'tf32' or 'bfloat16'")


@contextmanager
def networks_in(precision: Precision) -> Iterator[None]:
    """A block in which layers of float32 multiply in another precision, and return float32.

    Parameters, gradients, densities and values between the layers stay float32. The products keep about 2
    digits of 7 with "bfloat16" and 3 with "tf32", which changes nothing on a CPU. "float32" holds for
    convolutions on a GPU too, where torch's default is TF32.
    """
    with products_in(precision), _LowPrecision() if precision == "bfloat16" else nullcontext():
        yield


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """The part of :func:`networks_in` that no compiled graph contains: a GPU's precision of products."""
    if not torch.cuda.is_initialized():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


class _LowPrecision(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in LAYERS or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        with torch.autocast(args[0].device.type, dtype=torch.bfloat16):
            return func(*args, **(kwargs or {})).float()
