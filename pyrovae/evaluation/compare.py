"""compare: paired differences of log p(x) between models, with each source of error apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.core.tables import shown
from pyrovae.evaluation.results import Evaluation, table_head
from pyrovae.evaluation.weights import classify_khat

__all__ = ["Comparison", "Difference", "compare"]

# Conventions that may differ between the results compared.
PRIVATE = ("seed", "torch", "weights", "proposal", "chosen", "compiled")
ROUNDING = 1e-4  # difference in nats that float32 rounding alone can make
# Conventions of older files, which do not record them.
UNSAID = {"dequantisation": "none", "precision": "float32"}
# Order in which conventions are compared.
FIRST = ("dataset", "split", "binarisation", "dequantisation", "rows", "fingerprint", "method", "target_se")
MOST_BEYOND = 0.5  # largest share of rows with k-hat beyond 1 at which a difference is still judged
SURE = 2.0  # standard errors by which two models must differ to be called different


@dataclass(frozen=True)
class Difference:
    """One model against the reference: nats per datum, negative where the model is worse.

    Attributes:
        mean: Mean log p(x) over data, and over trainings where there are several.
        difference: Mean paired difference from the reference; nan for the reference itself.
        test_set: Standard error of the difference by the choice of test data.
        monte_carlo: Standard error of the difference by the importance draws.
        training: Standard error of the difference by the seed of training; nan for single trainings.
        bias: Expected bias of the difference.
        beyond: Share of rows, in either model, whose k-hat is beyond 1: log p(x) is a lower bound there.
        degrees: Degrees of freedom of the combined error, after Welch and Satterthwaite.
        reference: Whether this model is the reference.
    """

    mean: float
    difference: float
    test_set: float
    monte_carlo: float
    training: float
    bias: float
    beyond: float
    degrees: float = math.inf
    reference: bool = False

    @property
    def error(self) -> float:
        """Combined standard error of the known sources."""
        parts = (self.test_set, self.monte_carlo, self.training)
        return math.sqrt(sum(part**2 for part in parts if not math.isnan(part)))

    @property
    def verdict(self) -> str:
        """Either "better" or "worse" if the difference, less its bias, is beyond chance at 4.6% (two errors).

        "Too close to call" if not, and "cannot be told" if k-hat is beyond 1 for half the rows of either.
        """
        if self.reference:
            return "reference"
        if math.isnan(self.difference) or self.beyond > MOST_BEYOND:
            return "cannot be told"
        if math.isnan(self.test_set):
            return "too close to call"
        from scipy.stats import norm, t  # takes a second to import

        sure = t.ppf(norm.cdf(SURE), self.degrees)
        if abs(self.difference) - abs(self.bias) <= max(sure * self.error, ROUNDING):
            return "too close to call"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`pyrovae.compare`; printed, a table, the best model first.

    Attributes:
        differences: Difference of each model from the reference, the best first.
        reference: Name of the reference model.
        conventions: What all results are of.
        trainings: Number of results of each model.
    """

    differences: dict[str, Difference]
    reference: str
    conventions: dict[str, Any]
    trainings: dict[str, int]

    def __getitem__(self, name: str) -> Difference:
        return self.differences[name]

    def summary(self) -> dict[str, Any]:
        """The numbers of the table, as ``pyrovae compare --json`` writes them.

        Returns:
            - ``reference``: name of the reference model.
            - ``models``: by name, the best first, the attributes of
              :class:`~pyrovae.evaluation.compare.Difference`, its ``error`` and ``verdict``, and the number
              of its ``trainings``.
            - ``conventions``: what all results are of.
        """
        models = {
            name: asdict(each)
            | {"error": each.error, "verdict": each.verdict, "trainings": self.trainings[name]}
            for name, each in self.differences.items()
        }
        return {"reference": self.reference, "models": models, "conventions": self.conventions}

    def __str__(self) -> str:
        draws = f"K = {self.conventions['num_samples']:,} draws"
        head = table_head(self.conventions, self.conventions.get("rows"), draws)
        width = max(20, *(len(name) + 2 for name in self.differences))
        columns = f"{'log p(x)':>10}{'difference':>12}{'test set':>11}{'Monte Carlo':>13}{'training':>10}"
        lines = [f"{head}; nats per datum", f"{'':<{width}}{columns}"]
        for name, each in self.differences.items():
            row = f"{name:<{width}}{each.mean:>10.3f}"
            if name != self.reference:
                row += f"{each.difference:>+12.3f}{shown(each.test_set):>11}{shown(each.monte_carlo):>13}"
                row += f"{shown(each.training):>10}"
            lines.append(f"{row}  {each.verdict}".rstrip())
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        notes = [f"paired with {self.reference}; better and worse: beyond chance at 4.6%"]
        once = [name for name, count in self.trainings.items() if count == 1]
        if once:
            notes.append(f"trained once, so that the error of training is unknown: {', '.join(once)}")
        beyond = max(each.beyond for each in self.differences.values())
        if beyond > 0:
            share = f"up to {beyond:.0%} of the rows"
            notes.append(f"{share} have k-hat beyond 1, where log p(x) is only a lower bound")
        return notes


def compare(
    results: Mapping[str, Evaluation | Sequence[Evaluation]], *, reference: str | None = None
) -> Comparison:
    r"""Whether models really differ, by paired differences of held-out log p(x).

    .. math:: \bar d = \frac1n \sum_i \big( \log \hat p_a(x_i) - \log \hat p_b(x_i) \big), \qquad
        \operatorname{Var} \bar d = \underbrace{\frac{\operatorname{Var}_x d}n}_{\text{test set}} +
        \underbrace{\frac{1}{n^2} \sum_i (SE_{a,i}^2 + SE_{b,i}^2)}_{\text{Monte Carlo}} +
        \underbrace{\frac{s_a^2}{m_a} + \frac{s_b^2}{m_b}}_{\text{training}}

    Both models see the same data, so what makes a datum hard for both cancels. The variance of the draws is
    subtracted from that of the differences. s^2 is the variance of the mean log p(x) over m trainings.

    Args:
        results: Result of :func:`pyrovae.evaluate` by name, or a list of results of several trainings.
        reference: Name of the model to compare the others with; the first if not given.

    Returns:
        Differences with their errors; printed, a table with a verdict for each model.

    Raises:
        ValueError: Fewer than two models, an unknown reference, or results of different data, split,
            binarisation, dequantisation, K, method or precision.
        TypeError: Anything but results, such as a tensor.

    References:
        Vehtari and Ojanen, A Survey of Bayesian Predictive Methods for Model Assessment, Selection and
        Comparison, 2012, on paired differences.

    Example:
        >>> from pyrovae import evaluate
        >>> from pyrovae.testing import LinearGaussian
        >>> right, wrong = LinearGaussian(torch.ones(3, 1)), LinearGaussian(torch.zeros(3, 1))
        >>> x = right.sample(200)
        >>> pair = [evaluate(m.model, m.guide, x, num_samples=2, progress=False) for m in (right, wrong)]
        >>> compare({"right": pair[0], "wrong": pair[1]})["wrong"].verdict
        'worse'
    """
    runs = {name: _runs(name, result) for name, result in results.items()}
    if len(runs) < 2:
        raise ValueError(f"compare: {len(runs)} model given, at least 2 are needed")
    reference = next(iter(runs)) if reference is None else reference
    if reference not in runs:
        raise ValueError(f"compare: there is no '{reference}': the reference is one of {', '.join(runs)}")
    first = runs[reference][0]
    for name, several in runs.items():
        for result in several:
            _check_same(reference, first, name, result)
    differences = {
        name: _difference(several, None if name == reference else runs[reference])
        for name, several in runs.items()
    }
    ranked = dict(sorted(differences.items(), key=lambda item: -item[1].mean))
    trainings = {name: len(several) for name, several in runs.items()}
    return Comparison(ranked, reference, dict(first.conventions), trainings)


def _runs(name: str, result: Any) -> list[Evaluation]:
    runs = [result] if isinstance(result, Evaluation) else result
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, Evaluation) for run in runs):
        raise TypeError(
            f"compare: '{name}' is {type(result).__name__}: pass what pyrovae.evaluate returned, which says "
            f"what its numbers are of, or a list of such"
        )
    return list(runs)


def _check_same(reference: str, first: Evaluation, name: str, result: Evaluation) -> None:
    """Refuse results that differ in more than the model."""
    ours, theirs = (
        {k: v for k, v in (UNSAID | each.conventions).items() if k not in PRIVATE} for each in (first, result)
    )
    one, other = (each.pop("measure", None) for each in (ours, theirs))  # older files have none
    if one and other and one != other:
        raise ValueError(
            f"compare: p(x) is a {one} for '{reference}' and a {other} for '{name}', which have no scale in "
            f"common: give both a likelihood of one kind"
        )
    for key in sorted({*ours, *theirs}, key=lambda key: (FIRST.index(key) if key in FIRST else 99, key)):
        if ours.get(key) != theirs.get(key):
            what = "the rows differ, fingerprint" if key == "fingerprint" else key
            raise ValueError(
                f"compare: {what} is {ours.get(key, 'unrecorded')} for '{reference}' and "
                f"{theirs.get(key, 'unrecorded')} for '{name}': evaluate both alike"
            )


def _difference(runs: list[Evaluation], against: list[Evaluation] | None) -> Difference:
    value, noise = _averaged(runs)
    masks = [classify_khat(run.khat, run.draws).beyond for run in runs + (against or [])]
    beyond = max(mask.double().mean().item() for mask in masks)
    mean, nan = value.mean().item(), math.nan
    if against is None:
        return Difference(mean, nan, nan, nan, nan, nan, beyond, reference=True)
    other, other_noise = _averaged(against)
    difference, variance = value - other, noise + other_noise
    n = len(difference)
    spread = difference.var().item() if n > 1 else nan
    drawn = 0.0 if variance.isnan().any() else variance.mean().item()
    training = [(_of_training(each), len(each) - 1) for each in (runs, against) if len(each) > 1]
    test_set = max(spread - drawn, 0.0) / n if n > 1 else nan
    draws = variance.sum().item() / n**2
    return Difference(
        mean,
        difference.mean().item(),
        math.sqrt(test_set),
        math.sqrt(draws),
        math.sqrt(sum(part for part, _ in training)) if training else nan,
        (_bias(runs) - _bias(against)).item(),
        beyond,
        _degrees([(test_set, n - 1), *training], 0.0 if math.isnan(draws) else draws),
    )


def _degrees(parts: list[tuple[float, int]], certain: float) -> float:
    """Degrees of freedom of a sum of variances, of which one is certain."""
    total = sum(part for part, _ in parts) + certain
    spread = sum(part**2 / degrees for part, degrees in parts if degrees > 0)
    return total**2 / spread if spread > 0 else math.inf


def _averaged(runs: list[Evaluation]) -> tuple[Tensor, Tensor]:
    """Log p(x) by datum, averaged over trainings, and its Monte Carlo variance."""
    value = torch.stack([run.log_evidence for run in runs]).mean(0)
    return value, torch.stack([run.standard_error for run in runs]).square().sum(0) / len(runs) ** 2


def _of_training(runs: list[Evaluation]) -> float:
    """The variance of the mean over trainings."""
    means = torch.stack([run.log_evidence.mean() for run in runs])
    return (means.var() / len(runs)).item()


def _bias(runs: list[Evaluation]) -> Tensor:
    return torch.stack([run.bias.mean() for run in runs]).mean().nan_to_num(0.0)
