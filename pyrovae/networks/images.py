"""Convolutional networks, whose rows are flattened images ``[..., C * H * W]``.

Each is a ladder of resolutions, every one half of the one before, rounded up: 28, 14, 7, 4, 2, 1. At each
there may be residual blocks; the plain networks are those with none. None normalises over the batch: a
density must not depend on which other rows are in it.

The nonlinearity is SiLU unless another is given. With ReLU and Adam at its usual rate, a VAE of these
networks is apt to give up its latents in the first epochs and draw the average image; with residual blocks
it can stay there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyrovae.networks.ladder import Activation, decoder, encoder
from pyrovae.networks.rows import by_rows, check_rows

__all__ = ["ConvDecoder", "ConvEncoder", "ResidualDecoder", "ResidualEncoder"]


class ConvEncoder(nn.Module):
    """Convolutions that halve an image, then a linear layer.

    The input is ``[..., C * H * W]``, flattened images; the output is ``[..., out_features]``.

    Args:
        shape: Of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        out_features: Width of the output, which is linear.
        channels: Channels after each halving of the image.
        activation: Makes the nonlinearity after each convolution.

    Raises:
        ValueError: A shape or a width below 1; more halvings than the image allows; an input of another
            width, or not of floating point.

    Example:
        >>> import torch
        >>> ConvEncoder((28, 20), 2 * 16)(torch.rand(32, 28 * 20)).shape
        torch.Size([32, 32])
    """

    def __init__(
        self,
        shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.layers = encoder(self, shape, out_features, channels, 0, activation)
        self.in_features = math.prod(shape)
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., C * H * W]`` to ``[..., out_features]``."""
        check_rows(self, x, self.in_features)
        return by_rows(self.layers, x, self.out_features)


class ConvDecoder(nn.Module):
    """A linear layer, then convolutions that double an image.

    The input is ``[..., in_features]``; the output is ``[..., parameters * C * H * W]``, in blocks of
    C * H * W: all of the first parameter, then all of the second, so that ``net(z).chunk(2, -1)`` gives loc
    and log variance.

    Args:
        in_features: Width of the input.
        shape: Of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        channels: Channels before each doubling of the image, coarsest first.
        parameters: Parameters of the likelihood for each value of the image.
        activation: Makes the nonlinearity before each doubling.

    Raises:
        ValueError: A shape or a width below 1; more doublings than the image allows; an input of another
            width, or not of floating point.

    References:
        Odena et al., Deconvolution and Checkerboard Artifacts, 2016, for nearest neighbours and then a
        convolution, not a transposed one. doi:10.23915/distill.00003

    Example:
        >>> import torch
        >>> net = ConvDecoder(16, (3, 28, 20), parameters=2)
        >>> loc, log_variance = net(torch.randn(10, 32, 16)).chunk(2, -1)
        >>> loc.shape
        torch.Size([10, 32, 1680])
    """

    def __init__(
        self,
        in_features: int,
        shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        parameters: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.layers = decoder(self, in_features, shape, channels, parameters, 0, activation)
        self.in_features = in_features
        self.out_features = parameters * math.prod(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., parameters * C * H * W]``."""
        check_rows(self, z, self.in_features)
        return by_rows(self.layers, z, self.out_features)


class ResidualEncoder(nn.Module):
    r"""A ``ConvEncoder`` with residual blocks after each halving.

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h))

    The input is ``[..., C * H * W]``, flattened images; the output is ``[..., out_features]``.

    Args:
        shape: Of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        out_features: Width of the output, which is linear.
        channels: Channels after each halving of the image.
        blocks: Residual blocks at each resolution.
        activation: Makes the nonlinearity a.

    Raises:
        ValueError: A shape, a width or blocks below 1; more halvings than the image allows; an input of
            another width, or not of floating point.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016. arXiv:1603.05027

    Example:
        >>> import torch
        >>> ResidualEncoder((28, 28), 2 * 16, blocks=2)(torch.rand(32, 784)).shape
        torch.Size([32, 32])
    """

    def __init__(
        self,
        shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        _check_blocks(self, blocks)
        self.layers = encoder(self, shape, out_features, channels, blocks, activation)
        self.in_features = math.prod(shape)
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., C * H * W]`` to ``[..., out_features]``."""
        check_rows(self, x, self.in_features)
        return by_rows(self.layers, x, self.out_features)


class ResidualDecoder(nn.Module):
    r"""A ``ConvDecoder`` with residual blocks before each doubling.

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h))

    The input is ``[..., in_features]``; the output is ``[..., parameters * C * H * W]``, in blocks of
    C * H * W, one for each parameter.

    Args:
        in_features: Width of the input.
        shape: Of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        channels: Channels before each doubling of the image, coarsest first.
        parameters: Parameters of the likelihood for each value of the image.
        blocks: Residual blocks at each resolution but the finest, which has none.
        activation: Makes the nonlinearity a.

    Raises:
        ValueError: A shape, a width or blocks below 1; more doublings than the image allows; an input of
            another width, or not of floating point.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016. arXiv:1603.05027

    Example:
        >>> import torch
        >>> ResidualDecoder(16, (28, 28), blocks=2)(torch.randn(10, 32, 16)).shape
        torch.Size([10, 32, 784])
    """

    def __init__(
        self,
        in_features: int,
        shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        parameters: int = 1,
        blocks: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        _check_blocks(self, blocks)
        self.layers = decoder(self, in_features, shape, channels, parameters, blocks, activation)
        self.in_features = in_features
        self.out_features = parameters * math.prod(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., parameters * C * H * W]``."""
        check_rows(self, z, self.in_features)
        return by_rows(self.layers, z, self.out_features)


def _check_blocks(net: nn.Module, blocks: int) -> None:
    if blocks < 1:
        name = type(net).__name__
        plain = name.replace("Residual", "Conv")
        raise ValueError(f"{name}: blocks must be at least 1, got {blocks}: use {plain} for none")
