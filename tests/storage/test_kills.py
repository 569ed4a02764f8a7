"""Kill -9 at any moment: each run that is taken up ends with the bits of the one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv

SERVER = Path(__file__).parents[1] / "kill_server.py"


def served(*arguments) -> dict:
    command = [sys.executable, SERVER, *map(str, arguments)]
    here = os.environ | {"PYTHONPATH": str(Path(pv.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_at_random_moments_of_training_keeping_and_evaluating(tmp_path, kills):
    found = served(tmp_path, "random", kills)
    print(f"{found['kills']} kills, {found['same']} of {found['runs']} runs end the same")
    assert found["kills"] >= kills
    assert found["same"] == found["runs"] > 0


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_between_the_files_of_a_checkpoint(tmp_path, stride):
    """At each point, or each 41st, where a file is written, flushed, renamed or deleted."""
    found = served(tmp_path, "points", stride)
    print(f"{found['kills']} kills, {found['same']} of {found['runs']} runs end the same")
    assert found["same"] == found["runs"] > 2
