"""Figures of numbers: training, evaluation and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pyrovae.core.tables import mean_errors
from pyrovae.evaluation.weights import FEWEST_DRAWS, classify_khat, khat_labels
from pyrovae.reports.plots.style import BLUE, ORANGE, open_axes

if TYPE_CHECKING:
    from pyrovae.evaluation.diagnostics import Calibration, Divergences, Gaps
    from pyrovae.evaluation.results import Evaluation
    from pyrovae.training.history import History

__all__ = ["calibration", "gaps", "kl", "learning_curves", "reliability"]

SMALLEST_ERROR = 1e-3
"""Nats: standard errors below it are shown at it."""


def learning_curves(history: History) -> Figure:
    """The ELBO over epochs beside its two parts, reconstruction and KL, training and validation.

    Args:
        history: What :func:`pyrovae.fit` returned.

    Example:
        >>> from pyrovae.training.history import History
        >>> history = History(epoch=[0, 1], elbo=[-9.0, -8.0], reconstruction=[-8.5, -7.0], kl=[0.5, 1.0])
        >>> len(learning_curves(history).axes)
        3
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    titles = {
        "elbo": "ELBO",
        "reconstruction": "reconstruction, $E_q[\\log p(x|z)]$",
        "kl": "$KL(q(z|x) \\| p(z))$",
    }
    epochs = [epoch + 1 for epoch in history.epoch]
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        marker = "o" if len(epochs) < 10 else None  # one epoch makes no line
        axes.plot(epochs, getattr(history, name), color=BLUE, marker=marker, label="training")
        if history.validation_elbo:
            validation = getattr(history, f"validation_{name}")
            axes.plot(epochs, validation, color=ORANGE, marker=marker, linestyle="--", label="validation")
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0, epochs[-1] + 1)
        open_axes(axes)
    axes.legend(frameon=False)
    return figure


def calibration(found: Calibration) -> Figure:
    """Empirical distributions of ranks less the uniform one, and the band that each lies in if q is right.

    Above 0 on the left and below on the right, q is too narrow; above 0 all along, too high. The latents
    are on the left, the likelihood on the right, each on a scale of its own.

    Args:
        found: What :func:`pyrovae.diagnostics.calibration` returned; of the worst some are named.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    outside, last = found.outside.tolist(), len(found.names) - 1
    left, right = figure.subplots(1, 2)
    of_latents = sum(outside[:last])
    titles = (
        f"latents: {of_latents:,} of {last:,} outside",
        f"$\\log p(x|z)$: {'out' if outside[last] else 'in'}side",
    )
    for axes, title, shown in ((left, titles[0], range(last)), (right, titles[1], range(last, last + 1))):
        _curves(axes, found, [quantity for quantity in found.worst if quantity in shown], outside)
        axes.set(xlim=(0, 1), title=title)
        axes.margins(y=0.12)
        open_axes(axes)
    left.set(ylabel="share of ranks below, less uniform")
    figure.supxlabel("rank of the truth among draws of q, scaled to [0, 1]", fontsize="medium")
    handles = {
        label: handle
        for axes in (left, right)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), frameon=False, ncols=3, loc="outside upper center")
    return figure


def gaps(found: Mapping[str, Gaps]) -> Figure:
    """Bars of the inference gap, cut into amortisation and approximation, with the error of the whole.

    Args:
        found: By name of the model, what :func:`pyrovae.diagnostics.gaps` returned.
    """
    figure = Figure(figsize=(6.4, 1.3 + 0.5 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = list(found)
    amortisation = [each.amortisation.mean().item() for each in found.values()]
    approximation = [each.approximation.mean().item() for each in found.values()]
    whole = [each.inference.mean().item() for each in found.values()]
    errors = [math.hypot(*mean_errors(each.inference, each.inference_error)) for each in found.values()]
    axes.barh(names, amortisation, color=BLUE, height=0.6, label="amortisation")
    axes.barh(
        names,
        approximation,
        left=amortisation,
        color=ORANGE,
        height=0.6,
        hatch="///",
        edgecolor="white",
        label="approximation",
    )
    axes.errorbar(whole, names, xerr=errors, fmt="none", ecolor="black", capsize=3)
    axes.invert_yaxis()
    axes.set(xlabel="log p(x) - ELBO, nats per datum")
    figure.legend(frameon=False, ncols=2, loc="outside upper center")
    open_axes(axes)
    return figure


def kl(found: Divergences) -> Figure:
    """Bars of the KL of each part, the largest first, with the errors of their means over data.

    Args:
        found: What :func:`pyrovae.diagnostics.kl_by_dimension` or ``kl_by_site`` returned.
    """
    count = len(found)
    figure = Figure(figsize=(min(max(4.0, 1.2 + 0.35 * count), 11), 3.6), layout="constrained")
    axes = figure.subplots()
    order = found.means.argsort(descending=True, stable=True).tolist()
    errors = [math.hypot(*mean_errors(found.values[:, i], found.errors[:, i])) for i in order]
    axes.bar(range(count), found.means[order].tolist(), yerr=errors, color=BLUE, ecolor="black", capsize=2)
    if count <= 32:
        axes.set_xticks(range(count), [found.names[i] for i in order], rotation=90 if count > 8 else 0)
    else:
        axes.set_xlabel(f"{count:,} parts, the largest first")
    axes.set(ylabel="nats per datum", title="$KL(q(z|x) \\| p(z))$ by part")
    open_axes(axes)
    return figure


def reliability(result: Evaluation) -> Figure:
    """Each datum's standard error against its k-hat: how far log p(x) can be believed, and for how many.

    Infinite k-hats are at the edges: on the left where the largest weights are equal, on the right where a
    few draws have all the weight.

    Args:
        result: What :func:`pyrovae.evaluate` returned, of 25 draws or more.
    """
    if result.num_samples < FEWEST_DRAWS:
        raise ValueError(f"reliability: k-hat needs {FEWEST_DRAWS} draws, there were {result.num_samples}")
    khat, thresholds = result.khat, result.khat_threshold
    least, most = thresholds.min().item(), thresholds.max().item()
    classes, labels = classify_khat(khat, result.draws), khat_labels([least, most])
    styles = {"reliable": (BLUE, "o"), "doubtful": (ORANGE, "^"), "beyond": ("black", "x")}
    shown = torch.cat([khat[khat.isfinite()], torch.tensor([0.0, 1.1])])
    left, right = shown.min().item(), shown.max().item()
    margin = 0.04 * (right - left)
    x = khat.clamp(left - margin, right + margin)
    y = result.standard_error.clamp(min=SMALLEST_ERROR)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (colour, marker) in styles.items():
        chosen = getattr(classes, name)
        points = axes.scatter(x[chosen], y[chosen], s=20, c=colour, marker=marker, alpha=0.6, linewidths=1)
        points.set_label(f"{int(chosen.sum()):,} {labels[name]}")
    for line in {least, most, 1.0}:
        axes.axvline(line, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axes.set(xlabel="Pareto $\\hat k$", ylabel="standard error of log p(x), nats", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left - 2 * margin, right + 2 * margin)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title=f"{len(result):,} data, by $\\hat k$")
    return figure


def _curves(axes: Axes, found: Calibration, quantities: list[int], outside: list[bool]) -> None:
    """The band and curves, the worst quantity first; as many names as have room, of those outside."""
    end = torch.zeros(1, dtype=found.points.dtype)
    points, lower, upper = (
        torch.cat([end, values, last]).numpy()
        for values, last in ((found.points, end + 1), (found.lower, end), (found.upper, end))
    )
    axes.fill_between(points, lower, upper, color="0.87", label=f"{found.coverage:.0%} band of one curve")
    styles: dict[bool, Any] = {
        False: {"color": BLUE, "linewidth": 1.0, "alpha": 0.7, "label": "within"},
        True: {"color": ORANGE, "linewidth": 1.4, "linestyle": "--", "label": "outside"},
    }
    peaks: list[tuple[float, float]] = []
    height = found.difference[:, quantities].abs().max().item()
    for quantity in reversed(quantities):  # the worst on top
        curve = torch.cat([end, found.difference[:, quantity], end])
        axes.plot(points, curve.numpy(), **styles[outside[quantity]])
    for quantity in (quantity for quantity in quantities if outside[quantity]):
        peak = int(found.difference[:, quantity].abs().argmax())
        x, y = found.points[peak].item(), found.difference[peak, quantity].item()
        if all(abs(x - there) > 0.15 or abs(y - level) > 0.15 * height for there, level in peaks):
            peaks.append((x, y))
            away = (0, 4 if y > 0 else -11)
            axes.annotate(found.names[quantity], (x, y), textcoords="offset points", xytext=away, ha="center")
