"""The command line, as a user meets it: real processes, exit codes, one line for each error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae import cli
from pyrovae.recipes import read_run

SMALL = ["--num-epochs", "2", "--hidden", "20", "--latent-dim", "2"]


def run(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pyrovae", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **keywords)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "räksmörgås and spaces"
    done = run("train", folder, *SMALL)
    assert done.returncode == 0, done.stderr
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


def test_progress_goes_to_standard_error(tmp_path):
    done = run("train", tmp_path / "run", *SMALL)
    assert "ELBO" in done.stderr
    assert "ELBO" not in done.stdout
    assert f"figure: {tmp_path / 'run' / 'figures' / 'samples.png'}" in done.stdout


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


def test_the_same_recipe_gives_the_same_weights(a_run, tmp_path):
    assert run("train", tmp_path / "again", *SMALL).returncode == 0
    name = "weights.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (a_run / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "RUN", "--dataset", "mnist-mni"],
            "unknown data set 'mnist-mni': did you mean 'mnist-mini'?",
        ),
        (["train", "RUN", "--dataset", "linear-gaussian"], "real-valued"),
        (["train", "RUN", "--latent-dm", "3"], "Perhaps you meant: --latent-dim INT"),
        (["train", "RUN", "--latent-dim", "three"], "invalid literal for int() with base 10: 'three'"),
        (["train", "RUN", "--latent-dim", "0"], "latent_dim: Input should be greater than or equal to 1"),
        (["train", "RUN", "--hidden", "0"], "every width must be at least 1"),
        (["train", "RUN", "--binarisation", "dinamic"], "dinamic"),
        (["train", "RUN", "--dataset", "static-mnist", "--root", "RUN"], "static-mnist: neither"),
        (["train", "/proc/run"], "/proc/run"),
        (["train", "/dev/null/run"], "/dev/null"),
        (["train"], "PATH"),
        (["tain", "RUN"], "Available subcommands: train, evaluate"),
        (["evaluate", "RUN"], "no recipe.json, so no run: train one with"),
        (["evaluate", "RUN", "--split", "tst"], "unknown split 'tst': did you mean 'test'?"),
        (["evaluate", "RUN", "--num-samples", "0"], "--num-samples is 0: at least 1 is needed"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, message, tmp_path, capsys):
    folder = str(tmp_path / "run")
    code = cli.main([folder if word == "RUN" else word for word in arguments])
    said = capsys.readouterr()
    assert code == 2
    assert message in said.err
    assert said.err.startswith("pyrovae: ")
    assert said.err.count("\n") == 1
    assert not said.out


def test_errors_and_help_come_before_torch_is_imported(tmp_path):
    """So they answer at once: torch alone takes seconds to import."""
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["train", "x", "--dataset", "mnst"],
        ["evaluate", "x"],
    ):
        code = (
            f"import sys; from pyrovae.cli import main; main({arguments!r})\n"
            "assert 'torch' not in sys.modules, 'torch was imported'"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_help_explains_every_option(capsys):
    assert cli.main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--dataset", "--latent-dim", "--num-epochs", "--root", "--overwrite", "(default: 16)"):
        assert option in said


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_keeps_what_was_trained_and_says_how_to_go_on(tmp_path, number, code):
    folder = tmp_path / "a run"
    command = [sys.executable, "-m", "pyrovae", "train", folder, *SMALL[2:], "--num-epochs", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/*1")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    message = said.splitlines()[-1]
    assert re.match(r"pyrovae: interrupted: [1-9]\d* epochs and \d+ steps are in .*a run", message)
    assert message.endswith(f"go on with pyrovae train '{folder}' --resume")
    history = json.loads((folder / "history.json").read_text())
    assert len(history["elbo"]) >= 1
    assert not (folder / "weights.safetensors").exists()
    assert run("evaluate", folder, "--num-samples", "2").returncode == 0  # of the checkpoint


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
    parts = (
        r"prior pyrovae\.priors\.normal\.StandardNormal, likelihood .*Bernoulli of net MLP, guide .*Normal of"
    )
    said = (
        rf"weights of pyrovae\.vae\.VAE with {parts} .*, without a recipe\.json: build the model they are of"
    )
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


def test_evaluate_takes_proposals_targets_annealing_and_certificates(a_run, capsys, tmp_path):
    def said(*arguments):
        assert cli.main(["evaluate", str(folder), *arguments]) == 0
        return capsys.readouterr().out

    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    arguments = ["--split", "validation", "--num-samples", "30"]
    chosen = said(*arguments)
    assert re.search(r"proposal: \w+, chosen on 64 rows, 256 draws each: k-hat reliable on", chosen)
    assert not list(folder.glob("*.partial"))
    assert "proposal:" not in said(*arguments, "--proposal", "guide")
    assert "rows above the target of 0.5 nats" in said(
        *arguments[:2],
        "--num-samples",
        "100",
        "--target-se",
        "0.5",
        "--max-samples",
        "200",
        "--proposal",
        "widened",
    )
    certificate = said(*arguments, "--certify", "--proposal", "guide", "--num-temperatures", "3")
    verdict = certificate.splitlines()[0]
    assert verdict.startswith("mean log p(x) is not known")
    assert cli.main(["evaluate", str(folder), "--certify", "--method", "ais"]) == 2
    assert "--certify anneals beside importance sampling" in capsys.readouterr().err
