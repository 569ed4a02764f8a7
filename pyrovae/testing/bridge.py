"""The integral of a density over several real numbers, from its own draws and a proposal's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrovae.evaluation.weights import khat_threshold, log_evidence, pareto_khat, standard_error
from pyrovae.testing.comparisons import Features, Verdict, slack, worst_misfit
from pyrovae.testing.coordinates import Drawn, Flat

__all__ = ["by_bridge"]

DEGREES = 5.0
FLOOR = 0.02  # nats: smaller errors of an integral are not told apart from rounding


def by_bridge(flat: Flat, drawn: Drawn) -> Verdict:
    r"""Bridge sampling between a density f and a proposal r of the draws' mean and covariance.

    .. math:: E_r\Big[\frac{f}{f + r}\Big] = \int \frac{f r}{f + r} = E_p\Big[\frac{r}{f + r}\Big]

    where p = f is what the draws come from. Both sides are means of numbers in [0, 1], so that the
    difference has an error that can be believed, whatever the tails; so it is with any bounded
    function under the integral. It is solved for the Z with f / Z in place of f. The proposal is
    half normal, half Student's t. Mass where neither draws goes unseen.

    References:
        Bennett, Efficient Estimation of Free Energy Differences, 1976; Meng and Wong, Simulating
        Ratios of Normalizing Constants via a Simple Identity, 1996.
    """
    count = len(drawn[0]) // 2
    (fit, theirs), (fit_density, density) = (part.split(count) for part in drawn)
    proposal = _Proposal(fit)
    ours = proposal.draw(count)
    ratio_ours = flat.log_density(ours) - proposal.log_density(ours)
    ratio_theirs = density - proposal.log_density(theirs)
    log_total = _solve(ratio_ours, ratio_theirs)
    error = _error(ratio_ours - log_total, ratio_theirs - log_total)

    up, down = ratio_ours.sigmoid()[..., None], (-ratio_theirs).sigmoid()[..., None]
    difference = (up.mean(0) - down.mean(0)).abs()[:, 0]
    chance = slack(up.var(0) + down.var(0), 1.0, count, 2 * flat.cells)[:, 0]
    wrong = (difference > chance) & (log_total.abs() > FLOOR)

    features = Features(fit, fit_density)
    at_ours = up * features(ours, (ratio_ours + proposal.log_density(ours)).clamp(min=-1e9))
    at_theirs = down * features(theirs, density)
    counts = torch.full_like(log_total, count)
    variance = at_ours.var(0) + at_theirs.var(0)
    misfit = worst_misfit(features, at_theirs.mean(0), at_ours.mean(0), variance, Features.spread, counts)
    if misfit is not None:  # told as means, not as parts of the integral
        weight = (up.mean(0) + down.mean(0))[:, 0] / 2
        weight = (weight.mean() if misfit.cell is None else weight[misfit.cell]).item()
        misfit = misfit._replace(drawn=misfit.drawn / weight, expected=misfit.expected / weight)
    blame = _blame(ratio_ours, log_total, wrong) if wrong.any() else ""
    return Verdict("by bridge sampling", log_total, error, wrong, misfit, flat.width, blame)


def _blame(ratio: Tensor, bridged: Tensor, wrong: Tensor) -> str:
    """What the proposal's draws alone, which know no sampler, say of the integral of the density."""
    cell = int(wrong.int().argmax())
    log_total, error = log_evidence(ratio)[cell], standard_error(ratio)[cell].item()
    if not pareto_khat(ratio)[cell] < khat_threshold(len(ratio)):
        return ""
    if log_total.abs() > max(5 * error, FLOOR):
        return "density"
    return "draws" if (log_total - bridged[cell]).abs() > max(5 * error, FLOOR) else ""


class _Proposal:
    """Half a normal, half a Student's t, both of the mean and covariance of points ``[count, cells, d]``."""

    def __init__(self, points: Tensor) -> None:
        count, _, self.width = points.shape
        self.loc = points.mean(0)
        centred = (points - self.loc).transpose(0, 1)
        covariance = centred.mT @ centred / (count - 1)
        size = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12)
        self.scale_tril = torch.linalg.cholesky(covariance + (1e-6 * size).diag_embed())
        self.stretch = math.sqrt((DEGREES - 2) / DEGREES)

    def draw(self, count: int) -> Tensor:
        noise = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        tails = torch.distributions.Chi2(self.loc.new_tensor(DEGREES)).sample(noise.shape[:2])
        tails = self.stretch * (DEGREES / tails).sqrt()
        size = torch.where(torch.rand_like(tails) < 0.5, tails, torch.ones_like(tails))
        return self.loc + size[..., None] * (self.scale_tril @ noise[..., None])[..., 0]

    def log_density(self, points: Tensor) -> Tensor:
        away = (points - self.loc).permute(1, 2, 0)
        square = torch.linalg.solve_triangular(self.scale_tril, away, upper=False).square().sum(1).T
        d, v = self.width, DEGREES
        log_volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        normal = -square / 2 - d / 2 * math.log(2 * math.pi)
        constant = math.lgamma((v + d) / 2) - math.lgamma(v / 2) - d / 2 * math.log(v * math.pi)
        student = constant - d * math.log(self.stretch) - (v + d) / 2 * (square / (v - 2)).log1p()
        return torch.logaddexp(normal, student) - math.log(2) - log_volume


def _solve(ours: Tensor, theirs: Tensor) -> Tensor:
    """The c at which mean sigmoid(ours - c) is mean sigmoid(c - theirs), by bisection: ``[cells]``."""
    low, high = torch.full_like(ours[0], -1e4), torch.full_like(ours[0], 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        above = (ours - middle).sigmoid().mean(0) > (middle - theirs).sigmoid().mean(0)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def _error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Standard error of the log integral, by the delta method."""
    parts = [ours.sigmoid(), (-theirs).sigmoid()]
    squares = [part.var(0) / len(part) / part.mean(0).square() for part in parts]
    return (squares[0] + squares[1]).sqrt().nan_to_num(nan=math.inf)
