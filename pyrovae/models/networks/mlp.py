"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyrovae.models.networks.base import check_rows, check_widths

__all__ = ["MLP", "GatedMLP"]


class _Perceptron(nn.Module):
    """Hidden layers, each a pair of modules made by ``hidden_layer(width, next_width)``, and a linear one."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int],
        hidden_layer: Callable[[int, int], list[nn.Module]],
    ) -> None:
        super().__init__()
        check_widths(self, "hidden", hidden, in_features=in_features, out_features=out_features)
        widths = [in_features, *hidden]
        layers = [module for pair in pairwise(widths) for module in hidden_layer(*pair)]
        self.in_features = in_features
        self.out_features = out_features
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        check_rows(self, x, self.in_features)
        return self.layers(x)


class MLP(_Perceptron):
    """A multilayer perceptron, ``[..., in_features]`` to ``[..., out_features]``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output, which is linear.
        hidden: Widths of the hidden layers.
        activation: Makes the nonlinearity after each hidden layer.

    Example:
        >>> import torch
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
        super().__init__(in_features, out_features, hidden, lambda a, b: [nn.Linear(a, b), activation()])


class GatedMLP(_Perceptron):
    r"""A perceptron of gated linear units, ``[..., in_features]`` to ``[..., out_features]``.

    .. math:: h_{l+1} = (W_l h_l + b_l) \odot \sigma(V_l h_l + c_l), \quad h_0 = x

    The gates let a layer switch off parts of its input without bounding the rest.

    Args:
        in_features: Width of the input.
        out_features: Width of the output, which is linear and has no gate.
        hidden: Widths of the hidden layers, gates not counted.

    References:
        Dauphin et al., Language Modeling with Gated Convolutional Networks, 2017. arXiv:1612.08083
        Tomczak and Welling, VAE with a VampPrior, 2018, for its use in VAEs. arXiv:1705.07120

    Example:
        >>> import torch
        >>> GatedMLP(784, 2 * 40, hidden=[300, 300])(torch.rand(32, 784)).shape
        torch.Size([32, 80])
    """

    def __init__(self, in_features: int, out_features: int, *, hidden: Sequence[int] = ()) -> None:
        # One product for W and V: torch's initial range depends on the width of the input only.
        super().__init__(in_features, out_features, hidden, lambda a, b: [nn.Linear(a, 2 * b), nn.GLU()])
