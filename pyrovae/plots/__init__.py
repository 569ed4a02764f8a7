"""Figures: each function takes results and returns a matplotlib figure, which it neither shows nor saves."""

from pyrovae.plots.evidence import comparison, evidence
from pyrovae.plots.images import image_grid, interpolation, latent_plane, reconstructions, samples, worst
from pyrovae.plots.latents import active_units, aggregate_posterior, codes
from pyrovae.plots.numbers import calibration, gaps, kl, learning_curves, reliability

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
