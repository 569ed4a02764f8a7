"""Integrals of a density whose values can be laid out: on a grid, or one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrovae.testing.comparisons import Features, Verdict, slack, worst_misfit
from pyrovae.testing.coordinates import Drawn, Flat

__all__ = ["on_grid", "over_seen", "over_values"]

STEPS, REACH = 601, 15.0  # the grid's ends are sinh(15) = 1.6 million scales away
MOST_TERMS = 2**24
SPIKES = 0.01  # share of draws
FINE, TOLERANCE = 1e-3, 2e-3  # nats: what a grid must be right to, and what a sum must be


def on_grid(flat: Flat, drawn: Drawn) -> Verdict:
    r"""One real number: the trapezoid rule in t, with u = c + s sinh(t).

    The substitution reaches far into heavy tails. The grid with every other point left out tells
    the error; centre and scale are the draws', then the density's own where those were too coarse.
    """
    count = len(drawn[0]) // 2
    quantiles = drawn[0][:count].quantile(drawn[0].new_tensor([0.1, 0.5, 0.9]), 0)[..., 0]
    t = torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64, device=quantiles.device)[:, None]
    for _ in range(4):
        centre, scale = quantiles[1], ((quantiles[2] - quantiles[0]) / 2.6).clamp(min=1e-12)
        points = centre + scale * t.sinh()
        volume = (scale * t.cosh() * (t[1] - t[0])).log()
        log_mass = flat.log_density(points[..., None]) + volume
        total, half = log_mass.logsumexp(0), log_mass[::2].logsumexp(0) + math.log(2)
        error = (half - total).abs().nan_to_num(nan=math.inf)
        coarse = error > FINE
        if not coarse.any():
            break
        quantiles = torch.where(coarse, _quantiles(points, log_mass), quantiles)
    error = error.masked_fill(_between(points, log_mass - volume, drawn) > SPIKES, math.inf)
    reached = log_mass.isfinite()
    first, last = reached.int().argmax(0), STEPS - 1 - reached.flip(0).int().argmax(0)
    ends = torch.stack([first, last])
    complete = (log_mass.gather(0, ends) - total < math.log(1e-4 * FINE)).all(0)
    low, high = points.gather(0, ends)
    inside = (drawn[0][count:, :, 0] >= low) & (drawn[0][count:, :, 0] <= high)
    return _verdict(flat, "on a grid", points[..., None], log_mass, drawn, inside, error, complete)


def over_values(flat: Flat, drawn: Drawn) -> Verdict | None:
    """Discrete values, all of them: enumerated, or the lattice that the draws lie on."""
    points = _enumerated(flat)
    complete = points is not None or flat.support is not None
    if points is None and not flat.shape:
        points = _lattice(drawn[0], beyond=complete)
    if points is None or len(points) * flat.cells > MOST_TERMS:
        return None
    points = points.expand(-1, flat.cells, -1)
    log_mass = flat.log_density(points)
    inside = torch.ones_like(drawn[1][len(drawn[1]) // 2 :], dtype=torch.bool)
    exact = torch.zeros_like(log_mass[0])
    all_of_them = torch.full_like(exact, complete, dtype=torch.bool)
    return _verdict(flat, f"over {len(points)} values", points, log_mass, drawn, inside, exact, all_of_them)


def over_seen(flat: Flat, drawn: Drawn) -> Verdict:
    """Discrete vectors: the values that half of the draws gave, against how often the others give them."""
    count = len(drawn[0]) // 2
    seen, test = drawn[0][:count], drawn[0][count:]
    log_mass = torch.full_like(drawn[1][:count], -math.inf)
    inside = torch.zeros_like(test[..., 0], dtype=torch.bool)
    for cell in range(flat.cells):
        values, where = drawn[0][:, cell].unique(dim=0, return_inverse=True)
        known = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        known[where[:count]] = True
        inside[:, cell] = known[where[count:]]
        once = torch.full((len(values),), count, device=values.device)  # where each value comes first
        order = torch.arange(count, device=values.device)
        once = once.scatter_reduce(0, where[:count], order, "amin")[known]
        log_mass[once, cell] = drawn[1][once, cell]
    exact = torch.zeros_like(log_mass[0])
    some_of_them = torch.zeros_like(exact, dtype=torch.bool)
    return _verdict(flat, "over the values drawn", seen, log_mass, drawn, inside, exact, some_of_them)


def _verdict(
    flat: Flat,
    how: str,
    points: Tensor,
    log_mass: Tensor,
    drawn: Drawn,
    inside: Tensor,
    error: Tensor,
    complete: Tensor,
) -> Verdict:
    """Hold the sum of the masses against the share of draws that it should have, and means too.

    Args:
        flat: The distribution.
        how: The sum, in words.
        points: What is summed over, ``[points, cells, width]``.
        log_mass: Log density, and of a grid log volume besides, ``[points, cells]``.
        drawn: Draws to standardise by, then as many to test.
        inside: Which of the latter are among what is summed over, ``[count, cells]``.
        error: Of the log sum, ``[cells]``.
        complete: Whether nothing is left out, ``[cells]``.
    """
    count = len(drawn[0]) // 2
    share = inside.double().mean(0)
    log_total = log_mass.logsumexp(0) - share.log()
    chance = slack(share * (1 - share), 1.0, count, flat.cells) / share
    sampled = (1 - share).sqrt() / (share * count).sqrt()
    wrong = log_total.abs() > torch.where(complete, TOLERANCE, chance.clamp(min=10 * TOLERANCE)) + 5 * error
    features = Features(drawn[0][:count], drawn[1][:count])
    # A grid's masses have its volumes in them: the density itself is asked for again.
    log_density = flat.log_density(points) if flat.map is not None else log_mass
    weights = log_mass.softmax(0).nan_to_num(nan=0.0)[..., None]
    at_points = features(points, log_density.clamp(min=-1e9))
    expected = (weights * at_points).sum(0)
    variance = (weights * (at_points - expected).square()).sum(0)
    chosen = inside.double()[..., None]
    at_draws = features(drawn[0][count:], drawn[1][count:])
    mean = (chosen * at_draws).sum(0) / chosen.sum(0).clamp(min=1)
    fine = (error < FINE) & (share > 0)
    mean = torch.where(fine[:, None], mean, expected)
    misfit = worst_misfit(features, mean, expected, variance, Features.spread, inside.sum(0).clamp(min=1))
    known = torch.where(complete, error, sampled + error)
    return Verdict(how, log_total, known, wrong, misfit, flat.width, "density" if complete.all() else "")


def _between(points: Tensor, log_density: Tensor, drawn: Drawn) -> Tensor:
    """The share of draws in peaks that the grid steps over, by their density above both neighbours'."""
    values, grid = drawn[0][..., 0].T.contiguous(), points.T.contiguous()
    right = torch.searchsorted(grid, values).clamp(1, len(points) - 1)
    left, right = (log_density.T.gather(1, index) for index in (right - 1, right))
    above = drawn[1].T - torch.maximum(left, right)
    return (above > 1).double().mean(1)


def _quantiles(points: Tensor, log_mass: Tensor) -> Tensor:
    """Where the mass on a grid has its 10, 50 and 90%, and no nearer than its neighbours: ``[3, cells]``."""
    share = log_mass.softmax(0).nan_to_num(nan=0.0).cumsum(0)
    levels = share.new_tensor([0.1, 0.5, 0.9])[:, None, None]
    index = (share < levels).sum(1).clamp(1, len(points) - 2)
    index = torch.stack([index[0] - (index[0] == index[2]).long(), index[1], index[2]])
    return points.gather(0, index)


def _enumerated(flat: Flat) -> Tensor | None:
    """Every value, ``[values, 1 or cells, width]``, where the distribution lists them."""
    try:
        values = flat.distribution.enumerate_support(expand=False)
    except (NotImplementedError, ValueError):  # it cannot, or there are too many
        return None
    return values.double().reshape(len(values), -1, flat.width)


def _lattice(drawn: Tensor, *, beyond: bool) -> Tensor | None:
    """Multiples of the smallest step between draws, as far again beyond them, ``[values, 1, 1]``."""
    values = drawn.unique()
    step = values.diff().min() if len(values) > 1 else values.new_ones(())
    low, high = values[0], values[-1]
    if beyond:
        margin = (high - low + 10 * step) / step
        low, high = low - margin.ceil() * step, high + margin.ceil() * step
    number = round(((high - low) / step).item()) + 1
    places = (values - low) / step
    if number > MOST_TERMS or ((places - places.round()).abs() > 0.01).any():
        return None
    return (low + step * torch.arange(number, device=drawn.device)).reshape(-1, 1, 1)
