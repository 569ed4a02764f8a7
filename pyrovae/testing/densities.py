"""One site's distribution: does its density integrate to 1, and do its draws follow it?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from pyrovae.core.supports import is_delta
from pyrovae.core.wrap import family_of
from pyrovae.testing.coordinates import Draws, VectorDensity, base_of
from pyrovae.testing.integrals import Integral, by_bridge, on_grid, over_drawn_values, over_values

__all__ = ["Finding", "check_density"]

MOST_NUMBERS = 2**24  # of all draws together
KNOWN = 0.02  # nats: an integral of a smaller error counts as known
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
    """Whether a density integrates to 1 and draws follow it; a ValueError if not."""
    where = f"{where} ({family_of(distribution)})"
    if is_delta(distribution):
        return Finding(where, "a point has no density to integrate", False)
    integral = None
    try:
        density = VectorDensity(base_of(distribution))
        count = max(min(num_samples, MOST_NUMBERS // (2 * density.cells * max(density.width, 1))), 2)
        drawn = density.sample(2 * count)
        doubt = _doubt(density, drawn, distribution)
    except NotImplementedError as error:
        doubt = " ".join(str(error).split()) or "it has no draws"
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not doubt:
        try:
            integral = _integrate(density, *drawn.halves())
        except (ValueError, RuntimeError) as error:
            doubt = f"it refuses values other than its draws, {' '.join(str(error).split())}"
    if integral is None:
        return Finding(where, doubt, False)
    _refuse(where, integral, density, distribution)
    return _describe(where, integral, density, distribution)


def _integrate(density: VectorDensity, fit: Draws, test: Draws) -> Integral:
    if density.discrete:
        return over_values(density, fit, test) or over_drawn_values(density, fit, test)
    integral = on_grid(density, fit, test) if density.width == 1 else None
    known = integral is not None and bool((integral.error < KNOWN).all())
    return integral if integral and known else by_bridge(density, fit, test)


def _doubt(density: VectorDensity, drawn: Draws, distribution: Any) -> str:
    """Why the integral cannot be known, else empty; a ValueError if draws have no finite log density."""
    infinite = ~drawn.log_density.isfinite()
    share = infinite.double().mean(0)
    cell = int(share.argmax())
    if share[cell] > INFINITE:
        value = drawn.log_density[:, cell][infinite[:, cell]][0].item()
        mend = "keep parameters and draws off the ends of the support, or clamp them"
        mend = mend if value == value else "look for a log or a root of what may be negative"
        place = _place(cell, density, distribution)
        raise ValueError(f"log_prob is {value:g} on {share[cell]:.0%} of its own draws{place}: {mend}")
    if share[cell]:
        return "a few draws have no finite density: they round to the ends of the support"
    if density.discrete:
        return ""
    repeats = (drawn.points.sort(0).values.diff(dim=0) == 0).double().mean(0)
    if repeats.numel() and repeats.max() > REPEATS:
        return "draws repeat, by rounding or as points of mass, and a density cannot be integrated over those"
    if density.width > 1 and len(drawn.points) < 2 * FEWEST_PER_NUMBER * density.width:
        return f"{density.width} numbers need num_samples={FEWEST_PER_NUMBER * density.width} or more"
    return ""


def _refuse(where: str, integral: Integral, density: VectorDensity, distribution: Any) -> None:
    """Raise a ValueError if the integral is not 1, or the draws do not follow the density."""
    if integral.wrong.any():
        cell = int(torch.where(integral.wrong, integral.log_total.abs(), -math.inf).argmax())
        log_total, error = integral.log_total[cell].item(), integral.error[cell].item()
        total = f"{math.exp(log_total):.4g}" if abs(log_total) < 20 else f"exp({log_total:.4g})"
        place = _place(cell, density, distribution)
        if integral.blame == "draws":
            raise ValueError(
                f"{where}: its draws do not follow its density{place}: it integrates to 1, and judged by its "
                f"own draws to {total}: let sample() and log_prob use the same parameters"
            )
        mend = _mend(log_total, density.width)
        if not integral.blame:
            mend += "; or, if log_prob is right, let sample() draw from it: the two do not fit"
        total = f"{total} (log {log_total:.4g} +- {error:.1g}){place}"
        raise ValueError(f"{where}: its density integrates to {total}, not to 1: {mend}")
    if integral.misfit is not None:
        cell_or_none, text = integral.misfit
        place = "" if cell_or_none is None else _place(cell_or_none, density, distribution)
        raise ValueError(
            f"{where}: its draws do not follow its density{place}: {text}: let sample() and log_prob use the "
            f"same parameters"
        )


def _mend(log_total: float, width: int) -> str:
    """What to do about an integral, by its value."""
    total = math.exp(min(log_total, 20.0))
    if math.isinf(log_total):
        return "log_prob is -inf where draws are"
    if abs(log_total - width * math.log(2 * math.pi) / 2) < 0.02 * width:
        return f"log_prob lacks the normal's -log(2 pi) / 2 for each of {width} numbers"
    if 1.5 < total < 1000 and abs(total - round(total)) < 0.02 * total:
        return f"of a mixture, log_prob must weigh the {round(total)} components, log_softmax(logits)"
    verb = "subtract" if log_total > 0 else "add"
    return f"normalise it, or {verb} {abs(log_total):.4g} in log_prob"


def _describe(where: str, integral: Integral, density: VectorDensity, distribution: Any) -> Finding:
    error = integral.error.max().item()
    elements = density.batch_shape[len(distribution.batch_shape) :].numel()
    method = integral.method + (f", each of {elements} elements" if elements > 1 else "")
    if not error <= KNOWN:
        text = f"its integral is known to +-{error:.2g} only, {method}: ask for more num_samples"
        return Finding(where, text, False)
    verb = "sums to" if density.discrete else "integrates to"
    worst = integral.log_total[integral.log_total.abs().argmax()].exp().item()
    known = f" +- {error:.1g}" if error > 5e-5 else ""
    return Finding(where, f"{verb} {worst:.4f}{known}, {method}; draws follow it", True)


def _place(cell: int, density: VectorDensity, distribution: Any) -> str:
    """Which row of the batch a cell is, and which of its independent elements."""
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(cell), density.batch_shape))
    rows = len(distribution.batch_shape)
    parts = {"row": index[:rows], "element": index[rows:]}
    text = [f"{name} {part[0] if len(part) == 1 else part}" for name, part in parts.items() if part]
    return f" in {', '.join(text)}" if text else ""
