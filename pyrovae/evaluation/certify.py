"""certify: one verdict from importance sampling, annealing and bounds from both sides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.data.rows import Data
from pyrovae.evaluation.annealing import ais_log_weights, bdmc
from pyrovae.evaluation.certificate import Certificate, Check
from pyrovae.evaluation.estimator import FEWEST_TO_STOP, Estimator, Settings
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.evaluation.proposals import Proposal, has_a_density
from pyrovae.evaluation.results import Evaluation
from pyrovae.evaluation.tiles import spaced, tiles
from pyrovae.evaluation.weights import log_evidence, standard_error

__all__ = ["certify"]

Value = TypeVar("Value")


def certify(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    proposal: str | Program | None = "auto",
    target_se: float | None = 0.1,
    max_samples: int | None = None,
    num_checked: int = 32,
    num_chains: int = 8,
    num_temperatures: int = 500,
    site: str = "x",
    tolerance: float = 0.5,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Certificate:
    r"""Say what the mean log p(x) is, how wrong that may be, and for which data; or that it is not known.

    Importance sampling from the best proposal cannot see a part of the posterior that its draws never visit.
    Two checks look for one. Annealing from the prior, on some of the data, is a lower bound too: an estimate
    above that of importance sampling shows that something was missed. On data simulated from the model,
    bidirectional Monte Carlo bounds log p(x) from above:

    .. math:: E[\log \hat p_{IS}] \le \log p(x) \le E[\log \hat p_{\text{upper}}]

    The mean is called known if no check finds more than importance sampling, on average or for any datum; at
    most a tenth of the data are doubtful, and these are left out; annealing comes close enough to be a check;
    and two Monte Carlo errors, the expected bias and the largest excess that the checks allow add up to less
    than the tolerance. Where the model is bad, simulated data differ from the real ones.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: Data, as :func:`pyrovae.evaluate` takes them.
        num_samples: Draws per datum; at least 100 are made where there is a target.
        proposal: Proposal, as for :func:`pyrovae.evaluate`.
        target_se: Standard error, in nats, that every datum is to reach.
        max_samples: Most draws of one datum.
        num_checked: Number of data annealed, evenly spaced, and of simulated data, n. Where none of these
            is off, up to 3 in n of all may still be.
        num_chains: Chains per datum of either check.
        num_temperatures: Temperatures of annealing from the prior; the bounds, which start at the proposal,
            have a fifth of them.
        site: The model's site of the data, used to simulate.
        tolerance: Nats within which the mean is to be known.
        seed: Seed of the noise.
        device: Device that modules and data are moved to.
        progress: Whether to show a progress bar.

    Returns:
        The verdict, with the numbers behind it.

    Raises:
        ValueError: Any error of :func:`pyrovae.evaluate`. With latents that cannot be annealed the verdict
            says that nothing was checked.

    References:
        Grosse et al., Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo, 2015.
        arXiv:1511.02543; Wu et al., On the Quantitative Analysis of Decoder-Based Generative Models, 2017.
        arXiv:1611.04273

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=1.5)
        >>> found = certify(
        ...     oracle.model, oracle.guide, oracle.sample(50), num_temperatures=20, progress=False
        ... )
        >>> found.known, found.within < 0.2
        (True, True)
    """
    check_count("certify: num_checked", num_checked)
    check_positive("certify: tolerance", tolerance)
    chosen, start = _proposal(model, guide, proposal, data, num_samples, seed, device)
    estimate: Callable[..., Evaluation] = partial(
        evaluate,
        model,
        guide,
        num_samples=num_samples if target_se is None else max(num_samples, FEWEST_TO_STOP),
        proposal=None if chosen.program is guide else chosen.program,
        max_samples=max_samples,
        target_se=target_se,
        seed=seed,
        device=device,
    )
    result, seconds = _timed(lambda: estimate(data, progress=progress))
    result = replace(result, conventions={**result.conventions, **chosen.conventions})
    certificate = Certificate(result, tolerance=tolerance, seconds=seconds)
    try:
        rows, some = spaced(data, min(num_checked, len(result)), seed, device=device)
        options: dict[str, Any] = {"num_samples": num_chains, "seed": seed}
        annealed = _annealed(model, guide, some, result, rows, num_temperatures=num_temperatures, **options)
        certificate = replace(certificate, annealed=annealed, rows=rows)
        options |= {"num_temperatures": max(num_temperatures // 5, 1), "site": site}
        lower, upper = _bounds(model, start, some, estimate, **options)
    except Exception as error:  # what importance sampling found is not lost
        reason = " ".join(str(error).split()) or type(error).__name__
        return replace(certificate, unchecked=f"no more than that could be checked ({reason})")
    return replace(certificate, lower=lower, upper=upper)


def _proposal(
    model: Program,
    guide: Program,
    proposal: str | Program | None,
    data: Data,
    num_samples: int,
    seed: int,
    device: torch.device | str | None,
) -> tuple[Proposal, Program]:
    """The proposal, and the program that annealing starts from: the guide if the proposal has no density."""
    with mode(modules_of(model, guide, device), training=False), torch.no_grad():
        first = next(tiles(data, seed, device=device))
        settings = Settings(num_samples, seed=seed)
        prepared = Estimator.prepare(model, guide, proposal, data, first, settings)
        chosen = prepared.proposal
        usable = has_a_density(chosen.program, prepared.first.arguments)
    return chosen, chosen.program if usable else guide


def _annealed(
    model: Program, guide: Program, some: tuple[Tensor, ...], result: Evaluation, rows: Tensor, **options: Any
) -> Check:
    """Annealing from the prior on some rows, against importance sampling."""
    weights, seconds = _timed(lambda: ais_log_weights(model, guide, *some, start="prior", **options))
    values, errors = log_evidence(weights), standard_error(weights)
    return _against("annealing from the prior", values, errors, result, rows, seconds)


def _bounds(
    model: Program,
    start: Program,
    some: tuple[Tensor, ...],
    estimate: Callable[..., Evaluation],
    **options: Any,
) -> tuple[Check, Check]:
    """The lower and upper bounds of simulated data, against importance sampling of the same data."""
    bounds, seconds = _timed(lambda: bdmc(model, start, *some, **options))
    own = estimate((bounds.data, *some[1:]), progress=False)
    every, half = torch.arange(len(own)), seconds / 2
    lower, upper = "annealing, data of the model's own", "upper bound, data of the model's own"
    return (
        _against(lower, bounds.lower, bounds.lower_error, own, every, half),
        _against(upper, bounds.upper, bounds.upper_error, own, every, half),
    )


def _against(
    name: str, values: Tensor, errors: Tensor, result: Evaluation, rows: Tensor, seconds: float
) -> Check:
    """Another estimate of some rows, against importance sampling's."""
    both = (errors.cpu().square() + result.standard_error[rows].square()).sqrt()
    return Check(name, values.cpu() - result.log_evidence[rows], both, seconds)


def _timed(compute: Callable[[], Value]) -> tuple[Value, float]:
    started = time.perf_counter()
    value = compute()
    return value, time.perf_counter() - started
