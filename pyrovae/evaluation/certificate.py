"""What certify found, and what it lets one say: known within so many nats, or not known, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrovae.evaluation.results import Evaluation

__all__ = ["Certificate", "Check"]

SURE = 2.0
"""Standard errors that count as certain."""

FEW = 0.1
"""Share of doubtful data above which a mean of all is not known."""


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

    def summary(self) -> dict[str, Any]:
        """The numbers of its row."""
        return {
            "name": self.name,
            "rows": len(self.excess),
            "mean": self.mean,
            "error": self.error,
            "most": self.excess.max().item(),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        found = self.summary()
        error = f"± {found['error']:.3f}"
        row = f"{found['mean']:>+11.3f}{error:>10}{found['most']:>+10.3f}{found['seconds']:>9.0f}"
        return f"{found['name']:<46}{found['rows']:>6}{row}"


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
    annealed: Check | None = None
    lower: Check | None = None
    upper: Check | None = None
    tolerance: float = 0.5
    unchecked: str = ""
    seconds: float = 0.0
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def doubtful(self) -> Tensor:
        """Rows whose k-hat is not reliable, or whose error missed the target."""
        return (~self._fine).nonzero()[:, 0]

    @property
    def _fine(self) -> Tensor:
        found = self.evaluation
        target = found.conventions.get("target_se", math.inf)
        fine = found.reliable & (found.standard_error <= target)
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
                f"{self.annealed.name} falls {-self.annealed.mean:.2f} ± {self.annealed.error:.2f} nats "
                f"short of importance sampling, too few temperatures to check it"
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
            f"{check.name} lies {check.mean:.2f} ± {check.error:.2f} nats above importance sampling: its "
            f"draws miss a part of the posterior, or the temperatures or data are too few to tell"
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

    def summary(self) -> dict[str, Any]:
        """The verdict and what is behind it, as ``pyrovae evaluate --certify --json`` writes them.

        Returns:
            - ``verdict``, a sentence; ``known``; ``reason``, empty where it is known.
            - ``mean`` log p(x) of the data that are not doubtful, known ``within`` so many nats, of which
              ``statistical`` are of the draws; ``tolerance``.
            - ``doubtful``: how many data are.
            - ``checks``, of ``annealed``, ``lower`` and ``upper``: ``name``, ``rows``, ``mean`` excess and
              its ``error``, the ``most`` of a datum, ``seconds``; None where there was none.
            - ``seconds``: of importance sampling.
            - ``evaluation``: :meth:`Evaluation.summary`.
        """
        checks = {name: getattr(self, name) for name in ("annealed", "lower", "upper")}
        return {
            "verdict": self.verdict,
            "known": self.known,
            "reason": self.reason,
            "mean": self.mean,
            "within": self.within,
            "statistical": self.statistical,
            "tolerance": self.tolerance,
            "doubtful": len(self.doubtful),
            "checks": {name: None if check is None else check.summary() for name, check in checks.items()},
            "seconds": self.seconds,
            "evaluation": self.evaluation.summary(),
        }

    def __str__(self) -> str:
        header = (
            f"{'beside importance sampling':<46}{'data':>6}{'excess':>11}{'error':>10}{'most':>10}{'s':>9}"
        )
        checks = [check for check in (self.annealed, self.lower, self.upper) if check is not None]
        table = ["", header, *map(str, checks)] if checks else []
        if checks and not self._missed():
            clean = len(checks[-1].excess)
            table.append(f"of {clean} data none is off: up to {min(3 / clean, 1):.0%} of all may be (at 95%)")
        cost = f"importance sampling of {len(self.evaluation):,} data took {self.seconds:.0f} s"
        return "\n".join([self.verdict, *table, "", str(self.evaluation), cost])
