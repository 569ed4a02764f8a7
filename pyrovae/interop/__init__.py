"""Other libraries: ArviZ, scikit-learn, Lightning; the Hugging Face Hub is in :mod:`pyrovae.hub`."""

from pyrovae.interop.arviz import read_netcdf, statistics_of, to_arviz, to_elpd, write_netcdf
from pyrovae.interop.lightning import lightning_checkpoints, lightning_module
from pyrovae.interop.sklearn import Density, score_samples

__all__ = [
    "Density",
    "lightning_checkpoints",
    "lightning_module",
    "read_netcdf",
    "score_samples",
    "statistics_of",
    "to_arviz",
    "to_elpd",
    "write_netcdf",
]
