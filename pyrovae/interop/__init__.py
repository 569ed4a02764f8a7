"""Other libraries: ArviZ, scikit-learn, Lightning; the Hugging Face Hub is in :mod:`pyrovae.hub`."""

from typing import TYPE_CHECKING, Any

from pyrovae.interop.arrays import score_samples
from pyrovae.interop.arviz import read_netcdf, statistics_of, to_arviz, to_elpd, write_netcdf
from pyrovae.interop.lightning import lightning_checkpoints, lightning_module

if TYPE_CHECKING:
    from pyrovae.interop.sklearn import Density

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


def __getattr__(name: str) -> Any:
    """Import scikit-learn, an extra, only where Density is asked for."""
    if name != "Density":
        raise AttributeError(f"module 'pyrovae.interop' has no attribute '{name}'")
    from pyrovae.interop.sklearn import Density

    return Density
