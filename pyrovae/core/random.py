"""Keyed random streams: a draw depends on its key, never on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

__all__ = ["generator", "seed_of", "stream"]


def seed_of(purpose: str, *key: int) -> int:
    """Hash a purpose, such as "binarisation", and non-negative integers to a seed of 32 bits.

    Torch's CPU generators use no more bits.

    Example:
        >>> seed_of("noise", 0, 1) == seed_of("noise", 0, 1)
        True
        >>> len({seed_of("noise", 0, 1), seed_of("noise", 1, 0), seed_of("order", 0, 1)})
        3
    """
    # With the length: SeedSequence takes (1,) and (1, 0) for the same key.
    entropy = (crc32(purpose.encode()), len(key), *key)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


@contextmanager
def stream(purpose: str, *key: int) -> Iterator[None]:
    """Draw from the stream of this key inside a block; torch's own random state does not change.

    Example:
        >>> with stream("noise", 7):
        ...     a = torch.randn(3)
        >>> with stream("noise", 7):
        ...     b = torch.randn(3)
        >>> torch.equal(a, b)
        True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed seeds every kind of device; without a device it would keep a traceback.
        every = torch.accelerator.is_available()
        (torch.manual_seed if every else torch.default_generator.manual_seed)(seed_of(purpose, *key))
        yield


def generator(purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream of this key; the draws depend on the kind of device."""
    return torch.Generator(device).manual_seed(seed_of(purpose, *key))
