"""compare: paired differences of log p(x) between models, with their errors kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.core.tables import precision_of, shown, transformations
from pyrovae.evaluation.results import Evaluation

__all__ = ["Comparison", "Difference", "compare"]

PRIVATE = ("seed", "torch", "weights", "proposal", "chosen", "compiled")
"""Conventions that may differ between results that are compared."""

ROUNDING = 1e-4
"""Nats by which float32 alone may set two results apart."""

UNSAID = {"dequantisation": "none", "precision": "float32"}
"""What a file that does not say is of: such files were written before these were always said."""

FIRST = ("dataset", "split", "binarisation", "dequantisation", "rows", "fingerprint", "method", "target_se")
"""Conventions in the order in which a difference is told."""

MOST_BEYOND = 0.5
"""Share of the rows whose log p(x) is a lower bound alone, above which a difference says nothing."""

SURE = 2.0
"""Errors by which two models must differ to be called different."""


@dataclass(frozen=True)
class Difference:
    """One model against the reference: nats per datum, less than nought where it is worse.

    Attributes:
        mean: Of log p(x) over data, and over trainings where there are several.
        difference: Mean paired difference from the reference; nan for the reference itself.
        test_set: Its standard error by the choice of test data.
        monte_carlo: Its standard error by the importance draws.
        training: Its standard error by the seed of training; nan where one model was trained once.
        bias: Expected bias of the difference, from each estimate's own.
        degrees: Degrees of freedom of the errors together, after Welch and Satterthwaite.
        reference: Whether it is what the others are held against.
        beyond: Share of the rows, in either model, whose k-hat is above 1: there log p(x) is a lower bound.
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
        """Of the three together; that of training counts where it is known."""
        parts = (self.test_set, self.monte_carlo, self.training)
        return math.sqrt(sum(part**2 for part in parts if not math.isnan(part)))

    @property
    def verdict(self) -> str:
        """Called "better" or "worse" where the difference, less its bias, is beyond chance at 4.6%.

        That is twice the error where it is of many data and trainings, and more where it is of few. "Too
        close to call" otherwise, and "cannot be told" where half the rows of either have lower bounds alone.
        """
        if self.reference:
            return "reference"
        if math.isnan(self.difference) or self.beyond > MOST_BEYOND:
            return "cannot be told"
        if math.isnan(self.test_set):
            return "too close to call"
        from scipy.stats import norm, t  # a second, which the command line would wait for

        sure = t.ppf(norm.cdf(SURE), self.degrees)
        if abs(self.difference) - abs(self.bias) <= max(sure * self.error, ROUNDING):
            return "too close to call"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; printed, a table, the best model first.

    Attributes:
        differences: By model, the best first.
        reference: The model that the others are held against.
        conventions: What all results are of.
        trainings: Results by model.
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
            - ``reference``: the model that the others are held against.
            - ``models``: by name, the best first, the attributes of
              :class:`~pyrovae.evaluation.compare.Difference`, its ``error`` and ``verdict``, and
              ``trainings``, how many results it is of.
            - ``conventions``: what all of it is of.
        """
        models = {
            name: {
                **asdict(found),
                "error": found.error,
                "verdict": found.verdict,
                "trainings": self.trainings[name],
            }
            for name, found in self.differences.items()
        }
        return {"reference": self.reference, "models": models, "conventions": self.conventions}

    def __str__(self) -> str:
        said = self.conventions
        what = [f"{said['dataset']} {said['split']}" if "dataset" in said else "data of unrecorded origin"]
        what += [f"{said['rows']:,} rows"] if "rows" in said else []
        what += transformations(said)
        what += [f"K = {said['num_samples']:,} draws", str(said["method"])]
        what += precision_of(said)
        width = max(20, *(len(name) + 2 for name in self.differences))
        columns = f"{'log p(x)':>10}{'difference':>12}{'test set':>11}{'Monte Carlo':>13}{'training':>10}"
        lines = [f"{', '.join(what)}; nats per datum", f"{'':<{width}}{columns}"]
        for name, found in self.differences.items():
            row = f"{name:<{width}}{found.mean:>10.3f}"
            if name != self.reference:
                row += f"{found.difference:>+12.3f}{shown(found.test_set):>11}{shown(found.monte_carlo):>13}"
                row += f"{shown(found.training):>10}"
            lines.append(f"{row}  {found.verdict}".rstrip())
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        notes = [f"paired with {self.reference}; better and worse: beyond chance at 4.6%"]
        once = [name for name, count in self.trainings.items() if count == 1]
        if once:
            notes.append(f"trained once, so that the error of training is unknown: {', '.join(once)}")
        beyond = max(found.beyond for found in self.differences.values())
        if beyond > 0:
            notes.append(
                f"up to {beyond:.0%} of the rows have k-hat above 1: a difference is then of two lower bounds"
            )
        return notes


def compare(
    results: Mapping[str, Evaluation | Sequence[Evaluation]], *, reference: str | None = None
) -> Comparison:
    r"""Whether models really differ, by paired differences of held-out log p(x).

    .. math:: \bar d = \frac1n \sum_i \big( \log \hat p_a(x_i) - \log \hat p_b(x_i) \big), \qquad
        \operatorname{Var} \bar d = \underbrace{\frac{\operatorname{Var}_x d}n}_{\text{test set}} +
        \underbrace{\frac{1}{n^2} \sum_i (SE_{a,i}^2 + SE_{b,i}^2)}_{\text{Monte Carlo}} +
        \underbrace{\frac{s_a^2}{m_a} + \frac{s_b^2}{m_b}}_{\text{training}}

    Both models see the same data, so what makes a datum hard for both cancels. The spread of the
    differences is that of the data plus that of the draws, which is taken off. s^2 is the variance of the
    mean log p(x) over m trainings. This is held-out log p(x), and no cross-validation.

    Args:
        results: By name, what :func:`pyrovae.evaluate` returned; of several trainings a list.
        reference: The name to hold the others against; the first if not given.

    Returns:
        Differences with their errors; printed, a table with a verdict for each model.

    Raises:
        ValueError: Fewer than two models, an unknown reference, or results of different data, split,
            binarisation, dequantisation, K, method or precision.
        TypeError: Something else than results: a tensor does not say whether it is an ELBO.

    References:
        Vehtari and Ojanen, A Survey of Bayesian Predictive Methods for Model Assessment, Selection and
        Comparison, 2012, on paired differences.

    Example:
        >>> from pyrovae import evaluate
        >>> from pyrovae.testing import LinearGaussian
        >>> right, wrong = LinearGaussian(torch.ones(3, 1)), LinearGaussian(torch.zeros(3, 1))
        >>> x = right.sample(200)
        >>> found = {
        ...     name: evaluate(model.model, model.guide, x, num_samples=2, progress=False)
        ...     for name, model in (("right", right), ("wrong", wrong))
        ... }
        >>> compare(found)["wrong"].verdict
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
    found = {
        name: _difference(several, None if name == reference else runs[reference])
        for name, several in runs.items()
    }
    ranked = dict(sorted(found.items(), key=lambda item: -item[1].mean))
    return Comparison(
        ranked, reference, dict(first.conventions), {n: len(several) for n, several in runs.items()}
    )


def _runs(name: str, result: Any) -> list[Evaluation]:
    runs = [result] if isinstance(result, Evaluation) else result
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, Evaluation) for run in runs):
        raise TypeError(
            f"compare: '{name}' is {type(result).__name__}: pass what pyrovae.evaluate returned, which says "
            f"what its numbers are of, or a list of such"
        )
    return list(runs)


def _check_same(reference: str, first: Evaluation, name: str, result: Evaluation) -> None:
    """Refuse results whose difference would be of something else than the models."""
    ours, theirs = (
        {k: v for k, v in (UNSAID | each.conventions).items() if k not in PRIVATE} for each in (first, result)
    )
    one, other = (said.pop("measure", None) for said in (ours, theirs))  # older files do not say
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
    beyond = max(float((run.khat > 1).double().mean()) for run in runs + (against or []))
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
    """Of a sum of variances, each with degrees of its own, and of one that is certain."""
    total = sum(part for part, _ in parts) + certain
    spread = sum(part**2 / degrees for part, degrees in parts if degrees > 0)
    return total**2 / spread if spread > 0 else math.inf


def _averaged(runs: list[Evaluation]) -> tuple[Tensor, Tensor]:
    """Log p(x) by datum, averaged over trainings, and the variance that the draws give it."""
    value = torch.stack([run.log_evidence for run in runs]).mean(0)
    return value, torch.stack([run.standard_error for run in runs]).square().sum(0) / len(runs) ** 2


def _of_training(runs: list[Evaluation]) -> float:
    """The variance of the mean over trainings."""
    means = torch.stack([run.log_evidence.mean() for run in runs])
    return (means.var() / len(runs)).item()


def _bias(runs: list[Evaluation]) -> Tensor:
    return torch.stack([run.bias.mean() for run in runs]).mean().nan_to_num(0.0)
