"""Figures: each function takes results and returns a matplotlib figure, neither shown nor saved."""

from pyrovae.reports.plots.images import (
    image_grid,
    interpolation,
    latent_plane,
    reconstructions,
    samples,
    worst,
)
from pyrovae.reports.plots.latents import active_units, aggregate_posterior, codes
from pyrovae.reports.plots.results import (
    calibration,
    comparison,
    evidence,
    gaps,
    kl,
    learning_curves,
    reliability,
)

__all__ = [
    "active_units",
    "aggregate_posterior",
    "calibration",
    "codes",
    "comparison",
    "evidence",
    "gaps",
    "image_grid",
    "interpolation",
    "kl",
    "latent_plane",
    "learning_curves",
    "reconstructions",
    "reliability",
    "samples",
    "worst",
]
