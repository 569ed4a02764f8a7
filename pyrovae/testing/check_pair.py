"""Is a pair of programs, and what their sites draw from, what everything else takes it for?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import Structure, inspect, sample_sites, traces
from pyrovae.core.random import stream
from pyrovae.evaluation.importance import log_weights
from pyrovae.testing.densities import Finding, check_density
from pyrovae.testing.gradients import check_gradients
from pyrovae.testing.programs import Arguments, check_shapes, few_rows, one_line, run
from pyrovae.testing.repeating import check_draws_apart, check_rows_apart

__all__ = ["Report", "check_pair"]

ROWS = 3
"""Rows whose densities are integrated: a network's parameters at a few values of its input."""

WEIGHTS = 8
"""Draws whose log-weights have to be finite."""


@dataclass(frozen=True)
class Report:
    """What :func:`check_pair` verified, and what it could not, a line each.

    Attributes:
        verified: Lines of what holds.
        unverified: Lines of what could not be looked into, with the reason.
    """

    verified: list[str]
    unverified: list[str]

    def __str__(self) -> str:
        lines = ["verified", *(f"  {line}" for line in self.verified)]
        rest = self.unverified or ["nothing is left"]
        return "\n".join([*lines, "not verified", *(f"  {line}" for line in rest)])


def check_pair(
    model: Program, guide: Program, *args: Any, num_samples: int = 2000, seed: int = 0, **kwargs: Any
) -> Report:
    r"""Check programs of your own, or a VAE with parts of your own, on a batch of data.

    .. math:: \int p(z) \, dz = 1, \quad \int q(z \mid x) \, dz = 1, \quad \int p(x \mid z) \, dx = 1,
        \qquad E_r\Big[\frac{g p}{p + r}\Big] = E_p\Big[\frac{g r}{p + r}\Big]

    In this order: shapes, widths, plates and supports; log densities that are finite floats; each
    site's integral, at the first three rows, and whether its draws follow its density; gradients;
    several draws at once against one by one; log-weights.

    Discrete values are summed over, single numbers put on a grid (each element, where they are
    independent), and vectors bridged: the identity on the right, for a proposal r and bounded
    functions g, 1 among them, holds where p integrates to 1 and draws follow it. Both sides are means
    of bounded numbers; Bernstein's inequality, with their variance as measured, makes a right site
    fail by chance about once in a million. Modules run in evaluation mode. Parameters, their
    gradients, modes and the random state are left as they were.

    What it does not see: mass that neither the draws nor the proposal reach, draws that are not
    independent of each other, and a density that is wrong for other rows and parameters than these.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: What both are called with; of tensors as long as the data, the first rows are looked at
            more closely.
        num_samples: Draws that are tested, as many to prepare with, and as many of the proposal. A
            vector's integral is known to 0.003 nats in 2 dims, 0.01 in 16 and 0.025 in 64 where it is
            near normal; one known to no better than 0.02 counts as not verified.
        seed: Of all draws.
        kwargs: What both are called with, by keyword.

    Returns:
        What was verified, and what could not be and why. ``str()`` of it is for reading.

    Raises:
        ValueError: The first thing that is wrong, in a line: the site, what it is, and the mend.

    References:
        Meng and Wong, Simulating Ratios of Normalizing Constants via a Simple Identity, 1996; Vehtari
        et al., Pareto Smoothed Importance Sampling, 2024, for what tells a wrong density from wrong
        draws. arXiv:1507.02646

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.tensor([[1.0], [2.0]]), noise=0.5)
        >>> report = check_pair(oracle.model, oracle.guide, oracle.sample(5))
        >>> print(report.verified[2])
        site 'z' of the model (Normal): integrates to 1.0000, on a grid; draws follow it
        >>> print(report.unverified[0])
        site 'z' of the guide: its draws depend on no parameter
    """
    check_count("num_samples", num_samples)
    given = args, kwargs
    with stream("check pair", seed), mode(modules_of(model, guide), training=False):
        structure = _check_structure(model, guide, given)
        findings = [Finding("programs", f"plate '{structure.plate}', a weight for each datum", True)]
        with one_line(), torch.no_grad():
            few, finding = _check_rows(model, guide, given, structure)
            findings += [finding, *_check_densities(model, guide, few, num_samples)]
        findings += check_gradients(model, guide, given)
        with torch.no_grad():
            check_draws_apart(model, guide, given, structure)
            findings.append(Finding("draws", "the same densities at once and one by one", True))
            findings.append(_check_weights(model, guide, given))
    good, open_ends = ([str(f) for f in findings if f.verified is wanted] for wanted in (True, False))
    return Report(good, open_ends)


def _check_structure(model: Program, guide: Program, given: Arguments) -> Structure:
    """Each program by itself, then the two together."""
    with torch.no_grad():
        check_shapes(run("guide", guide, given), run("model", model, given))
        with one_line():
            return inspect(model, guide, *given[0], **given[1])


def _check_rows(
    model: Program, guide: Program, given: Arguments, structure: Structure
) -> tuple[Arguments, Finding]:
    """The first rows, which have the densities that they have among others; all, if there are few."""
    site = next(sample_sites(run("model", model, given)))
    size = next(f.size for f in site["cond_indep_stack"] if f.vectorized and f.dim == structure.dim)
    few = few_rows(given, size, ROWS)
    if size <= ROWS:
        return given, Finding("rows", f"{size} are too few to leave some out", False)
    try:
        with one_line():
            inspect(model, guide, *few[0], **few[1])
    except ValueError as error:
        return given, Finding("rows", f"the programs do not run on the first {ROWS} alone ({error})", False)
    mixed = check_rows_apart(model, guide, given, few, ROWS, structure.dim)
    if mixed:
        text = f"site '{mixed[0]}' of the guide has a density that depends on the rest of the batch"
        return few, Finding("rows", text, False)
    return few, Finding("rows", "the same densities among other rows and without them", True)


def _check_densities(model: Program, guide: Program, few: Arguments, num_samples: int) -> Iterator[Finding]:
    """Every site's distribution, given the guide's draws; without validation, to ask beyond the support."""
    with pyro.validation_enabled(False):
        guide_trace, model_trace = traces(model, guide, *few)
        for whose, trace in (("model", model_trace), ("guide", guide_trace)):
            for site in sample_sites(trace):
                yield check_density(f"site '{site['name']}' of the {whose}", site["fn"], num_samples)


def _check_weights(model: Program, guide: Program, given: Arguments) -> Finding:
    weights = log_weights(model, guide, *given[0], num_samples=WEIGHTS, **given[1])
    if weights.isnan().any() or weights.isposinf().any():
        raise ValueError(
            f"log-weights: one of row {_row(weights.isnan() | weights.isposinf())} is nan or inf: look for a "
            f"guide so narrow that its density overflows"
        )
    lost = weights.isneginf()
    if lost.all(0).any():
        raise ValueError(
            f"log-weights: all {WEIGHTS} of row {_row(lost.all(0))} are -inf, as if p(x) = 0: let the guide "
            f"draw where the model has a density, and the likelihood give the data one"
        )
    text = f"finite, but for {lost.double().mean():.0%} of -inf" if lost.any() else "finite"
    return Finding("log-weights", text, True)


def _row(bad: torch.Tensor) -> int:
    return int(bad.reshape(-1, bad.shape[-1]).any(0).int().argmax())
