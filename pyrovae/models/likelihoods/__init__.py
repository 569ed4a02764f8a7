"""Likelihoods p(x | z): modules whose ``forward(z)`` returns the distribution of x for each z.

``forward(z)`` is ``given(net(z))``, where ``given`` makes a distribution of the network's output, and
``net_width`` tells how wide that output must be; another width is a ValueError. The output has the parameters
in blocks: of D features the first D numbers are the first parameter of each, the next D the second.
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
