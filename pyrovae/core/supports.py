"""Whether a guide's distribution has the same support as the prior."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import Delta, constraints
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyrovae.core.random import stream
from pyrovae.core.wrap import family_of, support_of

__all__ = ["check_fit", "check_supports", "is_delta", "kind_of"]

ROUNDING = 1e-3
"""Tolerance for the sum of proportions, or the norm of a direction, in float32."""


def check_supports(
    model_sites: Iterable[dict[str, Any]], guide_sites: Iterable[dict[str, Any]], *, bound: bool
) -> None:
    """Check each latent's distribution under the guide against that under the model.

    With ``bound`` a draw outside the prior's support is refused too: it makes an ELBO -inf, while it gives an
    importance weight of zero. The model has run on the guide's draws.
    """
    priors = {site["name"]: site["fn"] for site in model_sites if not site["is_observed"]}
    for site in guide_sites:
        guide, prior, where = site["fn"], priors.get(site["name"]), f"site '{site['name']}'"
        if prior is None:
            continue
        check_fit(where, guide, prior)
        support = support_of(prior)
        checked = bound and support is not None and is_validation_enabled()
        if checked and not _inside(support, site["value"]):
            raise ValueError(
                f"{_misfit(where, guide, prior)}: it draws values that the prior does not give, "
                f"and the ELBO is -inf; use a guide over the prior's support"
            )


def check_fit(where: str, guide: Any, prior: Any) -> None:
    """Refuse a guide's distribution that no importance weights can correct.

    Raises:
        ValueError: The supports are of different kinds (discrete values, real values, proportions,
            directions), or the guide cannot reach values that the prior gives.
    """
    here, there = support_of(guide), support_of(prior)
    if here is None or there is None or is_delta(guide):
        return
    if kind_of(here) != kind_of(there):
        raise ValueError(
            f"{_misfit(where, guide, prior)}: one is over {kind_of(here)}, the other over {kind_of(there)}; "
            f"use two of one kind"
        )
    reached = _draw(prior) if is_validation_enabled() else None
    if reached is not None and not _inside(here, reached):
        raise ValueError(
            f"{_misfit(where, guide, prior)}: it cannot reach values that the prior gives, and log p(x) "
            f"would come out too low; use a guide over the prior's whole support"
        )


def _misfit(where: str, guide: Any, prior: Any) -> str:
    return f"{where}: the guide's {family_of(guide)} does not fit the prior's {family_of(prior)}"


def kind_of(support: Any) -> str:
    """The kind of a support; densities on two kinds are with respect to different measures."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if hasattr(support, "kind"):
        return support.kind
    if support.is_discrete:
        return "discrete values"
    if isinstance(support, type(constraints.simplex)):
        return "proportions"
    return "directions" if isinstance(support, type(constraints.sphere)) else "real values"


def _inside(support: Any, value: Tensor) -> bool:
    kind = kind_of(support)
    if kind == "proportions":
        return bool(((value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < ROUNDING)).all())
    if kind == "directions":
        return bool(((value.norm(dim=-1) - 1).abs() < ROUNDING).all())
    return bool(support.check(value).all())


def is_delta(distribution: Any) -> bool:
    """Whether a distribution is a point mass, whatever wraps it."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def _draw(distribution: Any) -> Tensor | None:
    """A draw in a random stream of its own; None if the distribution cannot draw, as an improper prior."""
    try:
        with stream("support"), torch.no_grad():
            return distribution.sample()
    except NotImplementedError:
        return None
