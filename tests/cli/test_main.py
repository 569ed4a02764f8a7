"""The command line, as a user meets it: run folders, exit codes, one line for each error."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae import cli
from pyrovae.runs.recipe import read_run
from pyrovae.runs.saving import Keeper

SMALL = ["--num-epochs", "2", "--hidden", "20", "--latent-dim", "2"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    """The command in this process, in its own precision: a process of its own takes seconds."""
    before, out, err = torch.get_default_dtype(), io.StringIO(), io.StringIO()
    torch.set_default_dtype(torch.float32)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(list(map(str, arguments)))
    finally:
        torch.set_default_dtype(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run_apart(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pyrovae", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "räksmörgås and spaces"
    done = run("train", folder, *SMALL)
    assert done.returncode == 0, done.stderr
    (folder / "trained").write_text(f"{done.stdout}\0{done.stderr}")
    done = run("evaluate", folder, "--num-samples", "30")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_train_leaves_recipe_weights_history_and_figures(a_run):
    recipe = json.loads((a_run / "recipe.json").read_text())
    assert recipe["recipe"]["latent_dim"] == 2
    assert recipe["recipe"]["hidden"] == [20]
    assert recipe["conventions"]["binarisation"] == "dynamic"
    history = json.loads((a_run / "history.json").read_text())
    assert len(history["elbo"]) == len(history["validation_kl"]) == 2
    assert history["elbo"][1] > history["elbo"][0]
    names = {"interpolation", "latent_plane", "learning_curves", "reconstructions", "samples"}
    for name in names:
        assert (a_run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.stem for path in (a_run / "figures").iterdir()} == names


def test_evaluate_prints_the_table_and_keeps_each_datum(a_run):
    said = (a_run / "stdout").read_text()
    assert said.startswith("mnist-mini test, 1,000 rows, binarisation dynamic, K = 30 draws")
    result = pv.Evaluation.load(a_run / "evaluation.nc")
    assert said.startswith(str(result))
    assert len(result) == 1000
    assert read_run(a_run).weights == result.conventions["weights"]


def test_compare_prints_paired_differences(a_run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(a_run, other)
    assert cli.main(["compare", str(a_run), str(other)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mnist-mini test, 1,000 rows, binarisation dynamic, K = 30 draws")
    assert f"paired with {a_run}" in said
    assert "too close to call" in said
    assert cli.main(["compare", str(a_run), str(other), "--reference", str(other)]) == 0
    assert f"paired with {other}" in capsys.readouterr().out
    (other / "evaluation.nc").unlink()
    assert cli.main(["compare", str(a_run), str(other)]) == 2
    assert f"evaluate the run first, pyrovae evaluate {other} --split test" in capsys.readouterr().err
    assert cli.main(["compare", str(a_run)]) == 2
    assert "compare: 1 run given, at least 2 are needed" in capsys.readouterr().err


def test_load_gives_the_trained_model_back(a_run):
    torch.set_default_dtype(torch.float32)  # as the command line had it
    vae = pv.load(a_run)
    digits = pv.datasets.load("mnist-mini")
    again = pv.evaluate(vae.model, vae.guide, digits.test, num_samples=30, proposal="auto", progress=False)
    assert torch.equal(again.log_evidence, pv.Evaluation.load(a_run / "evaluation.nc").log_evidence)


def test_progress_goes_to_standard_error_in_plain_lines(a_run):
    out, err = (a_run / "trained").read_text().split("\0")
    assert re.search(r"train: 80 of 80 \(100%\), \S+ gone, 00:00 left, epoch 2, ELBO -\d+\.\d\d\n$", err)
    assert "\r" not in err
    assert "ELBO" not in out
    assert f"figure: {a_run / 'figures' / 'samples.png'}" in out


def test_a_run_that_goes_on_is_that_of_one_go(a_run, tmp_path, capsys):
    """One epoch, then --resume with a second, is the run of two; then nothing is left to do."""
    folder = str(tmp_path / "run")
    assert run("train", folder, *SMALL[2:], "--num-epochs", "1").returncode == 0
    assert cli.main(["train", folder, "--resume", "--hidden", "30", "--latent-dim", "3"]) == 2
    assert "latent_dim is 2 there and 3 here; hidden is [20] there and [30] here" in capsys.readouterr().err
    for _ in range(2):
        done = run("train", folder, "--resume", "--num-epochs", "2")
        assert done.returncode == 0, done.stderr
    name = "weights.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (a_run / name).read_bytes()
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["num_epochs"] == 2
    assert cli.main(["train", str(tmp_path / "none"), "--resume"]) == 2
    assert "no recipe.json, so no run" in capsys.readouterr().err


def test_a_folder_of_something_else_is_said_before_training(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert cli.main(["train", str(tmp_path)]) == 2
    assert "holds 'thesis.tex' and no run: name another folder" in capsys.readouterr().err


def test_the_same_recipe_gives_the_same_weights_in_another_process(a_run, tmp_path):
    """And --quiet leaves nothing to read."""
    done = run_apart("train", tmp_path / "again", *SMALL, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    name = "weights.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (a_run / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, capsys, monkeypatch):
    def refuse(self: Path, *args, **kwargs) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # a mode is nothing to root, who may run the tests
    assert cli.main(["train", str(tmp_path)]) == 2
    assert f"{tmp_path} cannot be written to (Permission denied)" in capsys.readouterr().err


def test_a_run_is_not_written_over_unless_asked(a_run, capsys):
    before = (a_run / "weights.safetensors").read_bytes()
    assert cli.main(["train", str(a_run), *SMALL]) == 2
    assert (
        "holds a run already: go on with it by --resume, name another folder, or pass --overwrite"
        in capsys.readouterr().err
    )
    assert (a_run / "weights.safetensors").read_bytes() == before


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def check_interrupted(folder: Path, said: str) -> None:
    message = said.splitlines()[-1]
    assert re.match(r"pyrovae: interrupted: [1-9]\d* epochs and \d+ steps are in .*a run", message)
    assert message.endswith(f"go on with pyrovae train '{folder}' --resume")
    history = json.loads((folder / "history.json").read_text())
    assert len(history["elbo"]) >= 1
    assert not (folder / "weights.safetensors").exists()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_interrupting_keeps_what_was_trained_and_says_how_to_go_on(tmp_path, number, code, monkeypatch):
    """The signal comes amid the second epoch; the quick form of the test below, which has processes."""
    folder, steps = tmp_path / "a run", []

    def step(self: Keeper, training: object) -> None:
        steps.append(training)
        if len(steps) == 42:
            signal.raise_signal(number)

    monkeypatch.setattr(Keeper, "step", step, raising=False)
    done = run("train", folder, *SMALL[2:], "--num-epochs", "1000", "--json")
    assert done.returncode == code
    assert not done.stdout
    check_interrupted(folder, done.stderr)
    assert "1 epochs and 2 steps" in done.stderr
    assert len(steps) == 42
    if number == signal.SIGINT:  # of the checkpoint
        assert run("evaluate", folder, "--num-samples", "2", "--proposal", "guide", "--quiet").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_process_that_is_interrupted_leaves_with_the_signals_code(tmp_path, number, code):
    folder = tmp_path / "a run"
    command = [sys.executable, "-m", "pyrovae", "train", folder, *SMALL[2:], "--num-epochs", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/*1")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    check_interrupted(folder, said)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "no weights there"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"<html>"), "not the weights of this"),
        (lambda folder: (folder / "recipe.json").write_text("{"), "not a recipe this version reads"),
        (lambda folder: (folder / "recipe.json").write_text('{"format": 3}'), "install a newer pyrovae"),
    ],
)
def test_damaged_runs_are_named(a_run, tmp_path, damage, message, capsys):
    for name in ("recipe.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((a_run / name).read_bytes())
    damage(tmp_path)
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_weights_of_another_recipe_are_refused(a_run, tmp_path, capsys):
    recipe = json.loads((a_run / "recipe.json").read_text())
    recipe["recipe"]["latent_dim"] = 3
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "weights.safetensors").write_bytes((a_run / "weights.safetensors").read_bytes())
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "not the weights of this model" in capsys.readouterr().err


def test_save_and_load_a_model_of_the_users_own(tmp_path):
    vaes = []
    for _ in range(2):
        q = pv.guides.Normal(pv.networks.MLP(6, 4))
        likelihood = pv.likelihoods.Bernoulli(pv.networks.MLP(2, 6))
        vaes.append(pv.VAE(pv.priors.StandardNormal(2), likelihood, q))
    pv.save(vaes[0], tmp_path)
    assert pv.load(tmp_path, vaes[1]) is vaes[1]
    for a, b in zip(vaes[0].parameters(), vaes[1].parameters(), strict=True):
        assert torch.equal(a, b)
    prior = r"prior pyrovae\.models\.priors\.real\.StandardNormal"
    parts = rf"{prior}, likelihood .*Bernoulli of net MLP, guide .*Normal of .*"
    said = rf"weights of pyrovae\.models\.vae\.VAE with {parts}, without a recipe\.json: build the model they"
    with pytest.raises(FileNotFoundError, match=said):
        pv.load(tmp_path)


def test_a_run_that_failed_at_once_leaves_no_run(tmp_path, capsys):
    arguments = ["train", str(tmp_path), *SMALL, "--learning-rate", "1e9"]
    assert cli.main(arguments) == 1
    assert "fit: the loss is" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.*"))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["train", str(tmp_path / "file")]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err
