"""Distributions, and only what torch, Pyro and zuko lack."""

from pyrovae.distributions.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.distributions.discrete import Autoregressive, Bits, OneHots
from pyrovae.distributions.grey import ContinuousBernoulli, DiscretizedLogistic, Levels, OpenBeta
from pyrovae.distributions.mixtures import Defensive, GaussianMixture, Widened
from pyrovae.distributions.proportions import LogisticNormal
from pyrovae.distributions.relaxed import RelaxedOneHots, StraightThroughBits, StraightThroughOneHots
from pyrovae.distributions.sphere import PowerSpherical, UniformSphere
from pyrovae.distributions.words import Words
from pyrovae.distributions.wrapping import as_pyro, family_of, support_of

__all__ = [
    "Autoregressive",
    "Bits",
    "ContinuousBernoulli",
    "Defensive",
    "DiscretizedLogistic",
    "GaussianMixture",
    "Levels",
    "LogisticNormal",
    "NegativeBinomial",
    "OneHots",
    "OpenBeta",
    "PowerSpherical",
    "RelaxedOneHots",
    "StraightThroughBits",
    "StraightThroughOneHots",
    "UniformSphere",
    "Widened",
    "Words",
    "ZeroInflatedNegativeBinomial",
    "as_pyro",
    "family_of",
    "support_of",
]
