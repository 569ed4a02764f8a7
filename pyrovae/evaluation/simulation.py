"""Data drawn from a model, together with the latents that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine

from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import check_same_densities, sample_sites
from pyrovae.core.random import stream

__all__ = ["Simulated", "simulate"]


class Simulated(NamedTuple):
    """A run of a model that observes nothing: its trace, and the arguments with the simulated data."""

    trace: Any
    args: tuple[Any, ...]


def simulate(
    model: Program,
    *args: Any,
    site: str | Sequence[str] = "x",
    caller: str = "simulate",
    key: Sequence[int] = (),
) -> Simulated:
    r"""Draw :math:`(z^*, x) \sim p(x, z)`: z* is then an exact draw of p(z | x).

    The arguments give the number of rows; those of ``site``, one name or several in the arguments' order, are
    replaced by the simulated data. ``caller`` is named in errors, and keys the noise together with ``key``.

    Raises:
        ValueError: The model has no such site, or observes others too.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> drawn = simulate(LinearGaussian(torch.ones(3, 1)).model, torch.zeros(5, 3))
        >>> drawn.args[0].shape, drawn.trace.nodes["z"]["value"].shape
        (torch.Size([5, 3]), torch.Size([5, 1]))
    """
    names = (site,) if isinstance(site, str) else tuple(site)
    with mode(modules_of(model, model), training=False), stream(f"{caller}, data", *key), torch.no_grad():
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args)
    for name in names:
        if name not in trace.nodes:
            raise ValueError(f"{caller}: the model has no site '{name}': name that of the data with site=")
    for each in sample_sites(trace):
        if each["infer"].get("was_observed") and each["name"] not in names:
            raise ValueError(
                f"{caller}: the model observes '{each['name']}' too: name the sites of all data, in the "
                f"order of the arguments, site={(*names, each['name'])}"
            )
    data: list[Any] = [trace.nodes[name]["value"] for name in names]
    drawn = Simulated(trace, (*data, *args[len(names) :]))
    _check_data_are_drawn(model, drawn, caller)
    return drawn


def _check_data_are_drawn(model: Program, drawn: Simulated, caller: str) -> None:
    """Check that the model, run on the simulated data, gives them the density that they were drawn with."""
    with mode(modules_of(model, model), training=False), stream(f"{caller}, check"), torch.no_grad():
        again = poutine.trace(poutine.replay(model, trace=_latents(drawn.trace))).get_trace(*drawn.args)
    try:
        check_same_densities(drawn.trace, again)
    except ValueError as error:
        raise ValueError(
            f"{caller}: run on data that it drew, the model gives them another density: it uses the data "
            f"themselves, as an autoregressive decoder does, or site= is in another order than the arguments"
        ) from error


def _latents(trace: Any) -> poutine.Trace:
    known = poutine.Trace()
    for site in sample_sites(trace):
        if not site["infer"].get("was_observed"):
            known.add_node(site["name"], **site)
    return known
