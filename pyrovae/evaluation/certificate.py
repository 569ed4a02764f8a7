"""Certificate: the mean log p(x) within a stated number of nats, or the reason why it is not known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrovae.evaluation.results import Evaluation

__all__ = ["Certificate", "Check"]

SURE = 2.0  # standard errors that count as certain
FEW = 0.1  # largest share of doubtful data at which the mean is still called known


@dataclass(frozen=True)
class Check:
    """Paired differences of another estimate from importance sampling's, ``[rows]`` in nats.

    Attributes:
        name: Name of the other estimate.
        excess: The other estimate less importance sampling's, of each datum.
        errors: Monte Carlo standard errors of the excess.
        seconds: Time that the other estimate took.
    """

    name: str
    excess: Tensor
    errors: Tensor
    seconds: float

    @property
    def mean(self) -> float:
        """Mean excess over the data."""
        return self.excess.mean().item()

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for a single datum."""
        rows = len(self.excess)
        return self.excess.std().item() / rows**0.5 if rows > 1 else math.inf

    @property
    def least(self) -> float:
        """Lower confidence bound of the mean excess."""
        return self.mean - SURE * self.error

    @property
    def most(self) -> float:
        """Upper confidence bound of the mean excess."""
        return self.mean + SURE * self.error

    @property
    def beyond(self) -> Tensor:
        """Positions of data whose excess noise cannot explain: above half a nat and four errors."""
        return (self.excess > (4 * self.errors).clamp(min=0.5)).nonzero()[:, 0]

    def summary(self) -> dict[str, Any]:
        """The numbers of its row in the table."""
        return {
            "name": self.name,
            "rows": len(self.excess),
            "mean": self.mean,
            "error": self.error,
            "most": self.excess.max().item(),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        error, most = f"± {self.error:.3f}", self.excess.max().item()
        row = f"{self.mean:>+11.3f}{error:>10}{most:>+10.3f}{self.seconds:>9.0f}"
        return f"{self.name:<46}{len(self.excess):>6}{row}"


@dataclass(frozen=True)
class Certificate:
    """Result of :func:`pyrovae.certify`; printed, the verdict and the table behind it.

    Attributes:
        evaluation: Importance sampling of all data.
        annealed: Annealing from the prior against it, on some of the data.
        lower: Lower bound by annealing against it, on simulated data.
        upper: Upper bound on log p(x) against it, on the same simulated data.
        tolerance: Nats within which the mean counts as known.
        unchecked: Reason why a check is missing, or an empty string.
        seconds: Time that importance sampling took.
        rows: Rows of the data that were annealed.
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
        """Rows whose k-hat is not reliable, or whose standard error is above the target."""
        return (~self._fine).nonzero()[:, 0]

    @property
    def _fine(self) -> Tensor:
        result = self.evaluation
        target = result.conventions.get("target_se", math.inf)
        fine = result.reliable & (result.standard_error <= target)
        return fine | (result.standard_error <= 1e-3 * min(target, 1.0))

    @property
    def mean(self) -> float:
        """Mean log p(x) of the data that are not doubtful, in nats."""
        return self.evaluation.log_evidence[self._fine].mean().item()

    @property
    def statistical(self) -> float:
        """Two Monte Carlo errors of that mean and its expected bias, in nats."""
        error = self.evaluation.standard_error[self._fine]
        return SURE * error.norm().item() / max(len(error), 1) + error.square().mean().item() / 2

    @property
    def within(self) -> float:
        """Bound on the error of that mean, in nats: statistical, plus the excess that the checks allow."""
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
                where = f"datum {int(self.rows[worst])}" if check is self.annealed else "one of them"
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
        annealed, upper = self.annealed, self.upper
        if annealed is not None and annealed.most < -self.tolerance:
            return (
                f"{annealed.name} falls {-annealed.mean:.2f} ± {annealed.error:.2f} nats "
                f"short of importance sampling, too few temperatures to check it"
            )
        if upper is not None and upper.most < -self.tolerance:
            return (
                f"the upper bound lies {-upper.mean:.2f} ± {upper.error:.2f} nats below importance "
                f"sampling, which is impossible: check the densities of model and proposal"
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
        """The verdict in one sentence."""
        result, doubtful = self.evaluation, len(self.doubtful)
        left = " and left out" if doubtful and self.known else ""
        rest = f"{doubtful:,} of {len(result):,} data doubtful{left}"
        if self.known:
            within = math.ceil(100 * self.within) / 100
            return f"mean log p(x) = {self.mean:.2f}, known to within {within:.2f} nats; {rest}"
        drawn = SURE * result.standard_error.nan_to_num(nan=1.0).norm().item() / len(result)
        least = result.log_evidence.mean().item() - drawn
        return f"mean log p(x) is not known, at least {least:.2f}; {rest}: {self.reason}"

    def summary(self) -> dict[str, Any]:
        """The verdict and the numbers behind it, as ``pyrovae evaluate --certify --json`` writes them.

        Returns:
            - ``verdict``, a sentence; ``known``; ``reason``, empty where it is known.
            - ``mean`` log p(x) of the data that are not doubtful, known ``within`` so many nats, of which
              ``statistical`` are of the draws; ``tolerance``.
            - ``doubtful``: number of doubtful data.
            - ``checks``, ``annealed``, ``lower`` and ``upper``: :meth:`Check.summary`, or None.
            - ``seconds`` that importance sampling took.
            - ``evaluation``: :meth:`Evaluation.summary`.
        """
        names = ("verdict", "known", "reason", "mean", "within", "statistical", "tolerance", "seconds")
        checks = {name: getattr(self, name) for name in ("annealed", "lower", "upper")}
        return {
            **{name: getattr(self, name) for name in names},
            "doubtful": len(self.doubtful),
            "checks": {name: None if check is None else check.summary() for name, check in checks.items()},
            "evaluation": self.evaluation.summary(),
        }

    def __str__(self) -> str:
        checks = [check for check in (self.annealed, self.lower, self.upper) if check is not None]
        columns = f"{'data':>6}{'mean':>11}{'error':>10}{'largest':>10}{'seconds':>9}"
        header = f"{'excess over importance sampling, nats':<46}{columns}"
        table = ["", header, *map(str, checks)] if checks else []
        if checks and not self._missed():
            clean = len(checks[-1].excess)
            table.append(f"of {clean} data none is off: up to {min(3 / clean, 1):.0%} of all may be (at 95%)")
        cost = f"importance sampling of {len(self.evaluation):,} data took {self.seconds:.0f} s"
        return "\n".join([self.verdict, *table, "", str(self.evaluation), cost])
