"""A pair of programs as a density estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.random import stream
from pyrovae.interop.arrays import score_samples, to_tensor
from pyrovae.training.fit import fit

try:
    from sklearn.base import BaseEstimator, DensityMixin
except ImportError as error:
    raise ImportError("Density needs scikit-learn: pip install 'pyrovae[sklearn]'") from error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import nn


class Density(DensityMixin, BaseEstimator):
    r"""A VAE, or any pair of programs, where scikit-learn expects an estimator of a density.

    ``fit`` trains a copy, so that all folds and candidates of a search start from the same weights. Scores
    and samples are of that copy, or of the pair itself if nothing was fitted.

    Args:
        pair: A VAE, or ``(model, guide)``.
        num_epochs: Epochs of :func:`pyrovae.fit`.
        num_samples: Draws per datum of :func:`pyrovae.evaluate`.
        seed: Seed of both.
        training: More keywords of :func:`pyrovae.fit`.
        evaluation: More keywords of :func:`pyrovae.evaluate`.

    Attributes:
        pair_: The fitted copy.
        history_: The :class:`pyrovae.History` of its training.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> density = Density((oracle.model, oracle.guide), num_samples=50)
        >>> density.score_samples(np.zeros((5, 3))).shape
        (5,)
    """

    def __init__(
        self,
        pair: nn.Module | tuple[Program, Program],
        *,
        num_epochs: int = 20,
        num_samples: int = 1000,
        seed: int = 0,
        training: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        self.pair = pair
        self.num_epochs, self.num_samples, self.seed = num_epochs, num_samples, seed
        self.training, self.evaluation = training, evaluation

    def fit(self, X: ArrayLike, y: object = None) -> Density:  # noqa: N803 (scikit-learn's name)
        """Train a copy on data ``[n, *event]``; y is ignored."""
        self.pair_ = deepcopy(self.pair)
        options = {"num_epochs": self.num_epochs, "seed": self.seed, "progress": False}
        self.history_ = fit(*self._programs(), to_tensor(X), **options | dict(self.training or {}))
        return self

    def score_samples(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Log p(x) of each datum in nats, ``[n]``."""
        options = {"num_samples": self.num_samples, "seed": self.seed, **dict(self.evaluation or {})}
        return score_samples(*self._programs(), X, **options)

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """Mean log p(x) in nats; higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | None = 0) -> np.ndarray:
        """Draw data from p(x), ``[n_samples, *event]``, with the modules in evaluation mode.

        Args:
            n_samples: Number of draws.
            random_state: Seed of the draws; None draws from torch's own generator.

        Raises:
            TypeError: The model takes no ``size=``.
        """
        model, guide = self._programs()
        if "size" not in signature(getattr(model, "forward", model)).parameters:
            raise TypeError("sample: the model takes no size=: draw by pyro.infer.Predictive(model, ...)")
        draws = nullcontext() if random_state is None else stream("density, samples", random_state)
        with torch.no_grad(), draws, mode(modules_of(model, guide), training=False):
            return model(size=n_samples).cpu().numpy()

    def _programs(self) -> tuple[Program, Program]:
        pair: Any = getattr(self, "pair_", self.pair)
        return pair if isinstance(pair, tuple) else (pair.model, pair.guide)
