"""Keyed random streams: what is drawn depends on where it is drawn, never on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

__all__ = ["generator", "seed_of", "stream"]


def seed_of(purpose: str, *key: int) -> int:
    """Hash a purpose and integers to one 32-bit seed (CPU generators of torch use no more bits).

    Args:
        purpose: What is drawn, such as "binarisation": two purposes never share a stream.
        key: Non-negative integers, such as a seed and the position of a block of data.

    Example:
        >>> seed_of("noise", 0, 1) == seed_of("noise", 0, 1)
        True
        >>> len({seed_of("noise", 0, 1), seed_of("noise", 1, 0), seed_of("order", 0, 1)})
        3
    """
    # The length goes in too: SeedSequence takes (1,) and (1, 0) for the same key.
    entropy = (crc32(purpose.encode()), len(key), *key)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


@contextmanager
def stream(purpose: str, *key: int) -> Iterator[None]:
    """Draw from the stream of this key inside the block; outside, torch's own state is untouched.

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
        # torch's own seeds every kind of device, and where there is none keeps a traceback of who asked.
        every = torch.accelerator.is_available()
        (torch.manual_seed if every else torch.default_generator.manual_seed)(seed_of(purpose, *key))
        yield


def generator(purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream of this key; another device's draws are others."""
    return torch.Generator(device).manual_seed(seed_of(purpose, *key))
