"""Likelihoods p(x | z): modules whose ``forward(z)`` returns the distribution of x for each z.

A network gives the parameters of all features in blocks: of D features the first D numbers are the
first parameter of each, the next D the second.
"""

from pyrovae.models.likelihoods.binary import Bernoulli
from pyrovae.models.likelihoods.checks import check_support
from pyrovae.models.likelihoods.counts import (
    Binomial,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyrovae.models.likelihoods.pixels import Beta, Categorical, ContinuousBernoulli, DiscretizedLogistic
from pyrovae.models.likelihoods.real import Laplace, Normal, StudentT

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "check_support",
]
