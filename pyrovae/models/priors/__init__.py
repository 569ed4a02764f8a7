"""Priors p(z): modules whose ``forward()`` returns the distribution of one latent vector.

A flow of zuko, such as ``zuko.flows.NSF(16)``, is a prior too, and so is any Distribution.
"""

from pyrovae.models.priors.discrete import (
    AutoregressiveBernoulli,
    AutoregressiveCategorical,
    Bernoulli,
    Categorical,
    RelaxedCategorical,
)
from pyrovae.models.priors.mixtures import GaussianMixture, VampPrior
from pyrovae.models.priors.real import ConditionalNormal, Laplace, Normal, StandardNormal, StudentT
from pyrovae.models.priors.simplex import Dirichlet, LogisticNormal, UniformSphere

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "Bernoulli",
    "Categorical",
    "ConditionalNormal",
    "Dirichlet",
    "GaussianMixture",
    "Laplace",
    "LogisticNormal",
    "Normal",
    "RelaxedCategorical",
    "StandardNormal",
    "StudentT",
    "UniformSphere",
    "VampPrior",
]
