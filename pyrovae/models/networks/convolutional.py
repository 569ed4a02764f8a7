"""Convolutional networks, whose rows are flattened images ``[..., C * H * W]``.

Each network has a sequence of resolutions, every one half of the one before, rounded up: 28, 14, 7, 4, 2, 1.
Each resolution may have residual blocks. No network normalises over the batch: a density must not depend on
the other rows of its batch.

The default nonlinearity is SiLU. With ReLU and Adam at its usual rate, a VAE of these networks tends to
ignore its latents in the first epochs and to draw the average image; with residual blocks it may stay so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyrovae.models.networks.base import by_rows, check_rows, check_widths

__all__ = ["ConvDecoder", "ConvEncoder", "ResidualDecoder", "ResidualEncoder"]

Activation = Callable[[], nn.Module]


class ConvEncoder(nn.Module):
    r"""Convolutions that halve an image, then a linear layer.

    Args:
        shape: Shape of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        out_features: Width of the output, which is linear.
        channels: Channels after each halving of the image.
        blocks: Residual blocks at each resolution, 0 by default; see :class:`ResidualEncoder`.
        activation: Makes the nonlinearity after each convolution.

    Raises:
        ValueError: A shape or a width is below 1, or more halvings than the image allows.

    Example:
        >>> import torch
        >>> ConvEncoder((28, 20), 2 * 16)(torch.rand(32, 28 * 20)).shape
        torch.Size([32, 32])
    """

    fewest_blocks = 0

    def __init__(
        self,
        shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        blocks: int | None = None,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        colours, sizes = _resolutions(self, shape, channels, out_features=out_features)
        layers: list[nn.Module] = [nn.Unflatten(1, (colours, *sizes[0]))]
        for width, next_width in pairwise([colours, *channels]):
            layers.append(nn.Conv2d(width, next_width, 3, stride=2, padding=1))
            layers += _stage(next_width, _blocks(self, blocks), activation)
        output = nn.Linear(channels[-1] * math.prod(sizes[-1]), out_features)
        self.layers = nn.Sequential(*layers, nn.Flatten(), output)
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
        shape: Shape of an image, ``(C, H, W)`` or ``(H, W)``; any size.
        channels: Channels before each doubling of the image, coarsest first.
        parameters: Parameters of the likelihood for each value of the image.
        blocks: Residual blocks at each resolution but the finest, 0 by default.
        activation: Makes the nonlinearity before each doubling.

    Raises:
        ValueError: A shape or a width is below 1, or more doublings than the image allows.

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

    fewest_blocks = 0

    def __init__(
        self,
        in_features: int,
        shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        parameters: int = 1,
        blocks: int | None = None,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        colours, sizes = _resolutions(self, shape, channels, in_features=in_features, parameters=parameters)
        coarsest = (channels[0], *sizes[-1])
        layers: list[nn.Module] = [nn.Linear(in_features, math.prod(coarsest)), nn.Unflatten(1, coarsest)]
        widths = [*channels, parameters * colours]
        for (width, next_width), size in zip(pairwise(widths), sizes[-2::-1], strict=True):
            layers += [*_stage(width, _blocks(self, blocks), activation), nn.Upsample(size)]
            # The finest convolution has its bias from _OutputBias.
            layers.append(nn.Conv2d(width, next_width, 3, padding=1, bias=size != sizes[0]))
        self.in_features = in_features
        self.out_features = parameters * math.prod(shape)
        self.layers = nn.Sequential(*layers, nn.Flatten(), _OutputBias(self.out_features))

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., parameters * C * H * W]``."""
        check_rows(self, z, self.in_features)
        return by_rows(self.layers, z, self.out_features)


class ResidualEncoder(ConvEncoder):
    r"""A :class:`ConvEncoder` with residual blocks after each halving.

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h))

    Args:
        shape, out_features, channels: The arguments of :class:`ConvEncoder`.
        blocks: Residual blocks at each resolution, at least 1 and by default 1.
        activation: Makes the nonlinearity a.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016. arXiv:1603.05027

    Example:
        >>> import torch
        >>> ResidualEncoder((28, 28), 2 * 16, blocks=2)(torch.rand(32, 784)).shape
        torch.Size([32, 32])
    """

    fewest_blocks = 1


class ResidualDecoder(ConvDecoder):
    r"""A :class:`ConvDecoder` with residual blocks before each doubling.

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h))

    Args:
        in_features, shape, channels, parameters: The arguments of :class:`ConvDecoder`.
        blocks: Residual blocks at each resolution but the finest, at least 1 and by default 1.
        activation: Makes the nonlinearity a.

    References:
        He et al., Identity Mappings in Deep Residual Networks, 2016. arXiv:1603.05027

    Example:
        >>> import torch
        >>> ResidualDecoder(16, (28, 28), blocks=2)(torch.randn(10, 32, 16)).shape
        torch.Size([10, 32, 784])
    """

    fewest_blocks = 1


def _blocks(net: ConvEncoder | ConvDecoder, blocks: int | None) -> int:
    """The number of residual blocks, if it is allowed; the fewest that the network allows by default."""
    if blocks is None:
        return net.fewest_blocks
    if blocks < net.fewest_blocks:
        name = type(net).__name__
        plain = f": use {name.replace('Residual', 'Conv')} for none" if net.fewest_blocks else ""
        raise ValueError(f"{name}: blocks must be at least {net.fewest_blocks}, got {blocks}{plain}")
    return blocks


def _stage(width: int, blocks: int, activation: Activation) -> list[nn.Module]:
    """The layers at one resolution."""
    return [*(_ResidualBlock(width, activation) for _ in range(blocks)), activation()]


class _ResidualBlock(nn.Module):
    """A residual block: activations come before the convolutions, so that the shortcut is the identity.

    torch's initial weights make the branch a tenth to a fifth of the shortcut in size, so a block starts
    near the identity and needs no normalisation.
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            activation(),
            nn.Conv2d(width, width, 3, padding=1),
            activation(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _OutputBias(nn.Module):
    """A bias for each pixel, which ``set_output_bias`` sets to the pixels' averages.

    It is a module, not a parameter of the decoder, so that it is the last module with parameters.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _resolutions(
    net: nn.Module, shape: Sequence[int], channels: Sequence[int], **others: int
) -> tuple[int, list[tuple[int, int]]]:
    """Check the arguments; return the image's colours and its sizes, from the finest to the coarsest."""
    name = type(net).__name__
    sides = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if len(sides) not in (2, 3) or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"{name}: shape is (C, H, W) or (H, W), each at least 1, got {shape}")
    check_widths(net, "channels", channels, **others)
    if not channels:
        raise ValueError(f"{name}: channels is empty: give one width for each halving, or use MLP")
    *colours, height, width = sides
    most = (max(height, width) - 1).bit_length()  # halvings until both sides are 1
    if len(channels) > most:
        mend = f"use at most {most} channels" if most else "use MLP"
        raise ValueError(
            f"{name}: an image of {height} x {width} can be halved {most} times, "
            f"channels={list(channels)} halves it {len(channels)} times: {mend}"
        )
    # -(-n // k) is n / k rounded up.
    sizes = [(-(-height // 2**k), -(-width // 2**k)) for k in range(len(channels) + 1)]
    return math.prod(colours), sizes
