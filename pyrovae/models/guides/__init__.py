"""Guides q(z | x): modules whose ``forward(x)`` returns the distribution of z for each row of x.

Most guides have a network: ``forward(x)`` is ``given(net(x))``, where ``given`` makes a distribution of the
network's output, and ``net_width`` tells how wide that output must be; another width is a ValueError. A
conditional flow of zuko, such as ``zuko.flows.NSF(16, 784)``, is a guide too.

"""

from pyrovae.models.guides.bounded import Dirichlet, LogisticNormal, LogNormal, PowerSpherical
from pyrovae.models.guides.discrete import Bernoulli, Categorical, RelaxedCategorical, StraightThrough
from pyrovae.models.guides.flow import Flow
from pyrovae.models.guides.real import Delta, FullRankNormal, GaussianMixture, LowRankNormal, Normal
from pyrovae.models.guides.refined import Refined
from pyrovae.models.guides.wrappers import Defensive, Widened

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
