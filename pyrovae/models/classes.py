"""Models with a class that is always, sometimes or never given."""

from __future__ import annotations

import inspect
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.mask_messenger import MaskMessenger
from torch import Tensor, nn

from pyrovae.core.context import captured
from pyrovae.core.random import stream
from pyrovae.models.base import Part
from pyrovae.models.pair import Pair, PartsProgram, beside, data_plate, draw, observe
from pyrovae.models.priors import GaussianMixture

__all__ = ["conditional", "gaussian_mixture", "semi_supervised"]

CERTAIN = 100.0
"""Logit of a known label, in nats over the others: a probability of e^-100 is never drawn."""


def conditional(prior: Part, likelihood: Part, guide: Part) -> Pair:
    r"""A VAE of x given y: both programs take ``(x, y)``, and log p is log p(x | y).

    .. math:: p(x \mid y) = \int p(z \mid y) \, p(x \mid z, y) \, dz

    ``pair.sample(y=y)`` draws a row of data for each row of y.

    Args:
        prior: ``prior(y)`` returns p(z | y), such as ``priors.ConditionalNormal(net)``; a prior without
            arguments is p(z).
        likelihood: A part called with z and y side by side, ``[..., dim + width of y]``.
        guide: A part called with x and y side by side, ``[batch, features + width of y]``.

    References:
        Sohn et al., Learning Structured Output Representation using Deep Conditional Generative Models, 2015.

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> prior = priors.ConditionalNormal(networks.MLP(10, 2 * 4))
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(4 + 10, 9))
        >>> pair = conditional(prior, likelihood, guides.Normal(networks.MLP(9 + 10, 2 * 4)))
        >>> pair.sample(y=torch.eye(10)).shape
        torch.Size([10, 9])
    """
    model = PartsProgram(_conditional_model, prior=prior, likelihood=likelihood)
    return Pair(model, PartsProgram(_conditional_guide, guide=guide))


def _conditional_model(
    parts: Any, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None
) -> Tensor:
    y = _checked_condition(x, y)
    plate = data_plate(y, None)
    z = draw(plate, "z", parts.prior(y) if _takes_y(parts.prior, y) else parts.prior())
    return observe(plate, parts.likelihood(beside(z, y)), x)


def _takes_y(prior: Any, y: Tensor) -> bool:
    """Whether the prior takes y, by its signature; for a flow, by whether it has a context."""
    function = getattr(prior, "part", prior.forward)
    if not callable(function):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    if not taken or taken[0].default is inspect.Parameter.empty:
        return bool(taken)
    try:
        with torch.no_grad(), stream("does the prior take y"):
            prior(y[:1]).sample()
    except (RuntimeError, ValueError):
        return False
    return True


def _conditional_guide(parts: Any, x: Tensor, y: Tensor | None = None) -> None:
    draw(data_plate(x, None), "z", parts.guide(beside(x, _checked_condition(x, y))))


def _checked_condition(x: Tensor | None, y: Tensor | None) -> Tensor:
    if y is None:
        raise ValueError(
            "a conditional model is called with (x, y): pass the data as a tuple of tensors, and to generate "
            "a row for each condition, pair.sample(y=y)"
        )
    if y.dim() != 2 or not y.is_floating_point() or (x is not None and len(x) != len(y)):
        raise ValueError(
            f"y must be floats, a row for each row of x, got {y.dtype} of shape {tuple(y.shape)}: "
            f"of labels make one_hot(y, num_classes).float()"
        )
    return y


def semi_supervised(
    prior: Part,
    likelihood: Part,
    guide: Part,
    classifier: nn.Module,
    *,
    num_classes: int,
    alpha: float = 0.1,
) -> Pair:
    r"""The model M2: a class and a latent, for data of which some have a label.

    .. math:: p(x) = \sum_y p(y) \int p(z) \, p(x \mid z, y) \, dz, \qquad
        q(y, z \mid x) = q(y \mid x) \, q(z \mid x, y)

    Both programs take ``x``, or ``(x, y)`` where y holds labels, -1 where unknown. A row's log p is log p(x)
    without a label and log p(x, y) with one. ``TraceEnum_ELBO(max_plate_nesting=1)`` sums over the class;
    p(y) is uniform. Sites are "y", "z" and "x".

    In training mode alpha log q(y | x) of the labelled rows is added to the objective as a site
    "classifier", else labels would not train the classifier. Evaluation, importance weights and the ELBO in
    the history leave it out.

    Args:
        prior: ``prior()`` returns p(z).
        likelihood: A part called with z and the one-hot y side by side, ``[..., dim + num_classes]``.
        guide: A part called with x and the one-hot y side by side, ``[..., features + num_classes]``.
        classifier: Maps x to the logits of q(y | x), ``[batch, num_classes]``.
        num_classes: Number of classes.
        alpha: Weight of the classifier's term for each labelled row.

    References:
        Kingma et al., Semi-Supervised Learning with Deep Generative Models, 2014. arXiv:1406.5298

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(4 + 10, 9))
        >>> guide, classifier = guides.Normal(networks.MLP(9 + 10, 2 * 4)), networks.MLP(9, 10)
        >>> pair = semi_supervised(priors.StandardNormal(4), likelihood, guide, classifier, num_classes=10)
        >>> pair.sample(5).shape
        torch.Size([5, 9])
    """
    if num_classes < 2 or alpha < 0:
        raise ValueError(
            f"semi_supervised: num_classes must be at least 2 and alpha at least 0, got {num_classes} and "
            f"{alpha:g}"
        )
    model = PartsProgram(_m2_model, prior=prior, likelihood=likelihood)
    model.classifier, model.num_classes, model.alpha = classifier, num_classes, alpha
    q = PartsProgram(_m2_guide, guide=guide)
    q.classifier, q.num_classes = classifier, num_classes
    return Pair(model, q)


def _m2_model(
    parts: Any, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None
) -> Tensor:
    plate, prior = data_plate(x, size), parts.prior()
    even = next(parts.classifier.parameters()).new_zeros(parts.num_classes)
    label = draw(plate, "y", dist.OneHotCategorical(logits=even, validate_args=False))
    z = draw(plate, "z", prior)
    likelihood = parts.likelihood(beside(z, label))
    if x is not None and y is not None and parts.training:
        _teach_classifier(parts, plate, x, y)
    return observe(plate, likelihood, x)


def _teach_classifier(parts: Any, plate: Any, x: Tensor, y: Tensor) -> None:
    logits, loss_only = parts.classifier(x), {"loss_only": True}
    q = dist.OneHotCategorical(logits=logits, validate_args=False)
    with poutine.scale(scale=parts.alpha), MaskMessenger(mask=y >= 0):  # type: ignore[arg-type]
        draw(plate, "classifier", q, obs=_one_hot(y, logits), infer=loss_only)


def _one_hot(y: Tensor, like: Tensor) -> Tensor:
    """Labels as one-hot vectors, unknown ones as the first class, without reading values, as graphs need."""
    return (y.clamp(min=0)[:, None] == torch.arange(like.shape[1], device=y.device)).to(like)


def _check_labels(y: Tensor, rows: int, num_classes: int) -> None:
    """Refuse what are no labels; within a graph, where values cannot be read, by shape and dtype alone."""
    fine = y.shape == (rows,) and not y.is_floating_point()
    if fine and (captured.get() or (y.min() >= -1 and y.max() < num_classes)):
        return
    raise ValueError(
        f"y must be integer labels [{rows}] from 0 to {num_classes - 1}, -1 where unknown, "
        f"got {y.dtype} of shape {tuple(y.shape)} from {y.min():g} to {y.max():g}"
    )


def _m2_guide(parts: Any, x: Tensor, y: Tensor | None = None) -> None:
    plate, logits = data_plate(x, None), parts.classifier(x)
    if logits.shape != (len(x), parts.num_classes):
        raise ValueError(
            f"semi_supervised: the classifier gives shape {tuple(logits.shape)}, expected "
            f"({len(x)}, {parts.num_classes}): a logit for each class"
        )
    if y is not None:
        _check_labels(y, len(x), parts.num_classes)
        hot = _one_hot(y, logits)
        x = x / hot.sum(-1, keepdim=True)  # NaN for a label of no class, which a graph cannot refuse
        logits = torch.where((y >= 0)[:, None], CERTAIN * hot, logits)
    q = dist.OneHotCategorical(logits=logits, validate_args=False)
    label = draw(plate, "y", q, infer={"enumerate": "parallel"})
    draw(plate, "z", parts.guide(beside(x, label)))


def gaussian_mixture(prior: GaussianMixture, likelihood: Part, guide: Part) -> Pair:
    r"""A VAE for clustering: the component of its mixture prior is a latent.

    .. math:: p(x, z, y) = \pi_y \, \mathcal N(z; \mu_y, \sigma_y^2) \, p(x \mid z), \qquad
        q(y, z \mid x) = q(z \mid x) \, p(y \mid z)

    The guide uses the exact posterior of the component given z, so log p(x) and its bound are those of
    ``VAE(prior, likelihood, guide)``. ``TraceEnum_ELBO(max_plate_nesting=1)`` enumerates y. Sites are "y"
    (one-hot), "z" and "x".

    Args:
        prior: The mixture of normals, which model and guide share.
        likelihood: ``likelihood(z)`` returns p(x | z).
        guide: ``guide(x)`` returns q(z | x).

    References:
        Jiang et al., Variational Deep Embedding, 2017. arXiv:1611.05148

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> likelihood, guide = likelihoods.Bernoulli(networks.MLP(4, 9)), guides.Normal(networks.MLP(9, 8))
        >>> gaussian_mixture(priors.GaussianMixture(4, 10), likelihood, guide).sample(5).shape
        torch.Size([5, 9])
    """
    if not isinstance(prior, GaussianMixture):
        raise TypeError(
            f"models.gaussian_mixture: the prior must be a priors.GaussianMixture, got "
            f"{type(prior).__name__}: for another, pv.VAE(prior, likelihood, guide)"
        )
    model = PartsProgram(_gm_model, prior=prior, likelihood=likelihood)
    return Pair(model, PartsProgram(_gm_guide, prior=prior, guide=guide))


def _gm_model(parts: Any, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
    plate, prior = data_plate(x, size), parts.prior
    y = draw(plate, "y", dist.OneHotCategorical(logits=prior.logits, validate_args=False))
    z = draw(plate, "z", _component(prior, y))
    return observe(plate, parts.likelihood(z), x)


def _gm_guide(parts: Any, x: Tensor) -> None:
    plate = data_plate(x, None)
    z = draw(plate, "z", parts.guide(x))
    every = torch.eye(len(parts.prior.logits), dtype=z.dtype, device=z.device)
    logits = parts.prior.logits + _component(parts.prior, every).log_prob(z[..., None, :])
    q = dist.OneHotCategorical(logits=logits, validate_args=False)
    draw(plate, "y", q, infer={"enumerate": "parallel"})


def _component(prior: GaussianMixture, y: Tensor) -> Any:
    """The normal of the component given by the one-hot y."""
    return dist.Normal(y @ prior.locs, (y @ prior.log_scales).exp(), validate_args=False).to_event(1)
