"""Neural networks for encoders and decoders: any leading dims in, the same leading dims out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["MLP", "set_output_bias"]


class MLP(nn.Module):
    """A multilayer perceptron, ``[..., in_features]`` to ``[..., out_features]``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output, which is linear.
        hidden: Widths of the hidden layers.
        activation: Makes the nonlinearity after each hidden layer.

    Raises:
        ValueError: An input of another width, or not of floating point.

    Example:
        >>> MLP(16, 784, hidden=[400])(torch.randn(10, 32, 16)).shape
        torch.Size([10, 32, 784])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise ValueError(f"MLP: hidden is a list of widths, hidden=[{hidden}]")
        widths = [in_features, *hidden, out_features]
        if min(widths) < 1:
            raise ValueError(f"MLP: every width must be at least 1, got {widths}")
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), activation()]
        self.in_features = in_features
        self.out_features = out_features
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        if x.shape[-1:] != (self.in_features,):
            flat = x.dim() > 2 and x[0].numel() == self.in_features
            mend = ": flatten the rows, x.flatten(1)" if flat else ""
            raise ValueError(f"MLP: expected shape (..., {self.in_features}), got {tuple(x.shape)}{mend}")
        if not x.is_floating_point():
            mend = "x.float()" if x.dtype == torch.bool else "x.float(), divided by 255 if 8-bit pixels"
            raise ValueError(f"MLP: expected floating point, got {x.dtype}: use {mend}")
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"MLP: input is {x.dtype}, weights are {dtype}: use x.to({dtype})")
        return self.layers(x)


@torch.no_grad()
def set_output_bias(net: nn.Module, value: Tensor) -> None:
    """Set the bias of a network's last layer, so that it starts out at a sensible constant.

    Args:
        net: A network whose last module with parameters has a bias of the value's shape.
        value: The bias.

    Raises:
        ValueError: The network has no such bias.

    Example:
        >>> net = MLP(2, 3)
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
