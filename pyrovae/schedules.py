"""Schedules of the learning rate by name: factors of it, a number for each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["burda", "constant", "cosine"]

Schedule = Callable[[int], float]
"""The factor of an epoch, which counts from nought."""


def constant(num_epochs: int, *, warmup: int = 0) -> Schedule:
    """The same rate throughout, after a linear warm-up.

    Args:
        num_epochs: Epochs in all.
        warmup: Epochs in which the rate rises to its whole.

    Raises:
        ValueError: A warm-up that is less than nought or as long as training.

    Example:
        >>> [constant(4, warmup=1)(epoch) for epoch in range(4)]
        [0.5, 1.0, 1.0, 1.0]
    """
    _check_warmup("constant", num_epochs, warmup)
    return lambda epoch: min((epoch + 1) / (warmup + 1), 1.0)


def cosine(num_epochs: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    r"""Half a cosine from the whole rate down, after a linear warm-up of w epochs.

    .. math:: f + \frac{1 - f}2 \Big(1 + \cos \pi \frac{t - w}{T - w}\Big)

    Args:
        num_epochs: Epochs in all, T.
        warmup: Epochs in which the rate rises to its whole, w.
        final: What it comes down to after T epochs, f.

    Raises:
        ValueError: A warm-up that is less than nought or as long as training; ``final`` outside [0, 1].

    References:
        Loshchilov and Hutter, SGDR, 2017. arXiv:1608.03983

    Example:
        >>> [round(cosine(4)(epoch), 3) for epoch in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    _check_warmup("cosine", num_epochs, warmup)
    if not 0 <= final <= 1:
        raise ValueError(f"cosine: final must be within [0, 1], got {final:g}")

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        along = min((epoch - warmup) / (num_epochs - warmup), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * along)) / 2

    return factor


def burda(num_epochs: int) -> Schedule:
    """The rate of the importance-weighted autoencoder: 10^(-i/7) for 3^i epochs, i = 0 to 7; 3,280 in all.

    Args:
        num_epochs: Epochs in all; the steps are where they are.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> [round(burda(3280)(epoch), 3) for epoch in (0, 1, 3, 4, 3279)]
        [1.0, 0.72, 0.72, 0.518, 0.1]
    """
    ends = [sum(3**j for j in range(i + 1)) for i in range(7)]
    return lambda epoch: 10 ** (-sum(epoch >= end for end in ends) / 7)


def _check_warmup(name: str, num_epochs: int, warmup: int) -> None:
    if not 0 <= warmup < num_epochs:
        raise ValueError(f"{name}: warmup is {warmup} epochs, expected at least 0 and less than {num_epochs}")
