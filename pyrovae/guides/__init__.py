"""Guides q(z | x): modules whose ``forward(x)`` returns the distribution of z for each row of x.

A guide of ours is a network and, as ``given``, the distribution that its output stands for. A
conditional flow of zuko, such as ``zuko.flows.NSF(16, 784)``, is a guide as it is.
"""

from pyrovae.guides.bounded import Dirichlet, LogisticNormal, LogNormal, PowerSpherical
from pyrovae.guides.discrete import Bernoulli, Categorical
from pyrovae.guides.flow import Flow
from pyrovae.guides.normal import Delta, FullRankNormal, GaussianMixture, LowRankNormal, Normal
from pyrovae.guides.refined import Refined
from pyrovae.guides.relaxed import RelaxedCategorical, StraightThrough
from pyrovae.guides.wrappers import Defensive, Widened

__all__ = [
    "Bernoulli",
    "Categorical",
    "Defensive",
    "Delta",
    "Dirichlet",
    "Flow",
    "FullRankNormal",
    "GaussianMixture",
    "LogNormal",
    "LogisticNormal",
    "LowRankNormal",
    "Normal",
    "PowerSpherical",
    "Refined",
    "RelaxedCategorical",
    "StraightThrough",
    "Widened",
]
