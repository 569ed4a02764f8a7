"""Callbacks of :func:`pyrovae.fit`.

A callback is a function of :class:`pyrovae.training.state.Training`, called after each epoch. One that
returns True ends the training. It may be an object with further methods:

- ``step(training)``, called after each step of the optimiser.
- ``applied()``, a context manager around the validation and the callbacks after it.
- ``state_dict()`` and ``load_state_dict(state, training)``: its state, of numbers, strings, tensors, lists
  and dicts, for a run that is resumed. Without them, what it knew of earlier epochs is lost on resuming.

A :class:`pyrovae.loggers.Logger` among the callbacks is wrapped in :class:`Log`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pyrovae.core.checks import check_count
from pyrovae.core.distributed import is_first
from pyrovae.core.modules import modules_of
from pyrovae.training.loggers import Logger
from pyrovae.training.state import Training

__all__ = ["Averaged", "KeepBest", "Log", "as_callbacks"]


def as_callbacks(given: Iterable[Any]) -> list[Callable[[Training], bool | None]]:
    """The callbacks, with a :class:`Log` around each logger among them."""
    return [Log(each) if isinstance(each, Logger) else each for each in given]


class KeepBest:
    """Remember the weights of the epoch with the best plain ELBO of the validation data.

    The criterion is the ELBO whatever the loss is: a bound with a changing weight on the KL, or another K,
    does not compare epochs.

    Args:
        patience: Epochs without a better ELBO after which training stops; by default it does not.

    Attributes:
        epoch: The best epoch so far.
        elbo: The best validation ELBO so far, nats per datum.

    Raises:
        ValueError: When called without validation data; ``patience`` below 1.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q, p = guides.Normal(networks.MLP(9, 4)), likelihoods.Bernoulli(networks.MLP(2, 9))
        >>> vae, x = pv.VAE(priors.StandardNormal(2), p, q), torch.eye(9)
        >>> best = KeepBest(patience=3)
        >>> arguments = dict(num_epochs=50, validation=x, callbacks=[best], progress=False)
        >>> history = pv.fit(vae.model, vae.guide, x, **arguments)
        >>> best.restore()
        >>> best.elbo == max(history.validation_elbo)
        True
    """

    def __init__(self, *, patience: int | None = None) -> None:
        if patience is not None:
            check_count("KeepBest: patience", patience)
        self.patience = patience
        self.epoch, self.elbo = -1, -math.inf
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, training: Training) -> bool:
        """Compare an epoch with the best one; return whether training may stop."""
        if not training.history.validation_elbo:
            raise ValueError("KeepBest: there is no validation ELBO: pass fit validation data, validation=")
        elbo = training.history.validation_elbo[-1]
        if elbo > self.elbo:
            self.epoch, self.elbo = training.epoch, elbo
            self._kept = [(tensor, tensor.detach().clone()) for tensor in _tensors(training)]
        return self.patience is not None and training.epoch - self.epoch >= self.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the best epoch's weights back into the model."""
        if not self._kept:
            raise RuntimeError("KeepBest: there is nothing to restore: pass it to fit, callbacks=[...]")
        for tensor, value in self._kept:
            tensor.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a run that is resumed."""
        return {"epoch": self.epoch, "elbo": self.elbo, "kept": [value for _, value in self._kept]}

    def load_state_dict(self, state: dict[str, Any], training: Training) -> None:
        """Restore what :meth:`state_dict` returned, for the same model."""
        self.epoch, self.elbo = state["epoch"], state["elbo"]
        tensors = _tensors(training) if state["kept"] else []
        values = [value.to(tensor.device) for tensor, value in zip(tensors, state["kept"], strict=True)]
        self._kept = list(zip(tensors, values, strict=True))


class Averaged:
    r"""Average the weights over the steps; validation and the callbacks after it see the averages.

    .. math:: \bar\theta_t = \beta \, \bar\theta_{t-1} + (1 - \beta) \, \theta_t

    By :mod:`torch.optim.swa_utils`. Running statistics of layers stay those of the training.

    Args:
        decay: beta, within (0, 1); the average is over about ``1 / (1 - decay)`` steps.

    Raises:
        ValueError: ``decay`` outside (0, 1).

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q, p = guides.Normal(networks.MLP(9, 4)), likelihoods.Bernoulli(networks.MLP(2, 9))
        >>> vae, x = pv.VAE(priors.StandardNormal(2), p, q), torch.eye(9)
        >>> averaged = Averaged(0.9)
        >>> _ = pv.fit(vae.model, vae.guide, x, num_epochs=3, callbacks=[averaged], progress=False)
        >>> averaged.restore()
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"Averaged: decay is {decay:g}: within 0 and 1, such as 0.999")
        self.decay = decay
        self._update = get_ema_multi_avg_fn(decay)
        self._parameters: list[Tensor] = []
        self._averages: list[Tensor] = []

    def __call__(self, training: Training) -> None:
        """Do nothing at the end of an epoch."""

    def step(self, training: Training) -> None:
        """Add the weights after a step to the average."""
        if not self._averages:
            self._parameters = _trained(training)
            self._averages = [each.detach().clone() for each in self._parameters]
            return
        with torch.no_grad():
            self._update(self._averages, [each.detach() for each in self._parameters], 1)

    def restore(self) -> None:
        """Replace the weights by the averages."""
        if not self._averages:
            raise RuntimeError("Averaged: there is nothing to restore: pass it to fit, callbacks=[...]")
        self._set(self._averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averages."""
        before = [each.detach().clone() for each in self._parameters]
        self.restore()
        try:
            yield
        finally:
            self._set(before)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averages, for a run that is resumed."""
        return {"decay": self.decay, "averages": self._averages}

    def load_state_dict(self, state: dict[str, Any], training: Training) -> None:
        """Restore what :meth:`state_dict` returned, for the same model and decay."""
        if state["decay"] != self.decay:
            raise ValueError(
                f"Averaged: decay is {state['decay']:g} there and {self.decay:g} here: use the same"
            )
        self._parameters = _trained(training)
        pairs = zip(state["averages"], self._parameters, strict=False)
        self._averages = [value.to(parameter, copy=True) for value, parameter in pairs]


class Log:
    """Give each epoch's row to a logger; if that fails there is one warning, and training goes on.

    Args:
        logger: A function of the dict of an epoch's numbers, such as ``wandb.log``, or a
            :class:`pyrovae.loggers.Logger`, which :func:`pyrovae.fit` wraps by itself.

    Example:
        >>> from pyrovae import History
        >>> from pyrovae.training.state import Training
        >>> rows, history = [], History(epoch=[0, 1], elbo=[-90.0, -80.0])
        >>> Log(rows.append)(Training(1, history, None, None, None))
        >>> rows
        [{'epoch': 1, 'elbo': -80.0}]
    """

    def __init__(self, logger: Callable[[dict[str, float]], Any] | Logger) -> None:
        self.logger = logger
        self.failed = self._opened = False

    def __call__(self, training: Training) -> None:
        """Write the latest row on the first process, and once the earlier rows that the log lacks."""
        if not is_first():
            return
        history, latest = training.history, len(training.history) - 1
        try:
            if isinstance(self.logger, Logger):
                first = latest if self._opened else self.logger.open(history.epoch[latest])
                self._opened = True
                for index in range(first, latest + 1):
                    self.logger.write(history.row(index))
            else:
                self.logger(history.row())
        except Exception as error:
            if not self.failed:
                message = (
                    f"Log: the logger fails ({type(error).__name__}: {error}), and training goes on without"
                )
                warnings.warn(message, UserWarning, stacklevel=2)
            self.failed = True


def _trained(training: Training) -> list[Tensor]:
    return [tensor for group in training.optimizer.param_groups for tensor in group["params"]]


def _tensors(training: Training) -> list[Tensor]:
    """The optimiser's parameters and the modules' running statistics."""
    buffers = [b for module in modules_of(training.model, training.guide) for b in module.buffers()]
    return [*_trained(training), *buffers]
