"""Figures of latent space: the codes of data, the dimensions that they use, and the prior."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyrovae.evaluation.diagnostics.active_units import ACTIVE, ActiveUnits
from pyrovae.evaluation.diagnostics.codes import Codes, principal_axes
from pyrovae.reports.plots.style import (
    BLUE,
    COLOURS,
    MOST_CLASSES,
    ORANGE,
    check_labels,
    open_figure,
    plain,
)

__all__ = ["active_units", "aggregate_posterior", "codes"]

FEW_VALUES = 12  # of a dimension, such as bits: each value has a bar of its own


def codes(found: Codes, labels: Tensor | None = None) -> Figure:
    """Scatter plot of the means of q(z | x), each drawn as the number of its class.

    The numbers of up to 20 classes also stand at the medians of their data. Codes of more than two
    dimensions are projected on their two principal components.

    Args:
        found: Result of :func:`pyrovae.diagnostics.codes`.
        labels: ``[n]``, whole numbers, the classes; dots if not given.

    Raises:
        ValueError: A code of one dimension, or labels of other data.
    """
    means = found.means
    if means.shape[1] < 2:
        raise ValueError("codes: a code of one dimension has no plane: see plots.aggregate_posterior")
    check_labels(labels, len(means), "codes")
    figure, (axes,) = open_figure(6.4, 6.0)
    if means.shape[1] == 2:
        plane = means
        axes.set(xlabel=plain(found.names[0]), ylabel=plain(found.names[1]))
    else:
        two, shares = principal_axes(means)
        plane = (means - means.mean(0)) @ two.T
        axes.set(
            xlabel=f"first principal component, {shares[0]:.0%} of the variance",
            ylabel=f"second principal component, {shares[1]:.0%}",
        )
    if labels is None:
        axes.scatter(plane[:, 0], plane[:, 1], s=10, c=BLUE, alpha=0.6, linewidths=0)
    else:
        classes = labels.unique().tolist()
        for place, label in enumerate(classes):
            here = plane[labels == label]
            colour = COLOURS[place % len(COLOURS)]
            look: dict[str, Any] = {"s": 32, "color": colour, "alpha": 0.85, "linewidths": 0}
            axes.scatter(here[:, 0], here[:, 1], marker=f"${label}$", **look)
            if len(classes) > MOST_CLASSES:
                continue
            box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
            x, y = here.median(0).values.tolist()
            axes.text(x, y, str(label), ha="center", va="center", weight="bold", bbox=box)
    axes.set_title("means of q(z|x)" + ("" if labels is None else " by class"))
    return figure


def aggregate_posterior(found: Codes, count: int = 6) -> Figure:
    """Histograms of draws of q(z | x) over data and of the prior, for the dimensions that differ most.

    Args:
        found: Result of :func:`pyrovae.diagnostics.codes`.
        count: Number of dimensions; the title of each is its distance, ``found.apart``.
    """
    apart = found.apart
    order = apart.argsort(descending=True, stable=True)[:count].tolist()
    down, across = -(-len(order) // 3), min(len(order), 3)
    figure, panels = open_figure(3.2 * across + 0.4, 2.5 * down + 0.6, down, across)
    for axes, place in zip(panels, order, strict=False):
        _marginals(axes, found.draws[:, place], found.prior[:, place])
        axes.set_title(f"{plain(found.names[place])}: distance {apart[place]:.2f}", fontsize="medium")
        axes.set_yticks([])
    for axes in panels[len(order) :]:
        axes.set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=2, loc="outside upper center")
    return figure


def active_units(found: ActiveUnits, threshold: float = ACTIVE) -> Figure:
    """Bars of the variance over data of the posterior mean of each dimension, the largest first.

    Args:
        found: Result of :func:`pyrovae.diagnostics.active_units_curve`.
        threshold: Variance above which a dimension is active.
    """
    variances = found.variances.sort(descending=True).values
    active = int((variances > threshold).sum())
    lowest = min(threshold, *variances[variances > 0].tolist(), 1.0) / 3
    heights = variances.clamp(min=lowest).tolist()
    figure, (axes,) = open_figure(min(max(4.8, 1.2 + 0.3 * len(heights)), 11), 3.6)
    places = list(range(1, len(heights) + 1))
    if active:
        axes.bar(places[:active], heights[:active], color=BLUE, label=f"{active:,} active")
    if idle := len(heights) - active:
        look: dict[str, Any] = {"color": "white", "edgecolor": ORANGE, "hatch": "///"}
        axes.bar(places[active:], heights[active:], label=f"{idle:,} inactive", **look)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
    axes.set(yscale="log", xlabel="dimensions, the largest first", ylabel="variance over data of $E_q[z_j]$")
    axes.set_ylim(bottom=lowest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(frameon=False, ncols=3, loc="outside upper center")
    return figure


def _marginals(axes: Axes, draws: Tensor, prior: Tensor) -> None:
    """One dimension: the aggregate posterior filled, the prior as a hatched outline."""
    both = torch.cat([draws, prior])
    values = both.unique()
    filled: dict[str, Any] = {"color": BLUE, "alpha": 0.55, "label": "q(z|x) over data"}
    outline: dict[str, Any] = {"edgecolor": ORANGE, "hatch": "////", "linewidth": 1.4, "label": "prior p(z)"}
    if len(values) <= FEW_VALUES:
        step = (values[1:] - values[:-1]).min().item() if len(values) > 1 else 1.0
        for each, shift, look in ((draws, -0.2, filled), (prior, 0.2, {**outline, "facecolor": "white"})):
            shares = [(each == value).double().mean().item() for value in values]
            axes.bar((values + shift * step).tolist(), shares, width=0.4 * step, **look)
        axes.set_xticks(values.tolist())
        return
    low, high = torch.quantile(both, torch.tensor([0.002, 0.998], dtype=both.dtype)).tolist()
    edges = torch.linspace(low, high, 31, dtype=torch.float64).tolist()
    inside = [each.clamp(edges[0], edges[-1]).numpy() for each in (draws, prior)]  # tails are at the ends
    axes.hist(inside[0], edges, density=True, **filled)
    axes.hist(inside[1], edges, density=True, histtype="step", **outline)
