"""Keyed random streams: what is drawn depends on where it is drawn, never on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generator", "seed_of", "stream"]


def seed_of(*key: int) -> int:
    """Hash a key of integers to one 32-bit seed (CPU generators of torch use no more bits).

    Args:
        key: Non-negative integers, such as ``(seed, epoch)`` or ``(seed, data block, draw block)``.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    # The length goes in too: SeedSequence takes (1,) and (1, 0) for the same key.
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint32)[0])


@contextmanager
def stream(*key: int) -> Iterator[None]:
    """Draw from the stream of this key inside the block; outside, torch's own state is untouched.

    Example:
        >>> with stream(0, 7):
        ...     a = torch.randn(3)
        >>> with stream(0, 7):
        ...     b = torch.randn(3)
        >>> torch.equal(a, b)
        True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*key))
        yield


def generator(*key: int) -> torch.Generator:
    """A CPU generator at the start of the stream of this key."""
    return torch.Generator().manual_seed(seed_of(*key))
