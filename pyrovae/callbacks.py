"""Callbacks of :func:`pyrovae.fit`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.programs import modules_of
from pyrovae.reductions import check_count

if TYPE_CHECKING:
    from pyrovae.training import Training

__all__ = ["KeepBest"]


class KeepBest:
    """Remember the weights of the epoch with the best plain ELBO of the validation data.

    Whatever the loss is, the criterion is the ELBO: a bound that changes with the epoch (a weight on
    the KL) or with K does not compare one epoch with another.

    Args:
        patience: Epochs without a better ELBO after which training stops; never if not given.

    Attributes:
        epoch: The best so far.
        elbo: Its ELBO, nats per datum.

    Raises:
        ValueError: When called without validation data; ``patience`` below 1.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> vae = pv.VAE(
        ...     priors.StandardNormal(2),
        ...     likelihoods.Bernoulli(networks.MLP(2, 9)),
        ...     guides.Normal(networks.MLP(9, 4)),
        ... )
        >>> best, x = KeepBest(patience=3), torch.eye(9)
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
        """Look at an epoch; whether training may stop."""
        if not training.history.validation_elbo:
            raise ValueError("KeepBest: there is no validation ELBO: pass fit validation data, validation=")
        elbo = training.history.validation_elbo[-1]
        if elbo > self.elbo:
            self.epoch, self.elbo = training.epoch, elbo
            self._kept = [(tensor, tensor.detach().clone()) for tensor in _tensors(training)]
        return self.patience is not None and training.epoch - self.epoch >= self.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best epoch's weights back where they were trained."""
        if not self._kept:
            raise RuntimeError("KeepBest: there is nothing to restore: pass it to fit, callbacks=[...]")
        for tensor, value in self._kept:
            tensor.copy_(value)


def _tensors(training: Training) -> list[Tensor]:
    """Everything that training moves: what the optimiser holds, and the modules' running statistics."""
    held = [tensor for group in training.optimizer.param_groups for tensor in group["params"]]
    buffers = [b for module in modules_of(training.model, training.guide) for b in module.buffers()]
    return [*held, *buffers]
