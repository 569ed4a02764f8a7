"""certify: importance sampling, annealing and bounds from both sides, put together in one verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrovae.annealing import ais_log_weights, bdmc
from pyrovae.batching import Data
from pyrovae.evaluation import evaluate, proposal_for
from pyrovae.parameters import check_positive
from pyrovae.pareto import khat_threshold
from pyrovae.programs import Program, mode, modules_of
from pyrovae.proposals import has_a_density
from pyrovae.reductions import check_count, log_evidence, standard_error
from pyrovae.results import Evaluation
from pyrovae.tiles import Memory, look, spaced, tiles

__all__ = ["Certificate", "Check", "certify"]

SURE = 2.0
"""Standard errors that count as certain."""

FEW = 0.1
"""Share of doubtful data above which a mean of all is not known."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Check:
    """By how much another estimate exceeds importance sampling's, ``[rows]`` in nats, paired.

    Attributes:
        name: What was done.
        excess: The other estimate less importance sampling's, of each datum.
        errors: Its Monte Carlo standard errors.
        seconds: What it took.
    """

    name: str
    excess: Tensor
    errors: Tensor
    seconds: float

    @property
    def mean(self) -> float:
        """Over the data."""
        return self.excess.mean().item()

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for a single datum, which tells nothing of others."""
        rows = len(self.excess)
        return self.excess.std().item() / rows**0.5 if rows > 1 else math.inf

    @property
    def least(self) -> float:
        """What the mean excess surely is at least."""
        return self.mean - SURE * self.error

    @property
    def most(self) -> float:
        """What it surely is at most."""
        return self.mean + SURE * self.error

    @property
    def beyond(self) -> Tensor:
        """Data, by place, of which noise cannot explain the excess: above half a nat and four errors."""
        return (self.excess > (4 * self.errors).clamp(min=0.5)).nonzero()[:, 0]

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
        rows: Of the data that were annealed.
    """

    evaluation: Evaluation
    annealed: Check | None
    lower: Check | None
    upper: Check | None
    tolerance: float
    unchecked: str
    seconds: float
    rows: Tensor

    @property
    def doubtful(self) -> Tensor:
        """Rows whose k-hat is not reliable, or whose error missed the target."""
        return (~self._fine).nonzero()[:, 0]

    @property
    def _fine(self) -> Tensor:
        found = self.evaluation
        limit = torch.tensor([khat_threshold(int(draws)) for draws in found.draws], dtype=torch.float64)
        target = found.conventions.get("target_se", math.inf)
        fine = (found.khat < limit) & (found.standard_error <= target)
        return fine | (found.standard_error <= 1e-3 * min(target, 1.0))

    @property
    def mean(self) -> float:
        """Mean log p(x) of the data that are not doubtful, nats."""
        return self.evaluation.log_evidence[self._fine].mean().item()

    @property
    def statistical(self) -> float:
        """Two Monte Carlo errors of that mean and its expected bias, nats."""
        error = self.evaluation.standard_error[self._fine]
        return SURE * error.norm().item() / max(len(error), 1) + error.square().mean().item() / 2

    @property
    def within(self) -> float:
        """How far off that mean may be, nats: by the draws, and by what the checks leave open."""
        checks = [check for check in (self.annealed, self.upper) if check is not None]
        return self.statistical + max(0.0, *(check.most for check in checks), 0.0)

    @property
    def reason(self) -> str:
        """Why the mean is not known; empty where it is."""
        reasons = (self._missed(), self._few(), self.unchecked, self._powerless(), self._open())
        return next((reason for reason in reasons if reason), "")

    def _missed(self) -> str:
        for check in (self.annealed, self.lower):
            if check is None:
                continue
            if check.least > max(0.01, self.statistical):
                return (
                    f"{check.name} finds {check.mean:.2f} ± {check.error:.2f} nats more than importance "
                    f"sampling, so that its draws miss a part of the posterior"
                )
            if len(check.beyond):
                worst = int(check.excess.argmax())
                of_the_data = check is self.annealed
                where = f"datum {int(self.rows[worst])}" if of_the_data else "one of them"
                return (
                    f"{check.name} finds up to {check.excess[worst]:.2f} nats more than importance sampling, "
                    f"of {where}, so that its draws miss a part of that posterior"
                )
        return ""

    def _few(self) -> str:
        doubtful, rows = len(self.doubtful), len(self.evaluation)
        if doubtful <= FEW * rows:
            return ""
        return f"{doubtful:,} of {rows:,} data are doubtful: draw more, or look for a better proposal"

    def _powerless(self) -> str:
        if self.annealed is not None and self.annealed.most < -self.tolerance:
            return (
                f"{self.annealed.name} falls {-self.annealed.mean:.2f} ± {self.annealed.error:.2f} nats short "
                f"of importance sampling, too few temperatures to check it"
            )
        if self.upper is not None and self.upper.most < -self.tolerance:
            return (
                f"the upper bound lies {-self.upper.mean:.2f} ± {self.upper.error:.2f} nats below importance "
                f"sampling: one of the densities is not what it says"
            )
        return ""

    def _open(self) -> str:
        if self.within <= self.tolerance:
            return ""
        check = max((c for c in (self.annealed, self.upper) if c is not None), key=lambda c: c.most)
        if math.isinf(check.error):
            return "a single datum was checked, which tells nothing of others"
        return (
            f"{check.name} lies {check.mean:.2f} ± {check.error:.2f} nats above importance sampling: its draws "
            f"miss a part of the posterior, or the temperatures or data are too few to tell"
        )

    @property
    def known(self) -> bool:
        """Whether the mean is known within the tolerance."""
        return not self.reason

    @property
    def verdict(self) -> str:
        """One sentence."""
        found, doubtful = self.evaluation, len(self.doubtful)
        left = " and left out" if doubtful and self.known else ""
        rest = f"{doubtful:,} of {len(found):,} data doubtful{left}"
        if self.known:
            within = math.ceil(100 * self.within) / 100
            return f"mean log p(x) = {self.mean:.2f}, known to within {within:.2f} nats; {rest}"
        drawn = SURE * found.standard_error.nan_to_num(nan=1.0).norm().item() / len(found)
        least = found.log_evidence.mean().item() - drawn
        return f"mean log p(x) is not known, at least {least:.2f}; {rest}: {self.reason}"

    def __str__(self) -> str:
        header = (
            f"{'beside importance sampling':<46}{'data':>6}{'excess':>11}{'error':>10}{'most':>10}{'s':>9}"
        )
        checks = [check for check in (self.annealed, self.lower, self.upper) if check is not None]
        table = ["", header, *map(str, checks)] if checks else []
        if checks:
            clean = len(checks[-1].excess)
            table.append(
                f"none of {clean} that is off leaves open up to {min(3 / clean, 1):.0%} that are (at 95%)"
            )
        cost = f"importance sampling of {len(self.evaluation):,} data took {self.seconds:.0f} s"
        return "\n".join([self.verdict, *table, "", str(self.evaluation), cost])


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

    The mean is called known where no check finds more than importance sampling, on average or of any datum; no
    more than a tenth of the data are doubtful, which are left out of it; annealing comes near enough to be a
    check at all; and two Monte Carlo errors, the expected bias and the most that the checks leave open come
    to less than the tolerance. The upper bound is of data of the model's own: where the model is bad these
    differ from the real ones, for which annealing from the prior stands alone.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: As :func:`pyrovae.evaluate` takes it.
        num_samples: Draws per datum.
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
        _, first = look(model, guide, next(tiles(data, seed, device=device)))
        chosen = proposal_for(model, guide, proposal, data, first, seed, "is", memory)
        start = chosen.program if has_a_density(chosen.program, first.arguments) else guide

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

    found, seconds = _timed(lambda: by_draws(data, progress=progress))
    found = replace(found, conventions={**found.conventions, **chosen.said})
    certificate = Certificate(
        found, None, None, None, tolerance, "", seconds, torch.zeros(0, dtype=torch.long)
    )
    try:
        rows, some = spaced(data, min(num_checked, len(found)), seed, device=device)
        chains = {"num_samples": num_chains, "seed": seed}
        weights, spent = _timed(
            lambda: ais_log_weights(
                model, guide, *some, start="prior", num_temperatures=num_temperatures, **chains
            )
        )
        annealed = _against(
            "annealing from the prior", log_evidence(weights), standard_error(weights), found, rows, spent
        )
        certificate = replace(certificate, annealed=annealed, rows=rows)
        few = max(num_temperatures // 5, 1)  # from the proposal, which is nearer
        bounds, spent = _timed(lambda: bdmc(model, start, *some, site=site, num_temperatures=few, **chains))
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
