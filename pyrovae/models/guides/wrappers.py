"""Guides made from another guide for safer importance weights: stretched, or mixed with the prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_positive
from pyrovae.core.supports import check_fit
from pyrovae.core.wrap import as_pyro, family_of, support_of
from pyrovae.models import distributions
from pyrovae.models.base import Part, as_module

__all__ = ["Defensive", "Widened"]


class Widened(nn.Module):
    r"""A guide over real vectors, stretched about its mean.

    .. math:: z' = m(x) + s \, (z - m(x)), \qquad z \sim q(z \mid x)

    A guide trained by the ELBO is narrower than the posterior, and importance weights then have
    heavy tails; a scale of 1.1 to 1.5 often helps.

    Args:
        guide: ``guide(x)`` returns q(z | x), with a mean.
        scale: s, positive.

    Raises:
        ValueError: The scale is not positive; the guide's distribution has no mean, or another support.

    References:
        Owen, Monte Carlo Theory, Methods and Examples, 2013, chapter 9, on tails,
        https://artowen.su.domains/mc/; Vehtari et al., Pareto Smoothed Importance Sampling, 2024, on the
        effect of light ones. arXiv:1507.02646

    Example:
        >>> import torch
        >>> from pyrovae import guides
        >>> q = guides.Normal(nn.Linear(9, 4))
        >>> x = torch.rand(5, 9)
        >>> torch.allclose(Widened(q, 1.5)(x).variance, 2.25 * q(x).variance)
        True
    """

    def __init__(self, guide: Part, scale: float) -> None:
        super().__init__()
        check_positive("Widened: scale", scale)
        self.guide, self.scale = as_module(guide), scale

    def forward(self, x: Tensor) -> distributions.Widened:
        """The wider q(z | x), with the batch and event shapes of the guide."""
        base = as_pyro(self.guide(x))
        support = support_of(base)
        if support is not None and not support.check(-1.5 * torch.ones(base.event_shape)).all():
            raise ValueError(
                f"Widened: {family_of(base)} is not over all real vectors, and stretched it would leave its "
                f"support: use Defensive"
            )
        try:
            base.mean  # noqa: B018 (a test whether there is one)
        except NotImplementedError as error:
            raise ValueError(
                f"Widened: {family_of(base)} has no mean to be stretched about: use Defensive, or widen the "
                f"flow's base"
            ) from error
        return distributions.Widened(base, self.scale)


class Defensive(nn.Module):
    r"""A mixture of a guide and the prior: no weight can exceed the likelihood over alpha.

    .. math:: q'(z \mid x) = (1 - \alpha) \, q(z \mid x) + \alpha \, p(z), \qquad
        \frac{p(x, z)}{q'(z \mid x)} \le \frac{p(x \mid z)}{\alpha}

    Args:
        guide: ``guide(x)`` returns q(z | x).
        prior: ``prior()`` returns p(z); the model's own module.
        weight: alpha, strictly between 0 and 1.

    Raises:
        ValueError: The weight is outside (0, 1); guide and prior differ in width or kind of values.

    References:
        Hesterberg, Weighted Average Importance Sampling and Defensive Mixture Distributions, 1995.
        doi:10.1080/00401706.1995.10484303

    Example:
        >>> import torch
        >>> from pyrovae import guides, priors
        >>> q = Defensive(guides.Normal(nn.Linear(9, 4)), priors.StandardNormal(2), 0.1)
        >>> q(torch.rand(5, 9)).sample().shape
        torch.Size([5, 2])
    """

    def __init__(self, guide: Part, prior: Part, weight: float = 0.1) -> None:
        super().__init__()
        if not 0 < weight < 1:
            raise ValueError(f"Defensive: weight must be strictly between 0 and 1, got {weight:g}")
        self.guide, self.prior, self.weight = as_module(guide), as_module(prior), weight

    def forward(self, x: Tensor) -> distributions.Defensive:
        """The mixture, with the batch and event shapes of the guide."""
        first, second = as_pyro(self.guide(x)), as_pyro(self.prior())
        if first.event_shape != second.event_shape:
            raise ValueError(
                f"Defensive: the guide has events of shape {tuple(first.event_shape)}, the prior of "
                f"{tuple(second.event_shape)}: give both the same width"
            )
        check_fit("Defensive", first, second)
        return distributions.Defensive(first, second, self.weight)
