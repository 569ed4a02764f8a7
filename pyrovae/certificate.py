"""certify: importance sampling, annealing and bounds from both sides, put together in one verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.annealing import Bounds, ais_log_weights, bdmc
from pyrovae.batching import Data, num_rows
from pyrovae.evaluation import evaluate
from pyrovae.pareto import khat_threshold
from pyrovae.programs import Program, mode, modules_of, sample_sites
from pyrovae.proposals import choose
from pyrovae.reductions import check_count, log_evidence
from pyrovae.results import Evaluation
from pyrovae.streams import stream
from pyrovae.tiles import tiles

__all__ = ["Certificate", "Check", "certify"]

SURE = 2.0
"""Standard errors that count as certain."""

FEW = 0.1
"""Share of doubtful data above which a mean of all is not known."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Check:
    """By how much some other estimate exceeds importance sampling's, ``[rows]`` in nats, paired.

    Attributes:
        name: What was done.
        excess: The other estimate less importance sampling's, of each datum.
        seconds: What it took.
    """

    name: str
    excess: Tensor
    seconds: float

    @property
    def mean(self) -> float:
        """Over the data."""
        return self.excess.mean().item()

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.excess.std().item() / len(self.excess) ** 0.5

    @property
    def least(self) -> float:
        """What the mean excess surely is at least."""
        return self.mean - SURE * self.error

    @property
    def most(self) -> float:
        """What it surely is at most."""
        return self.mean + SURE * self.error

    def __str__(self) -> str:
        row = f"{self.mean:>+11.3f}{f'± {self.error:.3f}':>10}{self.excess.max():>+10.3f}"
        return f"{self.name:<46}{len(self.excess):>6}{row}{self.seconds:>9.0f}"


@dataclass(frozen=True)
class Certificate:
    """What :func:`certify` found; printed, the verdict and the table behind it.

    Attributes:
        evaluation: By importance sampling, of all data.
        annealed: Annealing from the prior against it, on some of the data.
        lower: Annealing's lower bound against it, on data of the model's own.
        upper: The upper bound against it, on the same: it is above log p(x), so that the excess bounds
            what importance sampling misses there.
        tolerance: Nats within which the mean counts as known.
        unchecked: Why there was no annealing, if there was none.
        seconds: What importance sampling took.
    """

    evaluation: Evaluation
    annealed: Check | None
    lower: Check | None
    upper: Check | None
    tolerance: float
    unchecked: str = ""
    seconds: float = 0.0
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def doubtful(self) -> Tensor:
        """Rows whose k-hat is not reliable, or whose error missed the target."""
        found = self.evaluation
        limit = torch.tensor([khat_threshold(int(draws)) for draws in found.draws], dtype=torch.float64)
        target = found.conventions.get("target_se", math.inf)
        fine = (found.khat < limit) & (found.standard_error <= target)
        fine |= found.standard_error <= 1e-3 * min(target, 1.0)
        return (~fine).nonzero()[:, 0]

    @property
    def statistical(self) -> float:
        """Two Monte Carlo errors of the mean and its expected bias, nats."""
        found = self.evaluation
        drawn = SURE * found.standard_error.norm().item() / len(found)
        return drawn + abs(found.bias.mean().item())

    @property
    def within(self) -> float:
        """How far off the mean may be, nats: by the draws, and by what the upper bound leaves open."""
        return self.statistical + (0.0 if self.upper is None else max(self.upper.most, 0.0))

    @property
    def reason(self) -> str:
        """Why the mean is not known; empty where it is."""
        for check in (self.annealed, self.lower):
            if check is not None and check.least > max(0.01, self.statistical):
                return (
                    f"{check.name} finds {check.mean:.2f} ± {check.error:.2f} nats more than importance "
                    f"sampling, so that its draws miss a part of the posterior"
                )
        if len(self.doubtful) > FEW * len(self.evaluation):
            return (
                f"{len(self.doubtful):,} of {len(self.evaluation):,} data are doubtful: draw more, or look "
                f"for a better proposal"
            )
        if self.upper is not None and not self.within <= self.tolerance:
            return (
                f"on data of the model's own the upper bound lies {self.upper.mean:.2f} ± "
                f"{self.upper.error:.2f} nats above importance sampling: its draws miss a part of the "
                f"posterior, or the temperatures are too few to tell"
            )
        return self.unchecked

    @property
    def known(self) -> bool:
        """Whether the mean is known within the tolerance."""
        return not self.reason

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = self.evaluation
        mean, doubtful = found.log_evidence.mean().item(), len(self.doubtful)
        rest = f"; {doubtful:,} of {len(found):,} data doubtful"
        if self.known:
            within = math.ceil(100 * self.within) / 100
            return f"mean log p(x) = {mean:.2f}, known to within {within:.2f} nats{rest}"
        return f"mean log p(x) is not known, it is above {mean - self.statistical:.2f}{rest}: {self.reason}"

    def __str__(self) -> str:
        header = (
            f"{'beside importance sampling':<46}{'data':>6}{'excess':>11}{'error':>10}{'most':>10}{'s':>9}"
        )
        checks = [check for check in (self.annealed, self.lower, self.upper) if check is not None]
        table = [header, *map(str, checks)] if checks else []
        cost = f"importance sampling of {len(self.evaluation):,} data took {self.seconds:.0f} s"
        return "\n".join([self.verdict, "", *table, "", str(self.evaluation), cost])


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
    num_temperatures: int = 200,
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

    The mean is called known where nothing contradicts it, no more than a tenth of the data are doubtful,
    and two Monte Carlo errors, the expected bias and the most that the upper bound leaves open come to
    less than the tolerance. The last is of data of the model's own: where the model is bad these differ
    from the real ones, for which annealing from the prior stands alone.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: As :func:`pyrovae.evaluate` takes it.
        num_samples: Draws per datum.
        proposal: As of :func:`pyrovae.evaluate`.
        target_se: Standard error that every datum is to reach.
        max_samples: Most draws of one datum.
        num_checked: Data that are annealed, evenly spaced, and as many of the model's own.
        num_chains: Chains of each.
        num_temperatures: Of annealing; more make it dearer and the bounds closer.
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
    first = next(tiles(data, seed, device=device))
    with mode(modules_of(model, guide, device), training=False), torch.no_grad():
        chosen = choose(model, guide, proposal, first.arguments, seed)
        start = chosen.program if _has_a_density(chosen.program, first.arguments) else guide

    def by_draws(x: Data, **keywords: Any) -> Evaluation:
        return evaluate(
            model,
            guide,
            x,
            num_samples=num_samples,
            proposal=None if chosen.program is guide else chosen.program,
            max_samples=max_samples,
            target_se=target_se,
            seed=seed,
            device=device,
            **keywords,
        )

    evaluation, seconds = _timed(lambda: by_draws(data, progress=progress))
    evaluation = replace(evaluation, conventions={**evaluation.conventions, **chosen.said})
    rows = torch.linspace(0, num_rows(data) - 1, min(num_checked, num_rows(data))).round().long().unique()
    some = _rows_of(data, rows, seed, device)
    chains = {"num_samples": num_chains, "num_temperatures": num_temperatures, "seed": seed}
    try:
        weights, spent = _timed(lambda: ais_log_weights(model, guide, *some, start="prior", **chains))
        annealed = Check(
            "annealing from the prior", log_evidence(weights).cpu() - evaluation.log_evidence[rows], spent
        )
        bounds, spent = _timed(lambda: bdmc(model, start, *some, site=site, **chains))  # type: ignore[arg-type]
    except ValueError as error:
        unchecked = f"nothing but importance sampling was possible ({error})"
        return Certificate(evaluation, None, None, None, tolerance, unchecked, seconds, rows)
    own = by_draws((bounds.data, *some[1:]), progress=False).log_evidence
    lower, upper = _against(bounds, own, spent)
    return Certificate(evaluation, annealed, lower, upper, tolerance, "", seconds, rows)


def _against(bounds: Bounds, own: Tensor, seconds: float) -> tuple[Check, Check]:
    """Both bounds on data of the model's own, against importance sampling of the same."""
    return (
        Check("annealing, data of the model's own", bounds.lower.cpu() - own, seconds / 2),
        Check("upper bound, data of the model's own", bounds.upper.cpu() - own, seconds / 2),
    )


def _timed(compute: Callable[[], Value]) -> tuple[Value, float]:
    started = time.perf_counter()
    value = compute()
    return value, time.perf_counter() - started


def _has_a_density(program: Program, arguments: tuple[Tensor, ...]) -> bool:
    """Whether chains can start at a program: an auxiliary site has a density, what it sets has not."""
    with stream("certify, a look"):
        trace = poutine.trace(program).get_trace(*arguments)
    return not any(site["infer"].get("is_auxiliary") for site in sample_sites(trace))


def _rows_of(data: Data, rows: Tensor, seed: int, device: Any) -> tuple[Tensor, ...]:
    """Some rows of the data, as evaluate sees them."""
    found = []
    for tile in tiles(data, seed, device=device):
        here = rows[(rows >= tile.first) & (rows < tile.first + tile.rows)] - tile.first
        found.append(tuple(tensor[here.to(tensor.device)] for tensor in tile.arguments))
    return tuple(torch.cat(tensors) for tensors in zip(*found, strict=True))
