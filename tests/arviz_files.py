"""Writes tests/data/arviz_0.nc or arviz_1.nc, by the line of ArviZ that is installed:

python tests/arviz_files.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import IS_OLD_ARVIZ

import pyrovae as pv
from pyrovae.testing import LinearGaussian

FOLDER = Path(__file__).parent / "data"
FILES = {"0.23": FOLDER / "arviz_0.nc", "1.x": FOLDER / "arviz_1.nc"}

ORACLE = LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, -1.0], [2.0, 1.0]]), noise=0.5)
X = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.25, -1.5]])


def tree() -> object:
    """Of a perfect guide: what the file has to hold is known, whatever was drawn."""
    result = pv.evaluate(ORACLE.model, ORACLE.guide, X, num_samples=30, progress=False)
    return result.to_arviz(
        ORACLE.model,
        ORACLE.guide,
        X,
        num_samples=30,
        num_draws=5,
        num_chains=2,
        dims={"z": ["latent"]},
        coords={"latent": ["first", "second"]},
    )


if __name__ == "__main__":
    pv.interop.write_netcdf(tree(), FILES["0.23" if IS_OLD_ARVIZ else "1.x"])
