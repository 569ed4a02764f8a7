"""One site's distribution: does its density integrate to 1, and do its draws follow it?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from pyrovae.core.supports import is_delta
from pyrovae.core.wrap import family_of
from pyrovae.testing.bridge import by_bridge
from pyrovae.testing.comparisons import Verdict
from pyrovae.testing.coordinates import Drawn, Flat, bare
from pyrovae.testing.sums import on_grid, over_seen, over_values

__all__ = ["Finding", "check_density"]

MOST_NUMBERS = 2**24  # of all draws together
GOOD = 0.02  # nats: an integral known to less than this counts as known
REPEATS, INFINITE = 0.01, 0.01  # shares of draws
FEWEST_PER_NUMBER = 10


class Finding(NamedTuple):
    """A line of the report."""

    where: str
    text: str
    verified: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def check_density(where: str, distribution: Any, num_samples: int) -> Finding:
    """Hold a distribution's density against 1, and its draws against its density.

    Args:
        where: The site, for errors and the report.
        distribution: What the site draws from, of a few rows.
        num_samples: Draws in a cell of the batch, and as many to standardise by.

    Raises:
        ValueError: The integral is not 1; draws of another distribution; nan; a wrong shape.
    """
    where = f"{where} ({family_of(distribution)})"
    if is_delta(distribution):
        return Finding(where, "a point has no density to integrate", False)
    inner = bare(distribution)
    try:
        flat = Flat(inner)
        count = max(min(num_samples, MOST_NUMBERS // (2 * flat.cells * max(flat.width, 1))), 2)
        drawn = flat.draw(2 * count)
        doubt = _doubt(flat, drawn, distribution)
    except NotImplementedError as error:
        doubt = " ".join(str(error).split()) or "it has no draws"
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    verdict = None
    try:
        verdict = None if doubt else _integrate(flat, drawn)
    except (ValueError, RuntimeError) as error:
        doubt = f"it refuses values other than its draws, {' '.join(str(error).split())}"
    if doubt or verdict is None:
        return Finding(where, doubt or "its values are too many to add up", False)
    _refuse(where, verdict, lambda cell: _place(cell, flat, distribution))
    return _describe(where, verdict, flat, distribution)


def _integrate(flat: Flat, drawn: Drawn) -> Verdict | None:
    if flat.discrete:
        return over_values(flat, drawn) or (over_seen(flat, drawn) if flat.shape else None)
    found = on_grid(flat, drawn) if flat.width == 1 else None
    return found if found and bool((found.error < GOOD).all()) else by_bridge(flat, drawn)


def _doubt(flat: Flat, drawn: Drawn, distribution: Any) -> str:
    """Why nothing can be said of an integral; empty where there is no reason.

    Raises:
        ValueError: The log density of its own draws is nan, or infinite for more than a few.
    """
    points, log_density = drawn
    infinite = ~log_density.isfinite()
    share = infinite.double().mean(0)
    cell = int(share.argmax())
    if share[cell] > INFINITE:
        value = log_density[:, cell][infinite[:, cell]][0].item()
        place = _place(cell, flat, distribution)
        mend = "keep parameters and draws off the ends of the support, or clamp them"
        mend = mend if value == value else "look for a log or a root of what may be negative"
        raise ValueError(f"log_prob is {value:g} on {share[cell]:.0%} of its own draws{place}: {mend}")
    if share[cell]:
        return "a few draws have no finite density: they round to the ends of the support"
    if flat.discrete:
        return ""
    ordered = points.sort(0).values
    repeats = (ordered.diff(dim=0) == 0).double().mean(0)
    if repeats.numel() and repeats.max() > REPEATS:
        return "draws repeat, by rounding or as points of mass, and a density cannot be integrated over those"
    if flat.width > 1 and len(points) < 2 * FEWEST_PER_NUMBER * flat.width:
        return f"{flat.width} numbers need num_samples={FEWEST_PER_NUMBER * flat.width} or more"
    return ""


def _refuse(where: str, verdict: Verdict, place: Callable[[int], str]) -> None:
    if verdict.wrong.any():
        off = torch.where(verdict.wrong, verdict.log_total.abs(), -math.inf)
        cell = int(off.argmax())
        log_total, error = verdict.log_total[cell].item(), verdict.error[cell].item()
        total = f"{_number(log_total)} (log {log_total:.4g} +- {error:.1g}){place(cell)}"
        if verdict.blame != "draws":
            mend = _constant(log_total, verdict.width)
            if not verdict.blame:
                mend += "; or, if log_prob is right, let sample() draw from it: the two do not fit"
            raise ValueError(f"{where}: its density integrates to {total}, not to 1: {mend}")
        raise ValueError(
            f"{where}: its draws do not follow its density{place(cell)}: it integrates to 1, and judged by "
            f"its own draws to {_number(log_total)}: let sample() and log_prob use the same parameters"
        )
    if verdict.misfit is not None:
        misfit = verdict.misfit
        at = "" if misfit.cell is None else place(misfit.cell)
        raise ValueError(
            f"{where}: its draws do not follow its density{at}: {misfit.feature} is {misfit.drawn:.3g} among "
            f"draws and {misfit.expected:.3g} under the density, in standard units: let sample() and "
            f"log_prob use the same parameters"
        )


def _constant(log_total: float, width: int) -> str:
    """What to do about an integral, by what it looks like."""
    total = math.exp(min(log_total, 20.0))
    if abs(log_total - width * math.log(2 * math.pi) / 2) < 0.02 * width:
        return f"log_prob lacks the normal's -log(2 pi) / 2 for each of {width} numbers"
    if 1.5 < total < 1000 and abs(total - round(total)) < 0.02 * total:
        return f"of a mixture, log_prob must weigh the {round(total)} components, log_softmax(logits)"
    verb = "subtract" if log_total > 0 else "add"
    if math.isinf(log_total):
        return "log_prob gives nothing where draws are"
    return f"normalise it, or {verb} {abs(log_total):.4g} in log_prob"


def _describe(where: str, verdict: Verdict, flat: Flat, distribution: Any) -> Finding:
    error = verdict.error.max().item()
    elements = flat.batch_shape[len(distribution.batch_shape) :].numel()
    each = f", each of {elements} elements" if elements > 1 else ""
    if not error <= GOOD:
        return Finding(
            where,
            f"its integral is known to +-{error:.2g} only, {verdict.how}{each}: ask for more num_samples",
            False,
        )
    verb = "sums to" if flat.discrete else "integrates to"
    worst = verdict.log_total[verdict.log_total.abs().argmax()].exp().item()
    known = f" +- {error:.1g}" if error > 5e-5 else ""
    return Finding(where, f"{verb} {worst:.4f}{known}, {verdict.how}{each}; draws follow it", True)


def _place(cell: int, flat: Flat, distribution: Any) -> str:
    """Which row of the batch a cell is, and which of its independent elements."""
    index = [int(i) for i in torch.unravel_index(torch.tensor(cell), flat.batch_shape)]
    rows = len(distribution.batch_shape)
    said = [
        f"{name} {part[0] if len(part) == 1 else tuple(part)}"
        for name, part in (("row", index[:rows]), ("element", index[rows:]))
        if part
    ]
    return f" in {', '.join(said)}" if said else ""


def _number(log_total: float) -> str:
    return f"{math.exp(log_total):.4g}" if abs(log_total) < 20 else f"exp({log_total:.4g})"
