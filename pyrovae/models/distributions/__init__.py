"""Distributions, and only what torch, Pyro and zuko lack."""

from pyrovae.core.wrap import as_pyro, family_of, support_of
from pyrovae.models.distributions.binary import Bernoulli
from pyrovae.models.distributions.counts import (
    Binomial,
    NegativeBinomial,
    Poisson,
    Words,
    ZeroInflatedNegativeBinomial,
)
from pyrovae.models.distributions.discrete import Autoregressive, Bits, OneHots
from pyrovae.models.distributions.mixtures import Defensive, GaussianMixture, Widened
from pyrovae.models.distributions.pixels import ContinuousBernoulli, DiscretizedLogistic, Levels, OpenBeta
from pyrovae.models.distributions.real import LowRankNormal, MultivariateStudentT, Normal, StudentT
from pyrovae.models.distributions.relaxed import (
    RelaxedOneHots,
    StraightThroughBits,
    StraightThroughOneHots,
    check_temperature,
)
from pyrovae.models.distributions.simplex import Dirichlet, LogisticNormal
from pyrovae.models.distributions.sphere import PowerSpherical, UniformSphere

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
