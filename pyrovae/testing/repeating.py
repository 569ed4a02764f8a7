"""A density belongs to one draw of one datum: it stays the same whatever is computed beside it."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.programs import Structure, log_density, sample_sites, traces
from pyrovae.testing.programs import Arguments, one_line, suspects

__all__ = ["check_draws_apart", "check_rows_apart"]

DRAWS = 3


def check_draws_apart(model: Program, guide: Program, given: Arguments, structure: Structure) -> None:
    """Several draws at once, ``[draws, batch, ...]``, have the densities that they have one by one.

    Raises:
        ValueError: A site has another density, or a program fails on the draws dim.
    """
    looked = suspects(model, guide)
    try:
        with one_line(), pyro.plate("_draws", DRAWS, dim=structure.draws_dim):
            together = traces(model, guide, *given)
    except ValueError as error:
        raise ValueError(
            f"one draw at a time runs and several at once, [draws, batch, ...], do not ({error}): let "
            f"networks take any leading dims, as networks.by_rows does{looked}"
        ) from error
    for draw in range(DRAWS):
        kept = poutine.Trace()
        for site in sample_sites(together[0]):
            if not site["is_observed"]:
                kept.add_node(site["name"], **{**site, "value": site["value"][draw]})
        with one_line():
            alone = traces(poutine.replay(model, trace=kept), poutine.replay(guide, trace=kept), *given)
        for whole, part in zip(together, alone, strict=True):
            densities = {site["name"]: log_density(site) for site in sample_sites(whole)}
            for site in sample_sites(part):
                if not _close(densities[site["name"]][draw], log_density(site)):
                    raise ValueError(
                        f"site '{site['name']}': a draw has another density among others, [draws, batch, "
                        f"...], than by itself: let networks count dims from the right, dim=-1{looked}"
                    )


def check_rows_apart(
    model: Program, guide: Program, given: Arguments, few: Arguments, rows: int, dim: int
) -> list[str]:
    """The first rows have the same densities with the other rows left out.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        given: What both are called with.
        few: The same of the first rows.
        rows: How many those are.
        dim: The data plate's.

    Returns:
        Names of the guide's sites of which it is not so: a proposal may look at all the data.

    Raises:
        ValueError: Of a site of the model it is not so.
    """
    whole = traces(model, guide, *given)
    kept = poutine.Trace()
    for site in sample_sites(whole[0]):
        if not site["is_observed"]:
            axis = dim - len(site["fn"].event_shape)
            kept.add_node(site["name"], **{**site, "value": site["value"].narrow(axis, 0, rows)})
    part = traces(poutine.replay(model, trace=kept), poutine.replay(guide, trace=kept), *few)
    mixed: list[list[str]] = []
    for before, after in zip(whole, part, strict=True):
        densities = {site["name"]: log_density(site).narrow(dim, 0, rows) for site in sample_sites(before)}
        sites = sample_sites(after)
        mixed.append([s["name"] for s in sites if not _close(densities[s["name"]], log_density(s))])
    of_guide, of_model = mixed
    if of_model:
        raise ValueError(
            f"site '{of_model[0]}': a row's density changes when other rows are left out, so that no datum "
            f"has a log p(x) of its own: keep networks from mixing the batch{suspects(model, guide)}"
        )
    return of_guide


def _close(first: Tensor, second: Tensor) -> bool:
    """Equal up to the rounding of a sum over many pixels."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-3, equal_nan=True)
