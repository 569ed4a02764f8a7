"""One vectorised pass of guide and model: densities by draw and datum, for the objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, sample_sites
from pyrovae.core.scoring import sum_by_datum, trace_draws

__all__ = ["Draws", "check_one_scale", "draw"]


class Draws(NamedTuple):
    """Log densities of one pass, ``[S, batch]`` each, in nats, unscaled.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_q: log q(z | x).
        log_score: log q of the sites whose draws have no gradient, or None.
        outside: Terms outside of any logarithm, or None: of a ``poutine.scale`` of latents beyond that of the
            data, and of sites that count in the loss only.
        scale: Scale of the observed sites, N/B times any scale around both programs.
        guide_sites: The sites of the guide.
        model_sites: The sites of the model.
        drawn: The trace of the guide.
        structure: The structure of the pair.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    log_score: Tensor | None
    outside: Tensor | None
    scale: float
    guide_sites: list[Site]
    model_sites: list[Site]
    drawn: poutine.Trace
    structure: Structure

    def latents(self) -> list[tuple[Site, Site]]:
        """The site of the guide and that of the model, for each latent."""
        priors = {site["name"]: site for site in self.model_sites}
        return [(site, priors[site["name"]]) for site in self.guide_sites if site["name"] in priors]

    def laid_out(self, values: Tensor, event_dim: int) -> Tensor:
        """Values of a site with this event dim, as ``[S, batch, inner plates, event]``."""
        values = values[(None,) * (-self.structure.draws_dim - values.dim() + event_dim)]
        first = values.movedim(self.structure.dim - event_dim, 1)
        inner, event = first.shape[2 : first.dim() - event_dim], first.shape[first.dim() - event_dim :]
        return first.expand(*self.log_q.shape, *inner, *event).reshape(
            *self.log_q.shape, inner.numel(), event.numel()
        )

    def outside_mean(self) -> Tensor:
        """The terms outside of logarithms: their mean over draws, summed over the batch."""
        return self.log_q.new_zeros(()) if self.outside is None else self.outside.mean(0).sum()


def draw(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    structure: Structure,
    num_particles: int,
    *,
    score: str = "natural",
    through: Callable[[Tensor, int], Tensor] | None = None,
    drawn: poutine.Trace | None = None,
) -> Draws:
    """Draw from the guide and score both programs, all particles at once.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Arguments of both programs.
        kwargs: Keyword arguments of both programs.
        structure: The structure of the pair.
        num_particles: Draws per datum, S; a single one has no draws dimension.
        score: Gradient of log q: "natural"; "path", through the draws alone, without the score of its
            parameters (whose mean is zero); "still", the score alone, with detached draws in both densities.
        through: A function of a site's draws and event dim on their way into the densities, which may change
            gradients and no values.
        drawn: The trace of a guide, to score its draws again.
    """

    def run(program: Program, known: poutine.Trace | None = None) -> poutine.Trace:
        count = None if num_particles == 1 else num_particles
        return trace_draws(program, count, structure, args, kwargs, known=known, plate="_particles")

    drawn = run(guide) if drawn is None else drawn
    guide_sites = list(sample_sites(drawn))
    still = _changed(drawn, lambda value, _: value.detach()) if score != "natural" else drawn
    seen = still if score == "still" else drawn if through is None else _changed(drawn, through)
    model_trace = run(model, seen)
    model_sites = list(sample_sites(model_trace))
    log_q = sum_by_datum(guide_sites, structure)
    if score != "natural":
        log_q = sum_by_datum(list(sample_sites(run(guide, still))), structure)
    if score == "path":
        log_q = sum_by_datum(list(sample_sites(run(guide, seen))), structure) - log_q + log_q.detach()
    rough = [site for site in guide_sites if not site["is_observed"] and not site["fn"].has_rsample]
    scale = _data_scale(model_sites, structure)
    return Draws(
        sum_by_datum([site for site in model_sites if site["is_observed"]], structure),
        sum_by_datum([site for site in model_sites if not site["is_observed"]], structure),
        log_q,
        sum_by_datum(rough, structure) if rough else None,
        _outside(model_trace, drawn, structure, scale),
        scale,
        guide_sites,
        model_sites,
        drawn,
        structure,
    )


def check_one_scale(owner: str, drawn: Draws) -> None:
    """Refuse a weight on the KL, which has no effect on a guide that learns from detached draws."""
    for site in drawn.model_sites + drawn.guide_sites:
        if abs(_scale(site) / drawn.scale - 1) > 1e-9:
            raise ValueError(
                f"{owner}: site '{site['name']}' has a scale of its own, and a weight on the KL tells its "
                f"guide nothing: take it off, or use IWAE or ELBO, for discrete sites with gradient='score'"
            )


def _changed(trace: poutine.Trace, change: Callable[[Tensor, int], Tensor]) -> poutine.Trace:
    """A copy of the trace with its drawn values changed; its plates stay."""
    copied = trace.copy()
    for site in sample_sites(trace):
        if not site["is_observed"]:
            changed: Any = {**site, "value": change(site["value"], site["fn"].event_dim)}
            copied.nodes[site["name"]] = changed
    return copied


def _data_scale(sites: list[Site], structure: Structure) -> float:
    """The common scale of the observed sites; else N/B of the data plate."""
    scales = [_scale(site) for site in sites if site["is_observed"]]
    if scales and max(scales) - min(scales) <= 1e-9 * max(scales) and min(scales) > 0:
        return scales[0]
    for site in sites:
        for frame in site["cond_indep_stack"]:
            if frame.dim == structure.dim and frame.vectorized:
                return (frame.full_size or frame.size) / frame.size
    return 1.0


def _outside(
    model_trace: poutine.Trace, guide_trace: poutine.Trace, structure: Structure, scale: float
) -> Tensor | None:
    """Terms of scales beyond the data's, such as a weight on the KL, and of sites of the loss only."""
    parts = []
    for sign, trace in ((1.0, model_trace), (-1.0, guide_trace)):
        for site in sample_sites(trace):
            left = _scale(site) / scale - 1
            if abs(left) > 1e-9:
                parts.append(sign * left * sum_by_datum([site], structure))
        for site in sample_sites(trace, loss_only=True):
            parts.append(sign * _scale(site) / scale * sum_by_datum([site], structure))
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0) if parts else None


def _scale(site: Site) -> float:
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() > 1:
        raise ValueError(
            f"site '{site['name']}' has a scale of shape {tuple(scale.shape)}: the objectives take a number; "
            f"leave rows out by a mask, or use Trace_ELBO"
        )
    return float(scale)
