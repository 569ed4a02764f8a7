"""check_pair: whether a pair of programs, and the distributions of its sites, are sound."""

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
from pyrovae.testing.programs import (
    Arguments,
    check_draws_apart,
    check_gradients,
    check_rows_apart,
    check_shapes,
    few_rows,
    one_line,
    run,
)

__all__ = ["Report", "check_pair"]

ROWS = 3  # whose densities are integrated: a network's parameters at a few values of its input
WEIGHTS = 8  # draws whose log-weights have to be finite


@dataclass(frozen=True)
class Report:
    """What :func:`check_pair` verified and what it could not; ``str()`` of it is for reading.

    Attributes:
        verified: Lines of what holds.
        unverified: Lines of what could not be checked, with the reason.
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

    The checks, in this order: shapes, widths, plates and supports; log densities are finite floats; each
    site's density integrates to 1 at the first three rows, and its draws follow it; gradients; several draws
    at once have the densities that they have one by one; log-weights are finite.

    Discrete densities are summed, those of single numbers integrated on a grid (each element by itself if
    they are independent), and those of vectors by bridge sampling: the identity on the right holds for a
    proposal r and bounded functions g if p integrates to 1 and the draws follow it. By Bernstein's
    inequality, a correct site fails about once in a million calls. Modules run in evaluation mode.
    Parameters, their gradients, modes and the random state are left unchanged.

    It does not see probability mass that neither the draws nor the proposal reach, draws that depend on each
    other, or a density that is wrong at other rows or parameters.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Arguments of both programs. Tensors as long as the data are also cut to their first rows.
        num_samples: Number of draws per site that are tested. As many more are drawn to standardise with, and
            from the proposal. The integral of a near-normal vector is known to 0.003 nats in 2 dimensions,
            0.01 in 16 and 0.025 in 64; one that is not known to 0.02 counts as not verified.
        seed: Seed of all draws.
        kwargs: Keyword arguments of both programs.

    Returns:
        The lines of what was verified, and of what could not be and why.

    Raises:
        ValueError: The first fault, in one line: the site, what is wrong, and how to mend it.

    References:
        Meng and Wong, Simulating Ratios of Normalizing Constants via a Simple Identity, 1996; Vehtari
        et al., Pareto Smoothed Importance Sampling, 2024, to tell a wrong density from wrong draws.
        arXiv:1507.02646

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
        with torch.no_grad():
            check_shapes(run("guide", guide, given), run("model", model, given))
            with one_line():
                structure = inspect(model, guide, *args, **kwargs)
        findings = [Finding("programs", f"plate '{structure.plate}', a weight for each datum", True)]
        with one_line(), torch.no_grad():
            few, finding = _check_rows(model, guide, given, structure)
            findings += [finding, *_check_densities(model, guide, few, num_samples)]
        findings += check_gradients(model, guide, given)
        with torch.no_grad():
            check_draws_apart(model, guide, given, structure)
            findings.append(Finding("draws", "the same densities at once and one by one", True))
            findings.append(_check_weights(model, guide, given))
    return Report(*([str(f) for f in findings if f.verified is wanted] for wanted in (True, False)))


def _check_rows(
    model: Program, guide: Program, given: Arguments, structure: Structure
) -> tuple[Arguments, Finding]:
    """Arguments of the first rows, or of all if there are few, and whether rows have their own densities."""
    few = few_rows(given, structure.rows, ROWS)
    if structure.rows <= ROWS:
        return given, Finding("rows", f"{structure.rows} are too few to leave some out", False)
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
    """Check the density of each site, without validation: a grid reaches beyond the support."""
    with pyro.validation_enabled(False):
        guide_trace, model_trace = traces(model, guide, *few)
        for whose, trace in (("model", model_trace), ("guide", guide_trace)):
            for site in sample_sites(trace):
                yield check_density(f"site '{site['name']}' of the {whose}", site["fn"], num_samples)


def _check_weights(model: Program, guide: Program, given: Arguments) -> Finding:
    weights = log_weights(model, guide, *given[0], num_samples=WEIGHTS, **given[1])
    bad, lost = (weights.isnan() | weights.isposinf()).any(0), weights.isneginf()
    if bad.any():
        raise ValueError(
            f"log-weights: one of row {int(bad.int().argmax())} is nan or inf: look for a guide so narrow "
            f"that its density overflows"
        )
    if lost.all(0).any():
        raise ValueError(
            f"log-weights: all {WEIGHTS} of row {int(lost.all(0).int().argmax())} are -inf, as if p(x) = 0: "
            f"let the guide draw where the model has a density, and the likelihood give the data one"
        )
    text = f"finite, but for {lost.double().mean():.0%} of -inf" if lost.any() else "finite"
    return Finding("log-weights", text, True)
