"""Helpers of all networks: rows of any leading dims, checks of inputs and widths, and the output's bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["by_rows", "check_rows", "check_widths", "set_output_bias"]


def by_rows(layers: nn.Module, x: Tensor, out_features: int) -> Tensor:
    """Run layers that take one batch dim, such as ``Conv2d``, on any leading dims.

    Args:
        layers: Maps ``[n, in_features]`` to ``[n, out_features]``.
        x: Rows, ``[..., in_features]``.
        out_features: Width of the output, which an empty batch could not tell.

    Returns:
        ``[..., out_features]``.

    Example:
        >>> layers = nn.Sequential(nn.Unflatten(-1, (1, 3, 3)), nn.Conv2d(1, 2, 3), nn.Flatten())
        >>> by_rows(layers, torch.zeros(5, 4, 9), 2).shape
        torch.Size([5, 4, 2])
    """
    return layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], out_features)


def check_rows(net: nn.Module, x: Tensor, in_features: int) -> None:
    """Refuse an input that is not ``[..., in_features]``, or not of the weights' floating-point dtype."""
    name = type(net).__name__
    if x.shape[-1:] != (in_features,):
        # Start 0, for a single image, comes last: a leading 1 is more often a batch of one.
        starts = [*range(1, x.dim() - 1), 0] if x.dim() > 2 else []
        start = next((start for start in starts if math.prod(x.shape[start:]) == in_features), None)
        mend = "" if start is None else f": flatten the rows, x.flatten({start})"
        raise ValueError(f"{name}: expected shape (..., {in_features}), got {tuple(x.shape)}{mend}")
    if not x.is_floating_point():
        mend = "x.float()" if x.dtype == torch.bool else "x.float(), divided by 255 if 8-bit pixels"
        raise ValueError(f"{name}: expected floating point, got {x.dtype}: use {mend}")
    dtype = next(net.parameters()).dtype
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"{name}: input is {x.dtype}, weights are {dtype}: use x.to({dtype})")


def check_widths(net: nn.Module, argument: str, widths: Sequence[int], **others: int) -> None:
    """Refuse a width below 1, in a list of widths or another argument, and a number in place of the list."""
    name = type(net).__name__
    if isinstance(widths, int):
        raise ValueError(f"{name}: {argument} is a list of widths, {argument}=[{widths}]")
    if min([*widths, *others.values()]) < 1:
        got = ", ".join(f"{key}={value}" for key, value in {argument: list(widths), **others}.items())
        raise ValueError(f"{name}: every width must be at least 1, got {got}")


@torch.no_grad()
def set_output_bias(net: nn.Module, value: Tensor) -> None:
    """Set the bias of a network's last layer, so that training starts from a sensible constant.

    Args:
        net: A network whose last module with parameters has a bias of the value's shape.
        value: The bias.

    Raises:
        ValueError: The last module with parameters has no bias of this shape.


    Example:
        >>> from pyrovae import networks
        >>> net = networks.MLP(2, 3)
        >>> set_output_bias(net, torch.tensor([1.0, 2.0, 3.0]))
        >>> net.layers[-1].bias
        Parameter containing:
        tensor([1., 2., 3.], requires_grad=True)
    """
    layers = [module for module in net.modules() if list(module.parameters(recurse=False))]
    bias = getattr(layers[-1], "bias", None) if layers else None
    if bias is None or bias.shape != value.shape:
        found = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"{type(net).__name__}: expected a last layer with a bias of shape "
            f"{tuple(value.shape)}, found {found}"
        )
    bias.copy_(value)
