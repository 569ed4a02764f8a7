"""Whether a guide's distribution fits the prior's: same kind of values, and no part left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import Delta, constraints

from pyrovae.distributions import family_of, support_of

__all__ = ["check_supports"]

MEASURED_APART = {"proportions": constraints.simplex, "a sphere": constraints.sphere}
"""Sets whose densities have a measure of their own: no density of reals compares with theirs."""


def check_supports(
    model_sites: Iterable[dict[str, Any]], guide_sites: Iterable[dict[str, Any]], *, bound: bool
) -> None:
    """Compare what each latent is under the model and under the guide.

    Args:
        model_sites: Of the model, run on the guide's draws.
        guide_sites: Of the guide.
        bound: Whether an ELBO is asked for: a draw outside the prior's support makes it -inf, while
            importance weights just get a nought.

    Raises:
        ValueError: One is discrete and the other is not, or they live on sets of another kind (all
            reals, proportions, a sphere); the guide cannot reach values that the prior gives; a
            draw outside the prior's support where a bound is asked for.
    """
    priors = {site["name"]: site["fn"] for site in model_sites if not site["is_observed"]}
    for site in guide_sites:
        name, guide, prior = site["name"], site["fn"], priors.get(site["name"])
        if prior is None or isinstance(_bare(guide), Delta):
            continue
        here, there = support_of(guide), support_of(prior)
        if here is None or there is None:
            continue
        both = f"site '{name}': the guide's {family_of(guide)} does not fit the prior's {family_of(prior)}"
        if _kind(here) != _kind(there):
            raise ValueError(
                f"{both}: one is over {_kind(here)}, the other over {_kind(there)}; use two of one kind"
            )
        if _kind(here) in MEASURED_APART:  # and rounding would fail their checks
            continue
        reached = _draw(prior)
        if reached is not None and not here.check(reached).all():
            raise ValueError(
                f"{both}: it cannot reach values that the prior gives, and log p(x) would come out too low; "
                f"use a guide over the prior's whole support"
            )
        if bound and not there.check(site["value"]).all():
            raise ValueError(
                f"{both}: it draws values that the prior does not give, and the ELBO is -inf; use a guide "
                f"over the prior's support"
            )


def _kind(support: Any) -> str:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support.is_discrete:
        return "discrete values"
    for kind, constraint in MEASURED_APART.items():
        if isinstance(support, type(constraint)):
            return kind
    return "real values"


def _bare(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _draw(distribution: Any) -> torch.Tensor | None:
    """A draw, of a distribution that can draw: an improper prior cannot."""
    try:
        with torch.no_grad():
            return distribution.sample()
    except NotImplementedError:
        return None
