"""The layers of convolutional networks: a ladder of resolutions, each half of the one before, rounded up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyrovae.networks.rows import check_widths

__all__ = ["Activation", "decoder", "encoder"]

Activation = Callable[[], nn.Module]


def encoder(
    net: nn.Module,
    shape: Sequence[int],
    out_features: int,
    channels: Sequence[int],
    blocks: int,
    activation: Activation,
) -> nn.Sequential:
    """Halve the image once for each width of channels, then a linear layer; ``net`` is who is built."""
    colours, sizes = _ladder(net, shape, channels, out_features=out_features)
    layers: list[nn.Module] = [nn.Unflatten(1, (colours, *sizes[0]))]
    for width, next_width in pairwise([colours, *channels]):
        layers += [
            nn.Conv2d(width, next_width, 3, stride=2, padding=1),
            *_stage(next_width, blocks, activation),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * math.prod(sizes[-1]), out_features))


def decoder(
    net: nn.Module,
    in_features: int,
    shape: Sequence[int],
    channels: Sequence[int],
    parameters: int,
    blocks: int,
    activation: Activation,
) -> nn.Sequential:
    """A linear layer, then double the image once for each width of channels; ``net`` is who is built."""
    colours, sizes = _ladder(net, shape, channels, in_features=in_features, parameters=parameters)
    coarsest = (channels[0], *sizes[-1])
    layers: list[nn.Module] = [nn.Linear(in_features, math.prod(coarsest)), nn.Unflatten(1, coarsest)]
    widths = [*channels, parameters * colours]
    for (width, next_width), size in zip(pairwise(widths), sizes[-2::-1], strict=True):
        layers += [
            *_stage(width, blocks, activation),
            nn.Upsample(size),
            # The finest has its bias from _OutputBias.
            nn.Conv2d(width, next_width, 3, padding=1, bias=size != sizes[0]),
        ]
    return nn.Sequential(*layers, nn.Flatten(), _OutputBias(math.prod(sizes[0]) * widths[-1]))


def _stage(width: int, blocks: int, activation: Activation) -> list[nn.Module]:
    """What happens at one resolution."""
    return [*(_ResidualBlock(width, activation) for _ in range(blocks)), activation()]


class _ResidualBlock(nn.Module):
    """Activations come before the convolutions, so that the shortcut is the identity.

    torch's initial weights make the branch a tenth to a fifth of the shortcut in size, so a block starts out
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
    """A bias for each output, where a convolution has one for each channel.

    Pixels differ in their averages, and ``set_output_bias`` puts them here. It is a module, not a parameter
    of the decoder, so that it is the last module that has parameters.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _ladder(
    net: nn.Module, shape: Sequence[int], channels: Sequence[int], **others: int
) -> tuple[int, list[tuple[int, int]]]:
    """Colours of the image, and its sizes from the finest to the coarsest, once all has been checked."""
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
    sizes = [(-(-height // 2**rung), -(-width // 2**rung)) for rung in range(len(channels) + 1)]
    return math.prod(colours), sizes
