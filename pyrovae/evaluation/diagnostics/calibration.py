"""Whether q(z | x) is the posterior on average, by data that were drawn from the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import Structure, inspect, plain_errors, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.scoring import sum_by_datum
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data
from pyrovae.evaluation.diagnostics.bands import LEAST, band, p_value
from pyrovae.evaluation.diagnostics.kl import dimension_names
from pyrovae.evaluation.simulation import simulate

__all__ = ["Calibration", "calibration"]

ROWS_AT_ONCE = 64

MOST_POINTS, MOST_SHOWN = 100, 20


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibration` found of k quantities; printed, a table, the worst first.

    Attributes:
        names: Of the quantities: each dimension of each latent, and the likelihood.
        ranks: ``[n, k]``, how many draws of q are below the truth, from 0 to ``num_samples``.
        num_samples: Draws of q for each datum.
        coverage: Of the band of one quantity.
        points: ``[points]``, where the distribution of ranks, scaled to [0, 1], is looked at.
        difference: ``[points, k]``, its empirical distribution less the uniform one.
        lower: ``[points]``, of the band that holds the whole of one such curve.
        upper: ``[points]``, likewise.
        p_values: ``[k]``, by the same band.
    """

    names: tuple[str, ...]
    ranks: Tensor
    num_samples: int
    coverage: float
    points: Tensor
    difference: Tensor
    lower: Tensor
    upper: Tensor
    p_values: Tensor

    @property
    def outside(self) -> Tensor:
        """Whether a curve leaves its band, ``[k]``."""
        slack = 1e-9  # of divisions
        above, below = self.upper[:, None] + slack, self.lower[:, None] - slack
        return ((self.difference > above) | (self.difference < below)).any(0)

    @property
    def worst(self) -> list[int]:
        """All quantities, that of the least p-value first; of equal ones, that of the larger difference."""
        by_size = self.difference.abs().amax(0).argsort(descending=True, stable=True)
        return by_size[self.p_values[by_size].argsort(stable=True)].tolist()

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Of each quantity: "calibrated", or what q is against the truth by the larger of two deviations.

        Outside its band q is "too low" or "too high", by the mean rank; "too narrow" (overconfident) or "too
        wide", by how far ranks are from the middle; or "uneven", where neither is twice its error.
        """
        n = len(self.ranks)
        u = (self.ranks.double() + 0.5) / (self.num_samples + 1)
        shift = (u.mean(0) - 0.5) * math.sqrt(12 * n)
        spread = ((u - 0.5).abs().mean(0) - 0.25) * math.sqrt(48 * n)
        said = []
        for outside, mean, width in zip(self.outside.tolist(), shift.tolist(), spread.tolist(), strict=True):
            if not outside:
                said.append("calibrated")
            elif max(abs(mean), abs(width)) < 2:
                said.append("uneven")
            elif abs(mean) >= abs(width):
                said.append("too low" if mean > 0 else "too high")
            else:
                said.append("too narrow" if width > 0 else "too wide")
        return tuple(said)

    def __str__(self) -> str:
        n, k = self.ranks.shape
        width = max(16, *(len(name) + 2 for name in self.names))
        lines = [
            f"{n:,} data drawn from the model, {self.num_samples:,} draws of q each",
            f"{'':<{width}}{'mean rank':>10}{'p-value':>10}  q is",
        ]
        mean_rank, verdicts = self.ranks.double().mean(0) / self.num_samples, self.verdicts
        for i in self.worst[:MOST_SHOWN]:
            p = _shown(self.p_values[i].item())
            lines.append(f"{self.names[i]:<{width}}{mean_rank[i]:>10.3f}{p:>10}  {verdicts[i]}")
        if k > MOST_SHOWN:
            lines.append(f"and {k - MOST_SHOWN:,} more")
        least = self.p_values.min().item()
        least_of_all = "1" if k * least > 1 else _shown(least, k)
        lines.append(
            f"{int(self.outside.sum()):,} of {k:,} outside their {self.coverage:.0%} bands, where chance "
            f"puts {k * (1 - self.coverage):.2g}; smallest p-value, of {k:,} looked at: {least_of_all}"
        )
        return "\n".join(lines)


@torch.no_grad()
def calibration(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_simulations: int = 1000,
    num_samples: int = 99,
    coverage: float = 0.95,
    site: str | Sequence[str] = "x",
    seed: int = 0,
) -> Calibration:
    r"""Simulation-based calibration of q(z | x): where the true latents rank among its draws.

    .. math:: (z^*, x) \sim p(x, z), \quad z_1, \dots, z_L \sim q(z \mid x), \qquad
        r = \#\{ l : f(z_l) < f(z^*) \}

    If q is the posterior, r is uniform on 0, ..., L for any function f: here each dimension of each latent,
    and log p(x | z), without which a q that is the prior, whatever x, would pass. A q that is too narrow has
    too many ranks at both ends, one that is too high too many low ones. The distribution of the ranks is held
    against a band that holds all of it with the stated probability, for each f by itself. Ties, of discrete
    latents or of floats at an end, are broken at random.

    This is of data like the model's own, and on average over them: it says nothing of real data that the
    model does not resemble, and errors of opposite sign may cancel.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: What both are called with: rows to stand for simulated ones; other arguments are kept, in turn.
        num_simulations: Data drawn, n.
        num_samples: Draws of q for each, L.
        coverage: Of a quantity's band.
        site: The model's site of the data; of several observed sites all, in the order of the arguments.
        seed: Of all noise.

    Returns:
        Ranks, curves and verdicts; printed, a table; :func:`pyrovae.plots.calibration` draws it.

    Raises:
        ValueError: The model has no such site, or observes others too; as :func:`pyrovae.log_weights`.

    References:
        Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018.
        arXiv:1804.06788; Säilynoja et al., Graphical Test for Discrete Uniformity, 2022. arXiv:2103.10522;
        Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test
        Quantities Shapes Sensitivity, 2023, on log p(x | z). arXiv:2211.02383

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), shift=0.5)
        >>> calibration(oracle.model, oracle.guide, torch.zeros(1, 3)).verdicts[0]
        'too high'
    """
    check_count("calibration: num_simulations", num_simulations)
    check_count("calibration: num_samples", num_samples)
    if not 0 < coverage < 1:
        raise ValueError(f"calibration: coverage must be strictly between 0 and 1, got {coverage:g}")
    rows = [torch.cat(tensors) for tensors in zip(*batches(data, 512, "calibration", seed), strict=True)]
    structure, ranks = None, []
    names: tuple[str, ...] = ()
    with mode(modules_of(model, guide), training=False), plain_errors():
        for position, first in enumerate(range(0, num_simulations, ROWS_AT_ONCE)):
            turn = torch.arange(first, min(first + ROWS_AT_ONCE, num_simulations)) % len(rows[0])
            asked = [tensor[turn.to(tensor.device)] for tensor in rows]
            truth, given = simulate(model, *asked, site=site, caller="calibration", key=(seed, position))
            with stream("calibration", seed, position):
                structure = structure or inspect(model, guide, *given)
                found = _with_truth(model, guide, given, truth, num_samples, structure)
                names = tuple(found)
                values = torch.stack(list(found.values()), -1)
                ranks.append(_ranks(values).cpu())
    return _held_against_uniform(names, torch.cat(ranks), num_samples, coverage)


def _with_truth(
    model: Program, guide: Program, given: tuple[Any, ...], truth: Any, num_samples: int, structure: Structure
) -> dict[str, Tensor]:
    """Every quantity, of the truth and then of draws: ``[1 + num_samples, rows]`` by name.

    The likelihood of both comes from one run, so that rounding treats them alike.
    """
    with pyro.plate("_draws", num_samples, dim=structure.draws_dim):
        drawn = poutine.trace(guide).get_trace(*given)
    of_guide = {site["name"]: site for site in sample_sites(drawn)}
    known = poutine.Trace()
    found: dict[str, Tensor] = {}
    for site in sample_sites(truth):
        name, event_dim = site["name"], len(site["fn"].event_shape)
        if site["infer"].get("was_observed"):
            continue
        own, draws = site["value"], of_guide[name]["value"]
        own = own[(None,) * (draws.dim() - own.dim())]
        both = torch.cat([own.expand(1, *draws.shape[1:]), draws])
        known.add_node(name, **{**of_guide[name], "value": both})
        rows_first = both.movedim(structure.dim - event_dim, 1)
        inner = [size for size in rows_first.shape[2 : rows_first.dim() - event_dim] if size > 1]  # of plates
        numbers = rows_first.reshape(*rows_first.shape[:2], -1).double().unbind(-1)
        names = dimension_names(name, (*inner, *site["fn"].event_shape))
        found |= dict(zip(names, numbers, strict=True))
    with pyro.plate("_draws", num_samples + 1, dim=structure.draws_dim):
        scored = poutine.trace(poutine.replay(model, trace=known)).get_trace(*given)
    observed = [site for site in sample_sites(scored) if site["is_observed"]]
    return {**found, "log p(x|z)": sum_by_datum(observed, structure)}


def _shown(p: float, looked_at: int = 1) -> str:
    return f"{'<' if p <= LEAST else ''}{looked_at * p:.2g}"


def _ranks(values: Tensor) -> Tensor:
    """How many draws are below the truth, which comes first, ties broken at random: ``[rows, k]``."""
    truth, draws = values[0], values[1:]
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long().clamp(max=ties)


def _held_against_uniform(
    names: tuple[str, ...], ranks: Tensor, num_samples: int, coverage: float
) -> Calibration:
    n, steps = len(ranks), min(num_samples, MOST_POINTS)
    levels = torch.linspace(1, num_samples, steps, dtype=torch.float64).round().long()
    counts = torch.stack([(ranks < level).sum(0) for level in levels])
    z = levels.double() / (num_samples + 1)
    points = tuple(z.tolist())
    limits = band(n, points, coverage)
    lower, upper = (limit.double() / n - z for limit in (limits.lower, limits.upper))
    p_values = torch.tensor([p_value(each, n, points) for each in counts.unbind(1)], dtype=torch.float64)
    difference = counts.double() / n - z[:, None]
    return Calibration(names, ranks, num_samples, coverage, z, difference, lower, upper, p_values)
