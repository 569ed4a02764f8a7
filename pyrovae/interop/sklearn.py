"""log p(x) as scikit-learn's density estimators have it: NumPy in, NumPy out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.random import stream
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.training.fit import fit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import nn

__all__ = ["Density", "score_samples"]


class Density:
    r"""A VAE, or any pair of programs, where scikit-learn expects an estimator of a density.

    ``fit`` trains a copy, so that folds and candidates of a search all start from the same weights; what is
    scored is that copy, or the pair as it is where nothing was fitted.

    Args:
        pair: A VAE, or ``(model, guide)``.
        num_epochs: Of :func:`pyrovae.fit`.
        num_samples: Of :func:`pyrovae.evaluate`.
        seed: Of both.
        training: More keywords of :func:`pyrovae.fit`.
        evaluation: More keywords of :func:`pyrovae.evaluate`.

    Attributes:
        pair_: What was fitted.
        history_: The :class:`pyrovae.History` of it.

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

    def fit(self, X: ArrayLike, y: object = None) -> Density:  # noqa: N803 (scikit-learn calls it X=)
        """Train a copy on data ``[n, *event]``; y is not looked at."""
        self.pair_ = deepcopy(self.pair)
        options = {"num_epochs": self.num_epochs, "seed": self.seed, "progress": False}
        self.history_ = fit(*_programs(self.pair_), _rows(X), **options | dict(self.training or {}))
        return self

    def score_samples(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Log p(x) of each datum in nats, ``[n]``."""
        options = {"num_samples": self.num_samples, "seed": self.seed, **dict(self.evaluation or {})}
        return score_samples(*_programs(self._fitted), X, **options)

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """Mean log p(x) in nats: the higher the better, as a search takes it."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | None = 0) -> np.ndarray:
        """Draw data from p(x): ``[n_samples, *event]``, the same for the same ``random_state``.

        Modules are in evaluation mode, as where they are scored. None draws from torch's own generator.

        Raises:
            TypeError: A model of one's own that takes no ``size=``.
        """
        model, guide = _programs(self._fitted)
        if "size" not in signature(getattr(model, "forward", model)).parameters:
            raise TypeError("sample: the model takes no size=: draw by pyro.infer.Predictive(model, ...)")
        drawing = nullcontext() if random_state is None else stream("density, samples", random_state)
        with torch.no_grad(), drawing, mode(modules_of(model, guide), training=False):
            return model(size=n_samples).cpu().numpy()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor was given."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Density:
        """Set what the constructor takes.

        Raises:
            ValueError: It takes no such thing.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"Density has no {name}: it has {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type="density_estimator", target_tags=TargetTags(required=False))

    @property
    def _fitted(self) -> nn.Module | tuple[Program, Program]:
        return getattr(self, "pair_", self.pair)


def score_samples(model: Program, guide: Program, x: ArrayLike, **options: Any) -> np.ndarray:
    """Log p(x) of each datum, ``[n]`` in nats, as :func:`pyrovae.evaluate` has it.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        x: Data ``[n, *event]``, an array or a tensor; computed with in torch's default dtype.
        options: Of :func:`pyrovae.evaluate`.
    """
    result = evaluate(model, guide, _rows(x), **{"progress": False} | options)
    return result.log_evidence.numpy()


def _rows(x: ArrayLike) -> Tensor:
    values = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    return values.to(torch.get_default_dtype())


def _programs(pair: Any) -> tuple[Program, Program]:
    return pair if isinstance(pair, tuple) else (pair.model, pair.guide)
