r"""Whether a density integrates to 1 and draws follow it: on a grid, by a sum, or by bridge sampling.

Every statistic is a difference of means of bounded variables. Bernstein's inequality says how far chance can
take it, whatever the distributions are; a Bonferroni factor allows for the number of statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrovae.evaluation.weights import khat_threshold, log_evidence, pareto_khat, standard_error
from pyrovae.models.distributions import MultivariateStudentT
from pyrovae.testing.coordinates import Draws, VectorDensity

__all__ = ["ALARM", "Integral", "by_bridge", "on_grid", "over_drawn_values", "over_values", "slack"]

ALARM = 1e-6  # probability that chance alone makes a site fail
SPREAD = 4.0  # range of a statistic
ROUNDING = 0.01  # standard deviations: smaller differences of means may be due to rounding
STEPS, REACH = 601, 15.0  # the grid's ends are sinh(15) = 1.6 million scales away
PEAKS = 0.01  # share of draws that a grid may step over
FINE, TOLERANCE = 1e-3, 2e-3  # nats: error of a usable grid, and of a complete sum
MOST_TERMS = 2**24
DEGREES = 10.0  # of the Student's t
FLOOR = 0.02  # nats: smaller errors of a bridged integral may be due to rounding


class Integral(NamedTuple):
    """The integral of each cell's density, and whether the draws follow it."""

    method: str
    log_total: Tensor  # [cells], log of the integral
    error: Tensor  # [cells], standard error of log_total
    wrong: Tensor  # [cells], whether log_total is further from 0 than chance explains
    misfit: tuple[int | None, str] | None  # of draws and density: the cell, None for all together, and what
    blame: str  # which of the two is wrong, "density" or "draws"; "" if unknown


def on_grid(density: VectorDensity, fit: Draws, test: Draws) -> Integral:
    r"""One real number: the trapezoid rule in t, with u = c + s sinh(t), which reaches far into heavy tails.

    Centre c and scale s are those of the draws ``fit``. The error is the change without every other point.
    A tail that goes on beyond the grid, or beyond the floats, is judged by the draws within.
    """
    low, centre, high = fit.points[..., 0].quantile(fit.points.new_tensor([0.1, 0.5, 0.9]), 0)
    scale = ((high - low) / 2.6).clamp(min=1e-12)
    t = torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64, device=scale.device)[:, None]
    points = centre + scale * t.sinh()
    nodes = Draws(points[..., None], density.log_prob(points[..., None]))
    log_mass = nodes.log_density + (scale * t.cosh() * (t[1] - t[0])).log()
    log_total = log_mass.logsumexp(0)
    error = (log_mass[::2].logsumexp(0) + math.log(2) - log_total).abs().nan_to_num(nan=math.inf)
    error = error.masked_fill(_share_in_peaks(nodes, test) > PEAKS, math.inf)
    finite = log_mass.isfinite().int()
    ends = torch.stack([finite.argmax(0), STEPS - 1 - finite.flip(0).argmax(0)])
    complete = (log_mass.gather(0, ends) - log_total < math.log(1e-4 * FINE)).all(0)
    first, last = points.gather(0, ends)
    inside = (test.points[..., 0] >= first) & (test.points[..., 0] <= last)
    return _summed("on a grid", nodes, log_mass, fit, test, inside, complete, error)


def over_values(density: VectorDensity, fit: Draws, test: Draws) -> Integral | None:
    """Every discrete value: enumerated, or the lattice on which the draws lie; None if there are too many."""
    points = density.enumerated()
    complete = points is not None or density.support is not None
    if points is None and not density.shape:
        points = _lattice(torch.cat([fit.points, test.points]), beyond=complete)
    if points is None or len(points) * density.cells > MOST_TERMS:
        return None
    points = points.expand(-1, density.cells, -1)
    nodes = Draws(points, density.log_prob(points))
    inside = torch.ones_like(test.log_density, dtype=torch.bool)
    whole = torch.full_like(inside[0], complete)
    return _summed(f"over {len(points)} values", nodes, nodes.log_density, fit, test, inside, whole)


def over_drawn_values(density: VectorDensity, fit: Draws, test: Draws) -> Integral:
    """Too many discrete values: the sum over those in ``fit``, against their share in ``test``."""
    count = len(fit.points)
    log_mass = torch.full_like(fit.log_density, -math.inf)
    inside = torch.zeros_like(test.log_density, dtype=torch.bool)
    for cell in range(density.cells):
        values = torch.cat([fit.points, test.points])[:, cell].cpu().numpy()
        _, first, which = np.unique(values, axis=0, return_index=True, return_inverse=True)
        known = first < count  # first: where a value comes first
        log_mass[first[known], cell] = fit.log_density[first[known], cell]
        inside[:, cell] = torch.as_tensor(known[which.reshape(-1)[count:]])
    return _summed("over the values drawn", fit, log_mass, fit, test, inside, torch.zeros_like(inside[0]))


def by_bridge(density: VectorDensity, fit: Draws, test: Draws) -> Integral:
    r"""Several real numbers: bridge sampling between the density f and a proposal r fitted to draws.

    .. math:: E_r\Big[\frac{f}{f + r}\Big] = \int \frac{f r}{f + r} = E_p\Big[\frac{r}{f + r}\Big]

    holds if f is p, the density of the draws, also with any bounded function under the integral. The
    estimate of Z is that for which it holds with f / Z (Bennett, 1976; Meng and Wong, 1996).
    """
    count, proposal = len(test.points), _fitted(fit.points)
    points = proposal.sample((count,))
    ours = Draws(points, density.log_prob(points))
    ratios = [draws.log_density - proposal.log_prob(draws.points) for draws in (ours, test)]
    alone = log_evidence(ratios[0])  # by the proposal's draws, which know no sampler
    log_total = alone.clamp(-1e4, 1e4)
    for _ in range(100):  # the fixed point of Meng and Wong
        log_total = log_total + log_evidence(math.log(2) + logsigmoid(torch.cat(ratios) - log_total))
    up, down = (ratios[0] - log_total).sigmoid(), (log_total - ratios[1]).sigmoid()
    error = ((up.var(0) + down.var(0)) / count).sqrt() / up.mean(0)

    up, down = ratios[0].sigmoid(), (-ratios[1]).sigmoid()
    chance = slack(up.var(0) + down.var(0), 1.0, count, 2 * density.cells)
    wrong = ((up.mean(0) - down.mean(0)).abs() > chance) & (log_total.abs() > FLOOR)
    statistics = _standardised(fit)
    expected, drawn = up[..., None] * statistics(ours), down[..., None] * statistics(test)
    counts, overlap = torch.full_like(log_total, count), (up.mean(0) + down.mean(0)) / 2
    misfit = _worst(drawn.mean(0), expected.mean(0), drawn.var(0) + expected.var(0), counts, overlap)

    tolerance = (5 * standard_error(ratios[0])).clamp(min=FLOOR)
    cell, reliable = int(wrong.int().argmax()), pareto_khat(ratios[0]) < khat_threshold(count)
    of_density, of_draws = alone.abs() > tolerance, (alone - log_total).abs() > tolerance
    blame = "density" if of_density[cell] else "draws" if of_draws[cell] else ""
    blame = blame if reliable[cell] else ""
    return Integral("by bridge sampling", log_total, error.nan_to_num(nan=math.inf), wrong, misfit, blame)


def slack(variance: Tensor, spread: float, count: Tensor | float, tests: int) -> Tensor:
    r"""How far the mean of ``count`` bounded variables may be from its expectation (Bernstein's inequality).

    .. math:: P(|\bar g - E g| > t) \le 2 \exp \frac{-n t^2 / 2}{V + R t / 3}

    with the variance V and the range R, ``spread``, of one variable; ``tests`` means share a false alarm.
    """
    log_odds = math.log(2 * tests / ALARM)
    return (2 * variance * log_odds / count).sqrt() + 2 * spread * log_odds / (3 * count)


def _summed(
    method: str,
    nodes: Draws,
    log_mass: Tensor,
    fit: Draws,
    test: Draws,
    inside: Tensor,
    complete: Tensor,
    error: Tensor | float = 0.0,
) -> Integral:
    """Compare the sum of masses at nodes with the share of ``test`` inside, and means under it with theirs.

    ``complete`` states where the sum leaves nothing out; ``error`` is that of its log.
    """
    count, cells = inside.shape
    share = inside.double().mean(0)
    log_total = log_mass.logsumexp(0) - share.log()
    error = error + torch.zeros_like(log_total)
    chance = slack(share * (1 - share), 1.0, count, cells) / share
    wrong = log_total.abs() > torch.where(complete, TOLERANCE, chance.clamp(min=10 * TOLERANCE)) + 5 * error
    statistics, weights = _standardised(fit), log_mass.softmax(0).nan_to_num(nan=0.0)[..., None]
    expected = (weights * statistics(nodes)).sum(0)
    variance = (weights * (statistics(nodes) - expected).square()).sum(0)
    number = inside.sum(0).clamp(min=1)
    drawn = (inside[..., None] * statistics(test)).sum(0) / number[:, None]
    usable = (error < FINE) & (share > 0)
    misfit = _worst(torch.where(usable[:, None], drawn, expected), expected, variance, number)
    sampled = ((1 - share) / (share * count)).sqrt()
    error, blame = torch.where(complete, error, sampled + error), "density" if complete.all() else ""
    return Integral(method, log_total, error, wrong, misfit, blame)


def _standardised(fit: Draws) -> Callable[[Draws], Tensor]:
    """Bounded functions of a draw, in units of ``fit``: each number, its square and the log density."""
    means, scales = [values.mean(0) for values in fit], [values.std(0) for values in fit]
    scales = [torch.where((scale > 0) & scale.isfinite(), scale, 1.0) for scale in scales]

    def statistics(draws: Draws) -> Tensor:  # [count, cells, 2 * width + 1]
        draws = draws._replace(log_density=draws.log_density.clamp(min=-1e9))
        points, height = ((v - mean) / scale for v, mean, scale in zip(draws, means, scales, strict=True))
        return torch.cat(
            [points.clamp(-2, 2), points.square().clamp(max=4), height.clamp(-2, 2)[..., None]], -1
        )

    return statistics


def _worst(
    drawn: Tensor, expected: Tensor, variance: Tensor, count: Tensor, weight: Tensor | None = None
) -> tuple[int | None, str] | None:
    """The difference of means ``[cells, statistics]`` that chance explains least, if it does not explain it.

    All cells together count as one more. ``weight`` is what the means of each cell were multiplied by.
    """
    weight = torch.ones_like(drawn[:, 0]) if weight is None else weight
    drawn, expected, variance, weight = (
        torch.cat([values, values.mean(0, keepdim=True)]) for values in (drawn, expected, variance, weight)
    )
    count = torch.cat([count, count.sum(0, keepdim=True)])[:, None]
    ratio = (drawn - expected).abs() / (slack(variance, SPREAD, count, drawn.numel()) + ROUNDING)
    if not ratio.max() > 1:
        return None
    cell, which = divmod(int(ratio.argmax()), drawn.shape[1])
    width = drawn.shape[1] // 2
    name = ("the mean", "the spread", "the log density")[which // width]
    number = f" of number {which % width}" if width > 1 and which < 2 * width else ""
    ours, theirs = (values[cell, which].item() / weight[cell].item() for values in (drawn, expected))
    text = f"{name}{number} is {ours:.3g} among draws and {theirs:.3g} under the density, in standard units"
    return cell if cell < len(drawn) - 1 else None, text


def _share_in_peaks(nodes: Draws, test: Draws) -> Tensor:
    """Share of draws in peaks between two grid points: their density is over e times that of both."""
    values, grid = (draws.points[..., 0].T.contiguous() for draws in (test, nodes))
    right = torch.searchsorted(grid, values).clamp(1, STEPS - 1)
    left, right = (nodes.log_density.T.gather(1, index) for index in (right - 1, right))
    return (test.log_density.T - torch.maximum(left, right) > 1).double().mean(1)


def _lattice(points: Tensor, *, beyond: bool) -> Tensor | None:
    """Multiples of the smallest step between draws, as far again beyond them, ``[values, 1, 1]``."""
    values = points.unique()
    step = values.diff().min() if len(values) > 1 else values.new_ones(())
    places = (values - values[0]) / step
    margin = places[-1].ceil() + 10 if beyond else torch.zeros_like(step)
    number = round((places[-1] + 2 * margin).item()) + 1
    if number > MOST_TERMS or ((places - places.round()).abs() > 0.01).any():
        return None
    return (values[0] + step * (torch.arange(number, device=points.device) - margin)).reshape(-1, 1, 1)


def _fitted(points: Tensor) -> MultivariateStudentT:
    """The Student's t with the mean and covariance of points ``[count, cells, d]``."""
    loc = points.mean(0)
    centred = (points - loc).transpose(0, 1)
    covariance = centred.mT @ centred / (len(points) - 1)
    size = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12)
    scale_tril = torch.linalg.cholesky(covariance + (1e-6 * size).diag_embed())
    return MultivariateStudentT(DEGREES, loc, math.sqrt(1 - 2 / DEGREES) * scale_tril, validate_args=False)
