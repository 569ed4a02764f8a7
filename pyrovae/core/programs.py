"""The sites of a (model, guide) pair of Pyro programs, and its data plate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.random import stream
from pyrovae.core.supports import check_supports, is_delta
from pyrovae.core.wrap import support_of

Site = dict[str, Any]


class Structure(NamedTuple):
    """The data plate of a pair, and what p(x) is."""

    plate: str
    dim: int  # negative
    rows: int
    draws_dim: int  # the first dim left of every plate, for importance draws
    measure: str | None = None  # "probability", "density" or, with several sites, "both"


def sample_sites(trace: Any, *, loss_only: bool = False) -> Iterator[Site]:
    """The sites of a trace that have a density, which plates and ``pyro.deterministic`` have not.

    Sites marked ``infer={"loss_only": True}`` shape a loss and are no part of p(x, z); they alone are given
    with ``loss_only=True``.
    """
    for site in trace.nodes.values():
        if site["type"] != "sample" or isinstance(site["fn"], _Subsample):
            continue
        if "_deterministic" not in site["infer"] and bool(site["infer"].get("loss_only")) == loss_only:
            yield site


def log_density(site: Site) -> Tensor:
    """A site's log density, with its mask and without its scale (a plate's N/B, tempering)."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, mask=site["mask"])


def inspect(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Structure:
    """Run a pair once, check that each datum has an importance weight of its own, and find the data plate.

    The data plate is the plate that all sites share: the one called ``"data"`` if several are shared, else
    the outermost. The caller's random state does not change.

    Raises:
        ValueError: The sites of model and guide differ; a site lies outside the data plate or has a batch
            shape that its plates do not allow; the plate subsamples at random; a latent has no density under
            the guide (Delta); a density is random given the latents; guide and prior do not fit.
    """
    with stream("inspect"), torch.no_grad():
        with plain_errors():
            guide_trace, model_trace = traces(model, guide, args, kwargs)
            replayed = poutine.replay(model, trace=model_trace), poutine.replay(guide, trace=guide_trace)
            again = traces(*replayed, args, kwargs)
        for trace in (guide_trace, model_trace):
            _check_no_random_subsample(trace)
        _check_weighable(list(sample_sites(model_trace)), list(sample_sites(guide_trace)))
        structure = structure_of(guide_trace, model_trace)
        for trace, repeated in zip((guide_trace, model_trace), again, strict=True):
            check_same_densities(trace, repeated)
    return structure


def structure_of(guide_trace: poutine.Trace, model_trace: poutine.Trace, *, bound: bool = False) -> Structure:
    """The structure of a pair that was run, checked as far as a bound on log p(x) needs."""
    model_sites, guide_sites = list(sample_sites(model_trace)), list(sample_sites(guide_trace))
    _check_same_latents(model_sites, guide_sites)
    check_supports(model_sites, guide_sites, bound=bound)
    plate = _data_plate(model_sites + guide_sites)
    for site in model_sites + guide_sites:
        _check_batch_shape(site)
    depth = max(-frame.dim for site in model_sites + guide_sites for frame in _frames(site))
    return Structure(plate.name, plate.dim, plate.size, -1 - depth, _measure(model_sites))


def _measure(sites: list[Site]) -> str | None:
    """Whether the observations have a probability or a density; None if a support is unknown."""
    observed = [site["fn"] for site in sites if site["is_observed"] and not isinstance(site["fn"], Unit)]
    supports = [support_of(each) for each in observed]  # pyro.factor has a Unit, which observes nothing
    if not supports or None in supports:
        return None
    discrete = {bool(support.is_discrete) for support in supports if support is not None}
    return "both" if len(discrete) == 2 else "probability" if True in discrete else "density"


def traces(model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide, then the model on the guide's draws: (guide trace, model trace)."""
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return guide_trace, model_trace


@contextmanager
def plain_errors(where: str = "") -> Iterator[None]:
    """Remove the trace shapes from Pyro's errors, and add the place and the mend."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if type(error) not in (ValueError, RuntimeError):
            raise
        message = " ".join(re.split(r"\n\s*Trace Shapes:", str(error))[0].split())
        if "Shape mismatch inside plate" in message and "Did you forget" not in message:
            message += ". Did you forget .to_event(1)?"
        if "Expected more than 1 value per channel when training" in message:
            message += ": a batch of one row has no variance: choose a batch_size that leaves no such rest"
        raise type(error)(f"{where}: {message}" if where else message) from error


def _frames(site: Site) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _check_no_random_subsample(trace: poutine.Trace) -> None:
    for name, site in trace.nodes.items():
        plate = site.get("fn")
        if isinstance(plate, _Subsample) and (plate.subsample_size or plate.size) < plate.size:
            raise ValueError(
                f"plate '{name}' draws {plate.subsample_size} of {plate.size} rows at random, so its "
                f"weights belong to unknown data: call the programs with the rows themselves and "
                f"write plate('{name}', {plate.size}, subsample=rows)"
            )


def _check_same_latents(model_sites: list[Site], guide_sites: list[Site]) -> None:
    latent = {s["name"] for s in model_sites if not s["is_observed"]}
    guided = {s["name"] for s in guide_sites if not s["is_observed"]}
    auxiliary = {s["name"] for s in guide_sites if s["name"] in guided and s["infer"].get("is_auxiliary")}
    if len(latent) == len(model_sites):
        raise ValueError(
            "the model observes nothing: is obs= forgotten, or are model and guide the wrong way round?"
        )
    for name in sorted(latent - guided):
        raise ValueError(
            f"site '{name}' is a latent of the model and missing in the guide: "
            f"add pyro.sample('{name}', ...) to the guide"
        )
    observed = {s["name"] for s in model_sites if s["is_observed"]}
    for name in sorted(observed & {s["name"] for s in guide_sites}):
        raise ValueError(
            f"site '{name}' is observed in the model and present in the guide: take it out of the guide "
            f"(of Pyro's autoguides, use one that runs by itself, such as AutoNormal)"
        )
    for name in sorted(guided - latent - auxiliary):
        raise ValueError(
            f"site '{name}' of the guide is no latent of the model: rename it, "
            f"or mark it infer={{'is_auxiliary': True}}"
        )


def _check_weighable(model_sites: list[Site], guide_sites: list[Site]) -> None:
    """Refuse a guide with Delta sites, unless they are functions of an auxiliary site that has a density."""
    latent = {s["name"] for s in model_sites if not s["is_observed"]}
    auxiliary = {s["name"] for s in guide_sites if s["infer"].get("is_auxiliary") and not s["is_observed"]}
    points = {s["name"] for s in guide_sites if s["name"] in latent and is_delta(s["fn"])}
    if points and not auxiliary:
        raise ValueError(
            f"site '{min(points)}' has a Delta guide: a point has no density to weigh with; "
            f"evaluate with a guide of some width, such as guides.Normal"
        )
    if auxiliary and not points:  # in Pyro's autoguides the latents are Delta functions of it
        raise ValueError(
            f"site '{min(auxiliary)}' is auxiliary, and no latent is a Delta function of it: its "
            f"density is not that of the latents; integrate it out of the guide"
        )


def _data_plate(sites: list[Site]) -> Any:
    plates = [frame for site in sites for frame in _frames(site)]
    if not plates:
        raise ValueError(
            f"site '{sites[0]['name']}' is in no plate, so its data cannot be told apart: "
            f"write `with pyro.plate('data', len(x)):` around the sites of model and guide"
        )
    shared = [plate for plate in _frames(sites[0]) if all(_is_in(site, plate) for site in sites)]
    if shared:
        return next((plate for plate in shared if plate.name == "data"), shared[0])
    commonest = max(plates, key=lambda plate: sum(_is_in(site, plate) for site in sites))
    outside = next(site for site in sites if not _is_in(site, commonest))
    raise ValueError(
        f"site '{outside['name']}', batch_shape {tuple(outside['fn'].batch_shape)}, lies outside the "
        f"data plate '{commonest.name}' ({commonest.size} rows), so it belongs to no single datum: "
        f"move it into the plate, or fix its value with poutine.condition; in place of a guide joint "
        f"over all data, use one with a factor per datum, such as AutoNormal"
    )


def _is_in(site: Site, plate: Any) -> bool:
    """Whether a site is in a plate of this dim and size; model and guide may name it differently."""
    return any((frame.dim, frame.size) == (plate.dim, plate.size) for frame in _frames(site))


def check_same_densities(trace: Any, repeated: Any) -> None:
    """Refuse programs whose densities differ in a second run on the same draws."""
    second = {site["name"]: log_density(site) for site in sample_sites(repeated)}
    for site in sample_sites(trace):
        name, first = site["name"], log_density(site)
        same = name in second and torch.allclose(first, second[name], 1e-4, 1e-4, equal_nan=True)
        if not same:
            raise ValueError(
                f"site '{name}': its density changes from run to run on the same draws: put modules in "
                f"evaluation mode (dropout?), and draw what is random with pyro.sample"
            )


def _check_batch_shape(site: Site) -> None:
    allowed = [1] * max(-frame.dim for frame in _frames(site))
    for frame in _frames(site):
        allowed[frame.dim] = frame.size
    actual = tuple(log_density(site).shape)
    if actual != tuple(allowed):
        extra = max(len(actual) - len(allowed), 1)
        raise ValueError(
            f"site '{site['name']}': batch_shape {actual}, expected {tuple(allowed)}. "
            f"Did you forget .to_event({extra})?"
        )
