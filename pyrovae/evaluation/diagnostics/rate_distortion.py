"""The ELBO as a rate and a distortion."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyrovae.core.tables import table
from pyrovae.evaluation.results import Evaluation

__all__ = ["RateDistortion", "rate_distortion"]


class RateDistortion(NamedTuple):
    """Rate and distortion, ``[n]`` in nats; printed, a table of means.

    Attributes:
        rate: KL(q(z | x) || p(z)).
        distortion: -E_q log p(x | z).
        rate_error: Monte Carlo standard error of the rate.
        distortion_error: Monte Carlo standard error of the distortion.
        elbo_error: Monte Carlo standard error of their sum, which are correlated.
    """

    rate: Tensor
    distortion: Tensor
    rate_error: Tensor
    distortion_error: Tensor
    elbo_error: Tensor

    def __str__(self) -> str:
        rows: dict[str, tuple[Tensor, Tensor | None]] = {
            "rate KL(q(z|x) || p(z))": (self.rate, self.rate_error),
            "distortion -E_q[log p(x|z)]": (self.distortion, self.distortion_error),
            "their sum, -ELBO": (self.rate + self.distortion, self.elbo_error),
        }
        return "\n".join(table(rows))


def rate_distortion(result: Evaluation) -> RateDistortion:
    r"""Rate and distortion of a model, two columns of its evaluation.

    .. math:: R = E_x \, KL(q(z \mid x) \,\|\, p(z)), \qquad D = -E_x E_q \log p(x \mid z), \qquad
        R + D = -\mathrm{ELBO}, \qquad H - D \le I(x; z) \le R

    with H the entropy of the data. Models of equal ELBO lie anywhere on a line of constant R + D: R = 0 if
    the code is ignored, D near 0 if it holds all of x (D may be negative if p(x | z) is a density).

    Args:
        result: Result of :func:`pyrovae.evaluate`.

    References:
        Alemi et al., Fixing a Broken ELBO, 2018. arXiv:1711.00464

    Example:
        >>> import torch
        >>> from pyrovae import evaluate
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> result = evaluate(oracle.model, oracle.guide, oracle.sample(5), progress=False)
        >>> parts = rate_distortion(result)
        >>> torch.allclose(parts.rate + parts.distortion, -result.elbo)
        True
    """
    return RateDistortion(
        result.kl, -result.reconstruction, result.kl_error, result.reconstruction_error, result.elbo_error
    )
