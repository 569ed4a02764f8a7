"""Figures of images: data, samples, reconstructions, and the least reliable data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from pyrovae.data.rows import Data, num_rows, take_rows
from pyrovae.evaluation.results import Evaluation
from pyrovae.models.vae import VAE

__all__ = ["image_grid", "interpolation", "latent_plane", "reconstructions", "samples", "worst"]


def image_grid(
    rows: Sequence[Tensor], shape: tuple[int, ...], labels: Sequence[str] = (), title: str = ""
) -> Figure:
    """A grid of grey images, black for 0 and white for 1.

    Args:
        rows: Images ``[columns, pixels]`` of each row, values in [0, 1].
        shape: Height and width of an image.
        labels: Label of each row.
        title: Title of the figure.

    Example:
        >>> figure = image_grid([torch.rand(5, 9), torch.rand(5, 9)], (3, 3), labels=["data", "mean"])
        >>> figure.axes[0].get_xticks().size
        0
    """
    height, width = _check_shape("image_grid", shape)
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
    """Data above their reconstructions: the mean of p(x | z) at the mean of q(z | x)."""
    with torch.no_grad():
        return image_grid([x, vae.reconstruct(x)], shape, ["data", "reconstruction"])


def samples(vae: VAE, shape: tuple[int, ...], rows: int = 8, columns: int = 12) -> Figure:
    """Means of p(x | z) at draws of the prior."""
    with torch.no_grad():
        z = vae.prior().expand((rows * columns,)).sample()
        means = vae.decode(z).mean
    return image_grid(list(means.split(columns)), shape, title="mean of p(x|z) at draws of the prior")


def interpolation(vae: VAE, a: Tensor, b: Tensor, shape: tuple[int, ...], steps: int = 12) -> Figure:
    """Means of p(x | z) on lines between codes, one row for each pair of ``a`` and ``b`` ``[n, pixels]``."""
    with torch.no_grad():
        lines = vae.interpolate(a, b, steps)
    return image_grid(list(lines.unbind(1)), shape, title="mean of p(x|z) on the line between two codes")


def latent_plane(vae: VAE, shape: tuple[int, ...], points: int = 20) -> Figure:
    """Means of p(x | z) over a two-dimensional latent space, at even quantiles of a standard normal."""
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
    axes.set(xlabel="z[0]", ylabel="z[1]")
    return figure


def worst(result: Evaluation, data: Data, shape: tuple[int, ...], count: int = 12) -> Figure:
    """The data whose log p(x) is least reliable, each with its row number, log p(x) and k-hat.

    Args:
        result: Result of :func:`pyrovae.evaluate`.
        data: Evaluated data: images in [0, 1], the first argument where there are several.
        shape: Height and width of an image.
        count: Number of images.
    """
    if num_rows(data) != len(result):
        raise ValueError(f"worst: the result is of {len(result):,} rows, the data have {num_rows(data):,}")
    _check_shape("worst", shape)
    rows = result.worst(count)
    images = take_rows(data, rows)[0].detach().cpu()
    down = math.ceil(len(rows) / 6)
    across = math.ceil(len(rows) / down)
    figure = Figure(figsize=(1.5 * across, 2.1 * down + 0.4), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, row, image in zip(grid, rows.tolist(), images, strict=False):
        axes.imshow(image.reshape(shape).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        value, error, khat = (
            column[row].item() for column in (result.log_evidence, result.standard_error, result.khat)
        )
        known = "" if math.isnan(error) else f" \\pm {error:.2g}"
        axes.set_xlabel(f"row {row}\n${value:.1f}{known}$\n$\\hat k$ = {_shown(khat)}", fontsize=9)
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    figure.suptitle("log p(x) in nats ± its Monte Carlo error, and $\\hat k$", fontsize=10)
    return figure


def _shown(khat: float) -> str:
    special = {math.inf: "$\\infty$", -math.inf: "$-\\infty$"}
    return "unknown" if math.isnan(khat) else special.get(khat, f"{khat:.2f}")


def _check_shape(where: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 2:
        raise ValueError(f"{where}: expected images of shape (height, width), got {shape}")
    return shape


def _strip(images: Tensor, height: int, width: int) -> Tensor:
    """One row of images side by side, a grey line after and below each."""
    padded = torch.full((len(images), height + 1, width + 1), 0.5)
    padded[:, :height, :width] = images.reshape(-1, height, width)
    return padded.permute(1, 0, 2).reshape(height + 1, -1)
