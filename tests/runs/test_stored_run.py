"""A run that version 0.1.0 left, before the package had folders: it loads, goes on and evaluates as then.

``run_linear_gaussian`` was made by::

    pyrovae train RUN --dataset linear-gaussian --likelihood Normal --latent-dim 2 --hidden 4 --num-epochs 2 \
        --batch-size 256
    pyrovae evaluate RUN --num-samples 64
    pyrovae train RUN --resume --num-epochs 3        # whose weights are third_epoch.safetensors

On the processor that made it all is the same to the bit; elsewhere sums may be rounded otherwise.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pyrovae as pv
from pyrovae import cli

STORED = Path(__file__).parents[1] / "data" / "run_linear_gaussian"


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "run"))


def test_it_loads_and_evaluates_to_the_same_numbers(run):
    stored = pv.Evaluation.load(run / "evaluation.nc")
    assert cli.main(["evaluate", str(run), "--num-samples", "64", "--quiet"]) == 0
    now = pv.Evaluation.load(run / "evaluation.nc")
    assert now.conventions == stored.conventions
    for name in ("log_evidence", "elbo", "standard_error", "khat"):
        torch.testing.assert_close(getattr(now, name), getattr(stored, name), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch may be another version than then
def test_it_goes_on_to_the_same_weights(run):
    assert cli.main(["train", str(run), "--resume", "--num-epochs", "3", "--quiet"]) == 0
    now, then = load_file(run / "weights.safetensors"), load_file(STORED / "third_epoch.safetensors")
    assert now.keys() == then.keys()
    for name, tensor in then.items():
        torch.testing.assert_close(now[name], tensor, rtol=1e-5, atol=1e-6)
