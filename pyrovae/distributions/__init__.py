"""Distributions, and only what torch, Pyro and zuko lack."""

from pyrovae.distributions.binary import Bernoulli
from pyrovae.distributions.counts import Binomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyrovae.distributions.discrete import Autoregressive, Bits, OneHots
from pyrovae.distributions.grey import ContinuousBernoulli, DiscretizedLogistic, Levels, OpenBeta
from pyrovae.distributions.mixtures import Defensive, GaussianMixture, Widened
from pyrovae.distributions.proportions import Dirichlet, LogisticNormal
from pyrovae.distributions.real import LowRankNormal, MultivariateStudentT, Normal, StudentT
from pyrovae.distributions.relaxed import (
    RelaxedOneHots,
    StraightThroughBits,
    StraightThroughOneHots,
    check_temperature,
)
from pyrovae.distributions.sphere import PowerSpherical, UniformSphere
from pyrovae.distributions.words import Words
from pyrovae.distributions.wrapping import as_pyro, family_of, support_of

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Binomial",
    "Bits",
    "ContinuousBernoulli",
    "Defensive",
    "Dirichlet",
    "DiscretizedLogistic",
    "GaussianMixture",
    "Levels",
    "LogisticNormal",
    "LowRankNormal",
    "MultivariateStudentT",
    "NegativeBinomial",
    "Normal",
    "OneHots",
    "OpenBeta",
    "Poisson",
    "PowerSpherical",
    "RelaxedOneHots",
    "StraightThroughBits",
    "StraightThroughOneHots",
    "StudentT",
    "UniformSphere",
    "Widened",
    "Words",
    "ZeroInflatedNegativeBinomial",
    "as_pyro",
    "check_temperature",
    "family_of",
    "support_of",
]
