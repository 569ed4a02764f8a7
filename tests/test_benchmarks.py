"""Each benchmark runs and prints a line for each contestant; what it measures is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_step_prints_every_contestant_and_keeps_the_times(tmp_path):
    some = ["plain PyTorch, eager", "stock Pyro SVI", "pyrovae, eager", "floor: products and Adam"]
    arguments = [
        "--rounds=2",
        "--steps=2",
        "--batches=8",
        f"--json={tmp_path / 'step.json'}",
        "--only",
        *some,
    ]
    command = [sys.executable, FOLDER / "step.py", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[1].startswith("NumPyro is left out")
    assert [line[:36].strip() for line in said[4:8]] == some
    kept = json.loads((tmp_path / "step.json").read_text())["seconds"]
    assert list(kept) == ["one step, mlp, batch 8", "one step, conv, batch 8"]
    assert all(len(times) == 2 for table in kept.values() for times in table.values())


@pytest.mark.slow
def test_objectives_prints_every_contestant_and_the_cost_of_draws(tmp_path):
    some = ["IWAE of 6, dreg", "ELBO, free bits 0.25"]
    arguments = ["--epochs=1", "--draws=30", "--rows=100", "--rounds=1", f"--folder={tmp_path}"]
    command = [sys.executable, FOLDER / "objectives.py", *arguments, "--only", *some]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = said[said.index("mnist-mini test") :].splitlines()
    assert "K = 30" in lines[0]
    assert [line[:22].strip() for line in lines[3:6]] == ["ELBO", *some]
    assert all("±" in line for line in lines[3:6])
    assert lines[-7].split()[:2] == ["1", "1.00"]
    assert lines[-1].split()[0] == "64"


@pytest.mark.slow
def test_parts_prints_priors_and_guides_against_the_first_line(tmp_path):
    some = ["prior: mixture of 50 normals", "guide: IAF", "proposal: defensive, 0.1 prior"]
    command = [
        sys.executable,
        FOLDER / "parts.py",
        "--epochs=1",
        "--draws=30",
        f"--folder={tmp_path}",
        "--only",
    ]
    said = subprocess.run([*command, *some], capture_output=True, text=True, check=True).stdout
    for name in ["standard normal prior, normal guide", *some]:
        assert f"{name}: " in said
    lines = said[said.index("mnist-mini test") :].splitlines()
    assert "K = 30" in lines[0]
    assert sum(line.startswith("standard normal prior, normal guide") for line in lines) == 2
    assert all("±" in line for line in lines if line.startswith(("prior:", "guide:", "proposal:")))
    assert len(list(tmp_path.glob("*.nc"))) == 4


@pytest.mark.slow
def test_evidence_prints_every_way_and_draws_them(tmp_path):
    arguments = ["--epochs=1", "--rows=3", "--temperatures=10", "--reference=50", f"--folder={tmp_path}"]
    command = [sys.executable, FOLDER / "evidence.py", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = said[said.index("mnist-mini test") :].splitlines()
    assert "bounds" in lines[2]
    names = ["guide, 1,000 draws", "adapted, to 0.05 nats", "annealed, 1", "annealed, 10"]
    assert [name for name in names if any(line.startswith(name + "  ") for line in lines)] == names
    assert sum("±" in line for line in lines) == 10
    assert lines[-1].startswith("adapted, to 0.05 nats: 3 of 3 rows are there")
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_of_many_gpus_prints_its_tables(tmp_path):
    command = [sys.executable, FOLDER / "distributed.py", "--model", f"--json={tmp_path / 'none.json'}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said in (FOLDER.parent / "docs" / "scaling.md").read_text()


@pytest.mark.slow
def test_distributed_prints_one_process_and_two_and_where_a_step_goes(tmp_path):
    kept = tmp_path / "distributed.json"
    arguments = ["--rounds=2", "--steps=2", "--groups", "2", "3", f"--json={kept}"]
    command = [sys.executable, FOLDER / "distributed.py", *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [
        line.split()[-1] for line in lines if line.startswith(("a step of one", "evaluation by one"))
    ] == ["1.00"] * 2
    assert sum(line.startswith(("of two,", "evaluation by two")) for line in lines) == 3
    assert sum(line.endswith("%") for line in lines) == 4
    found = json.loads(kept.read_text())
    assert all(len(times) == 2 for times in found["seconds"].values())
    assert list(found["latency"]) == ["2", "3"]


@pytest.mark.slow
def test_likelihoods_prints_each_form_in_each_use(tmp_path):
    arguments = ["--rounds=1", "--steps=1", "--draws=10", f"--json={tmp_path / 'likelihoods.json'}"]
    command = [sys.executable, FOLDER / "likelihoods.py", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    kept = json.loads((tmp_path / "likelihoods.json").read_text())["seconds"]
    assert [line[:44].strip() for line in said[3:]] == list(kept)
    assert len(kept) == 3 * 2 * 2
    assert all(len(times) == 1 for forms in kept.values() for times in forms.values())


@pytest.mark.slow
def test_shares_add_up(tmp_path):
    arguments = ["--repeats=2", "--draws=20", "--rows=512", f"--json={tmp_path / 'shares.json'}"]
    subprocess.run([sys.executable, FOLDER / "shares.py", *arguments], capture_output=True, check=True)
    kept = json.loads((tmp_path / "shares.json").read_text())
    epoch = kept.pop("epoch")
    assert 0 < epoch["in steps"] < epoch["seconds"]
    kept.pop("machine")
    assert len(kept) == 4
    for found in kept.values():
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert found["shares"]["matrix products"] > 0
