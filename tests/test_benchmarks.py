"""Each benchmark runs and prints a line for each contestant; what it measures is no test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_step_prints_every_contestant():
    command = [sys.executable, FOLDER / "step.py", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("  ")[0] for line in said[2:]] == [
        "plain PyTorch, eager",
        "stock Pyro SVI, validation off",
        "stock Pyro SVI",
        "pyrovae fit",
    ]
