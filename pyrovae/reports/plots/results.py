"""Figures of numbers: training, log p(x) over the data and between models, and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from pyrovae.core.tables import mean_errors
from pyrovae.evaluation.compare import Comparison
from pyrovae.evaluation.diagnostics import Calibration, Divergences, Gaps
from pyrovae.evaluation.results import Evaluation
from pyrovae.evaluation.weights import FEWEST_DRAWS, classify_khat, khat_labels
from pyrovae.reports.plots.style import BLUE, MOST_CLASSES, ORANGE, check_labels, open_figure, plain
from pyrovae.training.history import History

__all__ = ["calibration", "comparison", "evidence", "gaps", "kl", "learning_curves", "reliability"]

VERDICTS: dict[str, dict[str, Any]] = {
    "reference": {"marker": "s", "color": "black"},
    "better": {"marker": ">", "color": BLUE},
    "worse": {"marker": "<", "color": ORANGE},
    "too close to call": {"marker": "o", "color": "0.35", "markerfacecolor": "white"},
    "cannot be told": {"marker": "x", "color": "0.35"},
}


def learning_curves(history: History) -> Figure:
    """The ELBO and its two parts, reconstruction and KL, over epochs, for training and validation data.

    Args:
        history: Result of :func:`pyrovae.fit`.

    Example:
        >>> from pyrovae.training.history import History
        >>> history = History(epoch=[0, 1], elbo=[-9.0, -8.0], reconstruction=[-8.5, -7.0], kl=[0.5, 1.0])
        >>> len(learning_curves(history).axes)
        3
    """
    figure, panels = open_figure(11, 3.6, across=3)
    titles = {
        "elbo": "ELBO",
        "reconstruction": "reconstruction, $E_q[\\log p(x|z)]$",
        "kl": "$KL(q(z|x) \\| p(z))$",
    }
    epochs = [epoch + 1 for epoch in history.epoch]
    marker = "o" if len(epochs) < 10 else None  # one epoch makes no line
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        axes.plot(epochs, getattr(history, name), color=BLUE, marker=marker, label="training")
        if history.validation_elbo:
            validation = getattr(history, f"validation_{name}")
            axes.plot(epochs, validation, color=ORANGE, marker=marker, linestyle="--", label="validation")
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum", xlim=(0, epochs[-1] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False)
    return figure


def evidence(result: Evaluation, labels: Tensor | None = None) -> Figure:
    """Histogram of log p(x) over the data, and box plots by class.

    The three data with the lowest log p(x) are named. A box shows the quartiles of a class, its whiskers
    the 5th and 95th percentiles. Of more than 20 classes those with the lowest medians are shown.

    Args:
        result: Result of :func:`pyrovae.evaluate`.
        labels: ``[n]``, whole numbers, the classes; no box plots if not given.

    Raises:
        ValueError: Labels of other data.
    """
    check_labels(labels, len(result), "rows")
    values = result.log_evidence
    figure, panels = open_figure(6.0 if labels is None else 9.6, 3.8, across=1 if labels is None else 2)
    axes = panels[0]
    axes.hist(values.numpy(), bins=40, color=BLUE)
    mean, low = values.mean().item(), values.argsort()[:3].tolist()
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.1f}")
    label = f"lowest: rows {', '.join(map(str, low))}"
    axes.plot(values[low], [0] * len(low), "v", color=ORANGE, markersize=8, clip_on=False, label=label)
    axes.set(xlabel="log p(x), nats", ylabel="number of data")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # over no bar
    if labels is not None:
        _boxes(panels[1], values, labels)
    return figure


def _boxes(axes: Axes, values: Tensor, labels: Tensor) -> None:
    groups = {each: values[labels == each] for each in labels.unique().tolist()}
    classes = list(groups)
    if len(groups) > MOST_CLASSES:
        classes = sorted(classes, key=lambda each: groups[each].median().item())[:MOST_CLASSES]
        axes.set_title(f"the {MOST_CLASSES} lowest of {len(groups):,} classes", fontsize="medium")
    axes.boxplot(
        [groups[each].numpy() for each in classes],
        orientation="horizontal",
        tick_labels=[f"{each} ({len(groups[each]):,})" for each in classes],
        whis=(5, 95),
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "0.9"},
        medianprops={"color": ORANGE, "linewidth": 2},
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": BLUE, "markeredgecolor": "none"},
    )
    axes.invert_yaxis()
    axes.set(xlabel="log p(x), nats", ylabel="class (number of data)")


def comparison(found: Comparison) -> Figure:
    """Paired differences of mean log p(x) from the reference with two standard errors on each side.

    Args:
        found: Result of :func:`pyrovae.compare`; the best model is on top.
    """
    names = list(found.differences)
    figure, (axes,) = open_figure(7.2, 1.5 + 0.5 * len(names))
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
    return figure


def reliability(result: Evaluation) -> Figure:
    """Monte Carlo standard error of log p(x) against Pareto k-hat, one point for each datum.

    Infinite k-hats are at the edges: on the left where the largest weights are equal, on the right where a
    few draws have all the weight. Errors below 0.001 nats are shown at 0.001.

    Args:
        result: Result of :func:`pyrovae.evaluate` with 25 draws or more.
    """
    if result.num_samples < FEWEST_DRAWS:
        raise ValueError(f"reliability: k-hat needs {FEWEST_DRAWS} draws, there were {result.num_samples}")
    khat, thresholds = result.khat, result.khat_threshold.aminmax()
    least, most = (value.item() for value in thresholds)
    shown = torch.cat([khat[khat.isfinite()], torch.tensor([0.0, 1.1])])
    left, right = shown.min().item(), shown.max().item()
    margin = 0.04 * (right - left)
    x, y = khat.clamp(left - margin, right + margin), result.standard_error.clamp(min=1e-3)
    figure, (axes,) = open_figure(7, 4.2)
    labels = khat_labels([least, most])
    looks = {"reliable": (BLUE, "o"), "doubtful": (ORANGE, "^"), "beyond": ("black", "x")}
    for name, rows in classify_khat(khat, result.draws)._asdict().items():
        colour, marker = looks[name]
        label = f"{int(rows.sum()):,} {labels[name]}"
        axes.scatter(x[rows], y[rows], s=20, c=colour, marker=marker, alpha=0.6, linewidths=1, label=label)
    for line in {least, most, 1.0}:
        axes.axvline(line, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axes.set(xlabel="Pareto $\\hat k$", ylabel="standard error of log p(x), nats", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left - 2 * margin, right + 2 * margin)
    axes.legend(frameon=False, title=f"{len(result):,} data, by $\\hat k$")
    return figure


def gaps(found: Mapping[str, Gaps]) -> Figure:
    """Bars of the inference gap: amortisation and approximation, with the standard error of the whole.

    Args:
        found: Results of :func:`pyrovae.diagnostics.gaps` by the name of the model.
    """
    figure, (axes,) = open_figure(6.4, 1.3 + 0.5 * len(found))
    names, each = list(found), found.values()
    first, second, whole = (
        [getattr(gap, part).mean().item() for gap in each]
        for part in ("amortisation", "approximation", "inference")
    )
    errors = [math.hypot(*mean_errors(gap.inference, gap.inference_error)) for gap in each]
    look: dict[str, Any] = {"color": ORANGE, "hatch": "///", "edgecolor": "white"}
    axes.barh(names, first, color=BLUE, height=0.6, label="amortisation")
    axes.barh(names, second, left=first, height=0.6, label="approximation", **look)
    axes.errorbar(whole, names, xerr=errors, fmt="none", ecolor="black", capsize=3)
    axes.invert_yaxis()
    axes.set(xlabel="log p(x) - ELBO, nats per datum")
    figure.legend(frameon=False, ncols=2, loc="outside upper center")
    return figure


def kl(found: Divergences) -> Figure:
    """Bars of the KL of each part, the largest first, with the standard errors of their means over data.

    Args:
        found: Result of :func:`pyrovae.diagnostics.kl_by_dimension` or ``kl_by_site``.
    """
    count = len(found)
    figure, (axes,) = open_figure(min(max(4.0, 1.2 + 0.35 * count), 11), 3.6)
    order = found.means.argsort(descending=True, stable=True).tolist()
    errors = [math.hypot(*mean_errors(found.values[:, i], found.errors[:, i])) for i in order]
    axes.bar(range(count), found.means[order].tolist(), yerr=errors, color=BLUE, ecolor="black", capsize=2)
    if count <= 32:
        axes.set_xticks(range(count), [found.names[i] for i in order], rotation=90 if count > 8 else 0)
    else:
        axes.set_xlabel(f"{count:,} parts, the largest first")
    axes.set(ylabel="nats per datum", title="$KL(q(z|x) \\| p(z))$ by part")
    return figure


def calibration(found: Calibration) -> Figure:
    """Distribution functions of ranks less the uniform one, with the band of one curve if q is exact.

    A curve above 0 on the left and below on the right means that q is too narrow; above 0 throughout, that
    it is too high. Latents are on the left, the likelihood on the right. The worst ones outside are named.

    Args:
        found: Result of :func:`pyrovae.diagnostics.calibration`.
    """
    figure, panels = open_figure(9.6, 4.2, across=2)
    outside, last = found.outside.tolist(), len(found.names) - 1
    titles = (
        f"latents: {sum(outside[:last]):,} of {last:,} outside",
        f"$\\log p(x|z)$: {'out' if outside[last] else 'in'}side",
    )
    handles: dict[str, Any] = {}
    for axes, title, shown in zip(panels, titles, (range(last), range(last, last + 1)), strict=True):
        _curves(axes, found, [quantity for quantity in found.worst if quantity in shown], outside)
        axes.set(xlim=(0, 1), title=title)
        axes.margins(y=0.12)
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[0].set(ylabel="share of ranks below, less uniform")
    figure.supxlabel("rank of the truth among draws of q, scaled to [0, 1]", fontsize="medium")
    figure.legend(list(handles.values()), list(handles), frameon=False, ncols=3, loc="outside upper center")
    return figure


def _curves(axes: Axes, found: Calibration, quantities: list[int], outside: list[bool]) -> None:
    """The band and the curves, the worst on top; names of those outside, as many as have room."""
    end = torch.zeros(1, dtype=found.points.dtype)
    points = torch.cat([end, found.points, end + 1])
    lower, upper = (torch.cat([end, edge, end]) for edge in (found.lower, found.upper))
    axes.fill_between(points, lower, upper, color="0.87", label=f"{found.coverage:.0%} band of one curve")
    styles: dict[bool, Any] = {
        False: {"color": BLUE, "linewidth": 1.0, "alpha": 0.7, "label": "within"},
        True: {"color": ORANGE, "linewidth": 1.4, "linestyle": "--", "label": "outside"},
    }
    for quantity in reversed(quantities):  # the worst on top
        curve = torch.cat([end, found.difference[:, quantity], end])
        axes.plot(points, curve, **styles[outside[quantity]])
    peaks: list[tuple[float, float]] = []
    height = found.difference[:, quantities].abs().max().item()
    for quantity in (quantity for quantity in quantities if outside[quantity]):
        peak = int(found.difference[:, quantity].abs().argmax())
        x, y = found.points[peak].item(), found.difference[peak, quantity].item()
        if all(abs(x - there) > 0.15 or abs(y - level) > 0.15 * height for there, level in peaks):
            peaks.append((x, y))
            away = (0, 4 if y > 0 else -11)
            axes.annotate(found.names[quantity], (x, y), textcoords="offset points", xytext=away, ha="center")
