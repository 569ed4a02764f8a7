"""Figures of log p(x): over the data, by class, and between models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.reports.plots.style import BLUE, MOST_CLASSES, ORANGE, open_axes, plain

if TYPE_CHECKING:
    from pyrovae.evaluation.compare import Comparison
    from pyrovae.evaluation.results import Evaluation

__all__ = ["comparison", "evidence"]

NAMED = 3
"""Rows of the least log p(x) that are named."""

VERDICTS: dict[str, dict[str, Any]] = {
    "reference": {"marker": "s", "color": "black"},
    "better": {"marker": ">", "color": BLUE},
    "worse": {"marker": "<", "color": ORANGE},
    "too close to call": {"marker": "o", "color": "0.35", "markerfacecolor": "white"},
    "cannot be told": {"marker": "x", "color": "0.35"},
}


def evidence(result: Evaluation, labels: Tensor | None = None) -> Figure:
    """Log p(x) of each datum: how many have how much, the least of them named; and by class.

    A box of a class has its middle half with the median, and whiskers from the 5th to the 95th of a hundred.
    Of more than 20 classes those of the lowest median are shown.

    Args:
        result: What :func:`pyrovae.evaluate` returned.
        labels: ``[n]``, whole numbers, the classes; all data together if not given.

    Raises:
        ValueError: Labels of other data.
    """
    if labels is not None and len(labels) != len(result):
        raise ValueError(
            f"evidence: {len(labels):,} labels of {len(result):,} rows: pass those of the same data"
        )
    values = result.log_evidence
    figure = Figure(figsize=(9.6 if labels is not None else 6.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 1 if labels is None else 2, squeeze=False)[0]
    axes = panels[0]
    axes.hist(values.numpy(), bins=40, color=BLUE)
    mean, low = values.mean().item(), values.argsort()[:NAMED].tolist()
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.1f}")
    said = f"least: rows {', '.join(map(str, low))}"
    axes.plot(values[low], [0] * len(low), "v", color=ORANGE, markersize=8, clip_on=False, label=said)
    axes.set(xlabel="log p(x), nats", ylabel="data")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # over no bar
    open_axes(axes)
    if labels is not None:
        _boxes(panels[1], values, labels)
    return figure


def comparison(found: Comparison) -> Figure:
    """Paired differences from the reference, the best model on top, with two of their errors each way.

    Args:
        found: What :func:`pyrovae.compare` returned.
    """
    names = list(found.differences)
    figure = Figure(figsize=(7.2, 1.5 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color="0.4", linestyle="--", linewidth=1, zorder=0)
    for place, each in enumerate(found.differences.values()):
        middle = 0.0 if each.reference or math.isnan(each.difference) else each.difference
        error = None if each.reference or not math.isfinite(each.error) else 2 * each.error
        look = VERDICTS[each.verdict]
        axes.errorbar(middle, place, xerr=error, ecolor=look["color"], capsize=4, markersize=8, **look)
        axes.annotate(each.verdict, (middle, place), (0, 9), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.8)
    axes.margins(x=0.15)
    axes.set_xlabel(f"log p(x) less that of {plain(found.reference)}, nats per datum, ± two errors")
    open_axes(axes)
    return figure


def _boxes(axes: Any, values: Tensor, labels: Tensor) -> None:
    classes = every = labels.unique().tolist()
    if len(every) > MOST_CLASSES:
        medians = {each: values[labels == each].median().item() for each in every}
        classes = sorted(every, key=medians.__getitem__)[:MOST_CLASSES]
    axes.boxplot(
        [values[labels == each].numpy() for each in classes],
        orientation="horizontal",
        whis=(5, 95),
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "0.9"},
        medianprops={"color": ORANGE, "linewidth": 2},
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": BLUE, "markeredgecolor": "none"},
    )
    axes.set_yticks(
        range(1, len(classes) + 1), [f"{each} ({int((labels == each).sum()):,})" for each in classes]
    )
    axes.invert_yaxis()
    axes.set(xlabel="log p(x), nats", ylabel="class (data)")
    if len(every) > MOST_CLASSES:
        axes.set_title(f"the {MOST_CLASSES} lowest of {len(every):,} classes", fontsize="medium")
    open_axes(axes)
