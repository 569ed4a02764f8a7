"""Whole models made of the same parts: each function returns a (model, guide) pair of Pyro programs.

Everything that takes ``vae.model, vae.guide`` takes theirs.
"""

from pyrovae.models.classes import conditional, gaussian_mixture, semi_supervised
from pyrovae.models.hierarchical import ladder, two_layers
from pyrovae.models.pair import Pair
from pyrovae.models.ready import discrete, prod_lda

__all__ = [
    "Pair",
    "conditional",
    "discrete",
    "gaussian_mixture",
    "ladder",
    "prod_lda",
    "semi_supervised",
    "two_layers",
]
