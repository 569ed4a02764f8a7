"""NumPy in, NumPy out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.evaluation.evaluate import evaluate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def score_samples(model: Program, guide: Program, x: ArrayLike, **options: Any) -> np.ndarray:
    """Log p(x) of each datum, ``[n]`` in nats, by :func:`pyrovae.evaluate`.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        x: Data ``[n, *event]``, an array or a tensor; converted to torch's default dtype.
        options: Keywords of :func:`pyrovae.evaluate`.
    """
    result = evaluate(model, guide, to_tensor(x), **{"progress": False} | options)
    return result.log_evidence.numpy()


def to_tensor(x: ArrayLike) -> Tensor:
    """An array as a tensor of torch's default dtype."""
    values = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    return values.to(torch.get_default_dtype())
