"""Likelihoods p(x | z): modules whose ``forward(z)`` returns the distribution of x for each z.

A network gives the parameters of all features in blocks: of D features the first D numbers are the
first parameter of each, the next D the second.
"""

from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.likelihoods.counts import (
    Binomial,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyrovae.likelihoods.grey import Beta, Categorical, ContinuousBernoulli, DiscretizedLogistic
from pyrovae.likelihoods.real import Laplace, Normal, StudentT
from pyrovae.likelihoods.support import check_support

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
