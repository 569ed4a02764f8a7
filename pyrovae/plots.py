"""Figures: each function takes results and returns a matplotlib figure, which it neither shows nor saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.distributions import Normal

from pyrovae.tables import mean_errors

if TYPE_CHECKING:
    from pyrovae.diagnostics import Calibration, Divergences, Gaps
    from pyrovae.training import History
    from pyrovae.vae import VAE

__all__ = [
    "calibration",
    "gaps",
    "image_grid",
    "interpolation",
    "kl",
    "latent_plane",
    "learning_curves",
    "reconstructions",
    "samples",
]

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart by every eye and in grey


def learning_curves(history: History) -> Figure:
    """The ELBO over epochs beside its two parts, reconstruction and KL, training and validation.

    Args:
        history: What :func:`pyrovae.fit` returned.
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
        _open(axes)
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
        _open(axes)
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
    _open(axes)
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
    _open(axes)
    return figure


def image_grid(
    rows: Sequence[Tensor], shape: tuple[int, ...], labels: Sequence[str] = (), title: str = ""
) -> Figure:
    """Rows of images in grey, black for 0 and white for 1.

    Args:
        rows: Each row ``[columns, pixels]``, values in [0, 1].
        shape: Height and width of an image.
        labels: One for each row.
        title: Of the figure.
    """
    if len(shape) != 2:
        raise ValueError(f"image_grid: expected images of shape (height, width), got {shape}")
    height, width = shape
    canvas = torch.cat([_strip(row.detach().cpu(), height, width) for row in rows], 0)[:-1, :-1]
    columns = max(len(row) for row in rows)
    size = (0.7 * columns + (1.2 if labels else 0), 0.7 * len(rows) + (0.3 if title else 0))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(height + 1) * (i + 0.5) for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return figure


def reconstructions(vae: VAE, x: Tensor, shape: tuple[int, ...]) -> Figure:
    """Data above their reconstructions, the mean of p(x | z) at the mean of q(z | x)."""
    with torch.no_grad():
        return image_grid([x, vae.reconstruct(x)], shape, ["data", "reconstruction"])


def samples(vae: VAE, shape: tuple[int, ...], rows: int = 8, columns: int = 12) -> Figure:
    """Means of p(x | z) at draws of the prior."""
    with torch.no_grad():
        z = vae.prior().expand((rows * columns,)).sample()
        means = vae.decode(z).mean
    return image_grid(list(means.split(columns)), shape, title="mean of p(x|z) at draws of the prior")


def interpolation(vae: VAE, a: Tensor, b: Tensor, shape: tuple[int, ...], steps: int = 12) -> Figure:
    """Means of p(x | z) on lines between codes, a row for each pair of ``a`` and ``b`` ``[n, pixels]``."""
    with torch.no_grad():
        lines = vae.interpolate(a, b, steps)
    return image_grid(list(lines.unbind(1)), shape, title="mean of p(x|z) on the line between two codes")


def latent_plane(vae: VAE, shape: tuple[int, ...], points: int = 20) -> Figure:
    """Means of p(x | z) over a two-dimensional latent space, at the normal's even quantiles."""
    levels = torch.linspace(0.5 / points, 1 - 0.5 / points, points)
    axis = Normal(0.0, 1.0).icdf(levels)
    down, across = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    with torch.no_grad():
        means = vae.decode(torch.stack([across, down], -1)).mean
    figure = image_grid(list(means), shape, title="mean of p(x|z) over the latent plane")
    axes = figure.axes[0]
    height, width = shape
    shown = range(0, points, max(points // 10, 1))
    axes.set_xticks([(width + 1) * (i + 0.5) for i in shown], [f"{axis[i]:.1f}" for i in shown])
    down_labels = [f"{axis[points - 1 - i]:.1f}" for i in shown]
    axes.set_yticks([(height + 1) * (i + 0.5) for i in shown], down_labels)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
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


def _open(axes: Axes) -> None:
    """A faint grid, and no frame above and right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _strip(images: Tensor, height: int, width: int) -> Tensor:
    """One row of images side by side, a grey line after and below each."""
    padded = torch.full((len(images), height + 1, width + 1), 0.5)
    padded[:, :height, :width] = images.reshape(-1, height, width)
    return padded.permute(1, 0, 2).reshape(height + 1, -1)
