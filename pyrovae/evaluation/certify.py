"""certify: importance sampling, annealing and bounds from both sides, put together in one verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.data.rows import Data
from pyrovae.evaluation.annealing import ais_log_weights, bdmc
from pyrovae.evaluation.certificate import Certificate, Check
from pyrovae.evaluation.evaluate import FEWEST_TO_STOP, evaluate, proposal_for
from pyrovae.evaluation.proposals import has_a_density
from pyrovae.evaluation.results import Evaluation
from pyrovae.evaluation.tiles import Memory, look, spaced, tiles
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

    Importance sampling estimates every datum, from the best proposal at hand and with more draws where
    they are needed. What it cannot see, a part of the posterior that its draws never visit, is looked for
    in two ways. Annealing from the prior runs on some of the data: its estimate is a lower bound too, so
    where it lies above, importance sampling has missed something. And on data that the model draws itself
    bidirectional Monte Carlo bounds log p(x) from above:

    .. math:: E[\log \hat p_{IS}] \le \log p(x) \le E[\log \hat p_{\text{upper}}]

    The mean is called known where no check finds more than importance sampling, on average or of any datum;
    no more than a tenth of the data are doubtful, which are left out of it; annealing comes near enough to
    be a check at all; and two Monte Carlo errors, the expected bias and the most that the checks leave open
    come to less than the tolerance. The upper bound is of data of the model's own: where the model is bad
    these differ from the real ones, for which annealing from the prior stands alone.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: As :func:`pyrovae.evaluate` takes it.
        num_samples: Draws per datum, 100 at least where there is a target.
        proposal: As of :func:`pyrovae.evaluate`.
        target_se: Standard error that every datum is to reach.
        max_samples: Most draws of one datum.
        num_checked: Data that are annealed, evenly spaced, and as many of the model's own. None of so many
            off leaves open that 3 in so many are.
        num_chains: Chains of each.
        num_temperatures: Of annealing from the prior, and a fifth of that between the bounds, which starts
            at the proposal; more make it dearer and the checks sharper.
        site: The model's site of the data, for data of its own.
        tolerance: Nats within which the mean is to be known.
        seed: Of all noise.
        device: Where modules and data go.
        progress: Show a progress bar.

    Returns:
        The verdict with all that is behind it.

    Raises:
        ValueError: As :func:`pyrovae.evaluate`. Latents that cannot be annealed are no error: the verdict
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
    modules, memory = modules_of(model, guide, device), Memory(None)
    with mode(modules, training=False), torch.no_grad():
        structure, first = look(model, guide, next(tiles(data, seed, device=device)))
        memory.fit(model, guide, structure, first, num_samples)
        chosen = proposal_for(model, guide, proposal, data, first, seed, "is", memory)
        start = chosen.program if has_a_density(chosen.program, first.arguments) else guide

    def by_draws(x: Data, **keywords: Any) -> Evaluation:
        return evaluate(
            model,
            guide,
            x,
            num_samples=num_samples if target_se is None else max(num_samples, FEWEST_TO_STOP),
            proposal=None if chosen.program is guide else chosen.program,
            max_samples=max_samples,
            target_se=target_se,
            seed=seed,
            device=device,
            **keywords,
        )

    found, seconds = _timed(lambda: by_draws(data, progress=progress))
    found = replace(found, conventions={**found.conventions, **chosen.said})
    certificate = Certificate(
        found, None, None, None, tolerance, "", seconds, torch.zeros(0, dtype=torch.long)
    )
    try:
        rows, some = spaced(data, min(num_checked, len(found)), seed, device=device)
        weights, spent = _timed(
            lambda: ais_log_weights(
                model,
                guide,
                *some,
                start="prior",
                num_temperatures=num_temperatures,
                num_samples=num_chains,
                seed=seed,
            )
        )
        annealed = _against(
            "annealing from the prior", log_evidence(weights), standard_error(weights), found, rows, spent
        )
        certificate = replace(certificate, annealed=annealed, rows=rows)
        few = max(num_temperatures // 5, 1)  # from the proposal, which is nearer
        bounds, spent = _timed(
            lambda: bdmc(
                model, start, *some, site=site, num_temperatures=few, num_samples=num_chains, seed=seed
            )
        )
        own = by_draws((bounds.data, *some[1:]), progress=False)
    except Exception as error:  # what was found by importance sampling is not lost
        why = " ".join(str(error).split()) or type(error).__name__
        return replace(certificate, unchecked=f"no more than that could be checked ({why})")
    every = torch.arange(len(own))
    return replace(
        certificate,
        lower=_against(
            "annealing, data of the model's own", bounds.lower, bounds.lower_error, own, every, spent / 2
        ),
        upper=_against(
            "upper bound, data of the model's own", bounds.upper, bounds.upper_error, own, every, spent / 2
        ),
    )


def _against(
    name: str, values: Tensor, errors: Tensor, found: Evaluation, rows: Tensor, seconds: float
) -> Check:
    """Another estimate of some rows, against importance sampling's."""
    both = (errors.cpu().square() + found.standard_error[rows].square()).sqrt()
    return Check(name, values.cpu() - found.log_evidence[rows], both, seconds)


def _timed(compute: Callable[[], Value]) -> tuple[Value, float]:
    started = time.perf_counter()
    value = compute()
    return value, time.perf_counter() - started
