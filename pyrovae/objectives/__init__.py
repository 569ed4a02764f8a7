"""Objectives beyond Pyro's own, each a Pyro ELBO: for SVI, for torch's optimisers, and for fit.

All weigh each datum's own draws, so the model needs one data plate. A plate's N/B and any KL weight multiply
terms outside of logarithms.
"""

from pyrovae.objectives.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from pyrovae.objectives.terms import capacity, cyclical, free_bits, kl_weight, mmd, total_correlation, warmup
from pyrovae.objectives.wake_sleep import TVO, WakeSleep

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "TVO",
    "Renyi",
    "WakeSleep",
    "capacity",
    "cyclical",
    "free_bits",
    "kl_weight",
    "mmd",
    "total_correlation",
    "warmup",
]
