"""Two stochastic layers, inferred from the bottom up or from the top down."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyrovae.core.wrap import family_of
from pyrovae.models.base import Part
from pyrovae.models.pair import Pair, PartsProgram, data_plate, draw, observe

__all__ = ["ladder", "two_layers"]


def two_layers(prior: Part, middle: Part, likelihood: Part, lower: Part, upper: Part) -> Pair:
    r"""Two stochastic layers, the upper one inferred from the lower one.

    .. math:: p(x, z_1, z_2) = p(z_2) \, p(z_1 \mid z_2) \, p(x \mid z_1), \qquad
        q(z_1, z_2 \mid x) = q(z_1 \mid x) \, q(z_2 \mid z_1)

    Sites are "z2", "z1" and "x". Use Trace_ELBO as the loss: TraceMeanField_ELBO needs guide and model to
    draw in the same order.

    Args:
        prior: ``prior()`` returns p(z2).
        middle: ``middle(z2)`` returns p(z1 | z2), such as ``guides.Normal(net)``.
        likelihood: ``likelihood(z1)`` returns p(x | z1).
        lower: ``lower(x)`` returns q(z1 | x).
        upper: ``upper(z1)`` returns q(z2 | z1).

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> middle, likelihood = guides.Normal(networks.MLP(2, 8)), likelihoods.Bernoulli(networks.MLP(4, 9))
        >>> lower, upper = guides.Normal(networks.MLP(9, 8)), guides.Normal(networks.MLP(4, 4))
        >>> two_layers(priors.StandardNormal(2), middle, likelihood, lower, upper).sample(5).shape
        torch.Size([5, 9])
    """
    model = PartsProgram(_model, prior=prior, middle=middle, likelihood=likelihood)
    return Pair(model, PartsProgram(_bottom_up, lower=lower, upper=upper))


def ladder(prior: Part, middle: Part, likelihood: Part, lower: Part, upper: Part) -> Pair:
    r"""Two stochastic layers, the lower one inferred from the data and from the upper one.

    .. math:: q(z_1, z_2 \mid x) = q(z_2 \mid x) \, q(z_1 \mid z_2, x), \qquad
        q(z_1 \mid z_2, x) \propto p(z_1 \mid z_2) \, \mathcal N(z_1; \mu(x), \sigma^2(x))

    Both factors of q(z1 | z2, x) are diagonal normals, and so is their product: precisions add, and the loc
    is the mean of the two locs weighted by precision. Sites are "z2", "z1" and "x".

    Args:
        prior: ``prior()`` returns p(z2).
        middle: ``middle(z2)`` returns p(z1 | z2), a diagonal normal, such as ``guides.Normal(net)``;
            model and guide share it.
        likelihood: ``likelihood(z1)`` returns p(x | z1).
        lower: ``lower(x)`` returns the evidence of x about z1, a diagonal normal.
        upper: ``upper(x)`` returns q(z2 | x).

    References:
        Sonderby et al., Ladder Variational Autoencoders, 2016. arXiv:1602.02282

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> middle, likelihood = guides.Normal(networks.MLP(2, 8)), likelihoods.Bernoulli(networks.MLP(4, 9))
        >>> lower, upper = guides.Normal(networks.MLP(9, 8)), guides.Normal(networks.MLP(9, 4))
        >>> ladder(priors.StandardNormal(2), middle, likelihood, lower, upper).sample(5).shape
        torch.Size([5, 9])
    """
    model = PartsProgram(_model, prior=prior, middle=middle, likelihood=likelihood)
    return Pair(model, PartsProgram(_top_down, lower=lower, upper=upper, middle=middle))


def _model(parts: Any, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
    plate = data_plate(x, size)
    z2 = draw(plate, "z2", parts.prior())
    z1 = draw(plate, "z1", parts.middle(z2))
    return observe(plate, parts.likelihood(z1), x)


def _bottom_up(parts: Any, x: Tensor) -> None:
    plate = data_plate(x, None)
    z1 = draw(plate, "z1", parts.lower(x))
    draw(plate, "z2", parts.upper(z1))


def _top_down(parts: Any, x: Tensor) -> None:
    plate = data_plate(x, None)
    upper, evidence = parts.upper(x), _diagonal("lower", parts.lower(x))
    z2 = draw(plate, "z2", upper)
    prior = _diagonal("middle", parts.middle(z2))
    if prior.event_shape != evidence.event_shape:
        raise ValueError(
            f"models.ladder: site 'z1' has shape {tuple(prior.event_shape)} by the middle part and "
            f"{tuple(evidence.event_shape)} by the lower: make both networks' outputs fit one width"
        )
    precision = 1 / evidence.variance + 1 / prior.variance
    loc = (evidence.mean / evidence.variance + prior.mean / prior.variance) / precision
    both = dist.Normal(loc, precision.rsqrt(), validate_args=False).to_event(1)
    draw(plate, "z1", both)


def _diagonal(name: str, q: Any) -> Any:
    """Refuse a distribution other than a diagonal normal, as precisions are added dim by dim."""
    if family_of(q) != "Normal":
        raise ValueError(
            f"models.ladder: the {name} part must be a diagonal normal, whose precisions can be added, got "
            f"{family_of(q)}: use Normal, or models.two_layers"
        )
    return q
