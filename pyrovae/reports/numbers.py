"""What a report says of one run in numbers: log p(x), and where the nats go."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pyrovae.core.tables import counted, mean_errors, shown
from pyrovae.evaluation import diagnostics
from pyrovae.evaluation.diagnostics.active_units import ACTIVE
from pyrovae.evaluation.results import Evaluation
from pyrovae.evaluation.weights import FEWEST_DRAWS
from pyrovae.reports import plots
from pyrovae.reports.blocks import Block, Listed, Table, Text, picture, tried
from pyrovae.reports.subjects import ROWS, LackingError, Subject

__all__ = ["evidence", "means_of", "nats", "summary"]

MEANS = {
    "log p(x)": ("log_evidence", "standard_error"),
    "ELBO": ("elbo", "elbo_error"),
    "reconstruction E_q[log p(x|z)]": ("reconstruction", "reconstruction_error"),
    "KL(q(z|x) || p(z))": ("kl", "kl_error"),
    "gap KL(q(z|x) || p(z|x))": ("gap", None),
}
"""The rows of the table that an evaluation prints, with their errors."""


def summary(subject: Subject) -> str:
    """The run in one or two sentences."""
    recipe = subject.run.recipe
    what = (
        f"{subject.name}: prior {recipe.prior}, likelihood {recipe.likelihood} and guide {recipe.guide}, "
        f"{recipe.latent_dim} latents, trained on {recipe.dataset}"
    )
    if "result" in subject.lacks:
        return f"{what}. No log p(x): {subject.lacks['result']}."
    result = subject.result
    mean, test_set, monte_carlo = means_of(result)["log p(x)"]
    errors = ((test_set, "the choice of data"), (monte_carlo, "the draws"))
    told = " and ".join(f"{each} by {source}" for each, source in errors if each)
    useless = int((result.khat > 1).sum())
    bound = f" Of {useless:,} of the rows it is a lower bound alone (k-hat above 1)." if useless else ""
    rows = counted(len(result), f"{subject.split} row")
    return f"{what}. Mean log p(x) of {rows} is {mean} nats, {told or 'its errors not known'}.{bound}"


def evidence(subject: Subject) -> list[Block]:
    """The table that evaluate printed, its notes, and how log p(x) is spread."""

    def make() -> list[Block]:
        result = subject.result
        heading, _, *printed = str(result).splitlines()
        rows = [(name, *told) for name, told in means_of(result).items()]
        table = Table(
            f"{heading}; nats per datum", ("", "mean", "error, test set", "error, Monte Carlo"), rows
        )
        values = result.log_evidence
        low = int(values.argmin())
        said = "The mean has two errors: the data are a sample, and so are the draws."
        if len(result) > 1:
            said += (
                f" Over the data log p(x) goes from {values.min():.1f}, of row {low}, to {values.max():.1f}; "
                f"its standard deviation is {values.std():.1f} nats."
            )
        return [table, Listed([" ".join(note.split()) for note in printed[len(rows) :]]), Text(said)]

    blocks = tried(subject, "log p(x)", make)
    return blocks if "result" in subject.lacks else [*blocks, *_spread(subject), *_reliability(subject)]


def nats(subject: Subject) -> list[Block]:
    """Reconstruction, KL and gap; the KL by part; active units."""

    def whole() -> list[Block]:
        result = subject.result
        means = {name.split()[0]: told[0] for name, told in means_of(result).items()}
        errors = {name.split()[0]: _together(*_columns(result, name)) for name in MEANS}
        parts = {name: f"{mean} ({errors[name]})" for name, mean in means.items()}
        return [
            Text(
                f"Of log p(x), {means['log']} nats, the reconstruction is {parts['reconstruction']}; from it "
                f"comes off the KL of guide and prior, {parts['KL(q(z|x)']}, and to it the gap is added, "
                f"{parts['gap']}: KL(q(z|x) || p(z|x)), what the guide costs. Errors are of both kinds."
            )
        ]

    blocks = [*tried(subject, "account of log p(x)", whole), *_parts(subject)]
    return [*blocks, *tried(subject, "active units", lambda: _units(subject))]


def _spread(subject: Subject) -> list[Block]:
    def make() -> list[Block]:
        result, labels = subject.result, subject.labels
        values = result.log_evidence
        if labels is not None:
            subject.check_result()
        alt = f"Histogram of log p(x) of {len(result):,} rows, with mean {values.mean():.1f} nats"
        caption = "log p(x) of each datum; the three least are named."
        if labels is not None:
            means = {each: values[labels == each].mean().item() for each in labels.unique().tolist()}
            least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            alt += (
                f"; boxes by class, the lowest mean {means[least]:.1f}, of class {least}, the highest "
                f"{means[most]:.1f}, of class {most}"
            )
            caption += (
                " Boxes have the middle half of a class, and whiskers from the 5th to the 95th of a hundred."
            )
        return [picture(plots.evidence(result, labels), alt, caption)]

    return tried(subject, "figure of log p(x)", make)


def _reliability(subject: Subject) -> list[Block]:
    def make() -> list[Block]:
        result = subject.result
        if result.num_samples < FEWEST_DRAWS:
            raise LackingError(f"k-hat needs {FEWEST_DRAWS} draws, and there were {result.num_samples}")
        said = next(line for line in str(result).splitlines() if line.startswith("k-hat"))
        alt = f"Scatter of standard error against Pareto k-hat. {said}"
        caption = "How far each log p(x) can be believed: its Monte Carlo error against Pareto k-hat."
        return [picture(plots.reliability(result), alt, caption)]

    return tried(subject, "figure of the errors", make)


def _parts(subject: Subject) -> list[Block]:
    """The KL by dimension, or by site where the densities are no products."""

    def by_dimension() -> list[Block]:
        vae, data = subject.vae, subject.data[:ROWS]
        try:
            found = diagnostics.kl_by_dimension(
                vae.model, vae.guide, data, num_samples=subject.num_samples, seed=subject.seed
            )
        except ValueError as error:
            if "no univariate density" not in str(error):
                raise
            raise LackingError(
                "prior and guide are not both products over dimensions, which then have none of their own"
            ) from error
        means = found.means.sort(descending=True).values
        first = found.names[int(found.means.argmax())]
        ninety = int((means.cumsum(0) < 0.9 * means.sum()).sum()) + 1
        said = (
            f"Of the KL of the first {len(data):,} rows, {found.total.mean():.2f} nats, most is in {first}, "
            f"{means[0]:.2f}; {ninety:,} of {counted(len(found), 'dimension')} have nine tenths of it."
        )
        dims = counted(len(found), "dimension")
        alt = f"Bars of the KL of {dims}, from {means[0]:.2f} down to {means[-1]:.2f} nats"
        caption = "The KL of each dimension, with the errors of its mean."
        return [Text(said), picture(plots.kl(found), alt, caption)]

    return tried(subject, "KL by dimension", by_dimension)


def _units(subject: Subject) -> Sequence[Block]:
    found = diagnostics.active_units_curve(subject.vae.guide, subject.data[:ROWS])
    active, (low, high) = int((found.variances > ACTIVE).sum()), found.stretch(ACTIVE)
    above = "without limit" if math.isinf(high) else f"to {high:.2g}"
    dims = counted(len(found.variances), "dimension")
    said = (
        f"{active:,} of {dims} are active: the guide's mean varies over the data by more than {ACTIVE:g}. "
        f"The count is the same for thresholds from {low:.2g} {above}."
    )
    alt = f"Bars of the variance over data of the mean of {dims}, {active:,} of them above {ACTIVE:g}"
    figure = plots.active_units(found, ACTIVE)
    return [Text(said), picture(figure, alt, "What of the code tells of the data.")]


def means_of(result: Evaluation) -> dict[str, tuple[str, str, str]]:
    """Mean, test-set error and Monte Carlo error by name, as the printed table has them."""
    found = {}
    for name in MEANS:
        values, errors = _columns(result, name)
        test_set, monte_carlo = mean_errors(values, errors)
        found[name] = f"{values.mean():.3f}", shown(test_set), shown(monte_carlo)
    return found


def _columns(result: Evaluation, name: str) -> tuple[Tensor, Tensor | None]:
    values, errors = MEANS[name]
    return getattr(result, values), getattr(result, errors) if errors else None


def _together(values: Tensor, errors: Tensor | None) -> str:
    """Both errors of a mean as one, as far as they are known; not nought where neither is."""
    known = [each for each in mean_errors(values, errors) if not math.isnan(each)]
    return shown(math.hypot(*known)) if known else "its error not known"
