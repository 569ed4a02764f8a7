"""The bias of a network's last layer, where a decoder starts from the data's average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["set_output_bias"]


@torch.no_grad()
def set_output_bias(net: nn.Module, value: Tensor) -> None:
    """Set the bias of a network's last layer, so that it starts out at a sensible constant.

    Args:
        net: A network whose last module with parameters has a bias of the value's shape.
        value: The bias.

    Raises:
        ValueError: The network has no such bias.

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
