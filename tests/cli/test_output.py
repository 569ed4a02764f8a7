"""What commands print and write: table and JSON are of the same numbers, quiet is quiet, samples repeat."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import safetensors.numpy
import torch

import pyrovae as pv
from pyrovae import cli, registry
from pyrovae.cli import doctor
from pyrovae.cli.output import as_json
from pyrovae.evaluation.results import ROWS

TINY = ["--num-epochs", "1", "--hidden", "8", "--latent-dim", "2", "--batch-size", "500"]
REALS = ["--dataset", "linear-gaussian", "--likelihood", "Normal"]


def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
    """What a command says on standard output and standard error."""
    before, out, err = torch.get_default_dtype(), io.StringIO(), io.StringIO()
    torch.set_default_dtype(torch.float32)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            assert cli.main(list(map(str, words))) == code, err.getvalue()
    finally:
        torch.set_default_dtype(before)
    return out.getvalue(), err.getvalue()


def document(text: str) -> dict:
    """The one JSON document of an output, read as strictly as JSON is."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def reals(tmp_path_factory) -> Path:
    """A run on real numbers, trained quietly; what it said is beside it."""
    folder = tmp_path_factory.mktemp("runs") / "reals"
    assert run("train", folder, *REALS, *TINY, "--quiet") == ("", "")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, str]:
    """A run on images, and its JSON."""
    folder = tmp_path_factory.mktemp("runs") / "images"
    return folder, run("train", folder, *TINY, "--json", "--quiet")[0]


def test_train_tells_the_run_and_its_last_epoch(images):
    folder, text = images
    found = document(text)
    history = json.loads((folder / "history.json").read_text())
    assert found["run"] == json.loads((folder / "recipe.json").read_text())
    assert found["run"]["weights"] is not None
    assert found["run"]["conventions"]["binarisation"] == "dynamic"
    assert found["last"] == {name: values[-1] for name, values in history.items() if isinstance(values, list)}
    assert found["epochs"] == 1
    assert {Path(path).name for path in found["files"]} == {
        "recipe.json",
        "weights.safetensors",
        "history.json",
    }
    assert found["figures"].keys() == {path.stem for path in (folder / "figures").iterdir()}
    assert found["without"] == {}


def check_table(found: dict, table: str) -> None:
    """Each number of an evaluation's table is that of the JSON, rounded."""
    lines = {line[:34].rstrip(): line for line in table.splitlines()}
    for name, label in ROWS.items():
        mean, test_set, *drawn = lines[label][34:].replace("±", "").split()
        assert mean == f"{found[name]['mean']:.3f}"
        assert test_set == f"{found[name]['test_set']:.3f}"
        error = found[name]["monte_carlo"]
        assert [float(each) for each in drawn] == ([] if error is None else [pytest.approx(error, abs=6e-4)])
    assert f"{found['rows']:,} rows" in table
    assert f"K = {found['num_samples']:,} draws" in table
    assert f"median {found['ess']['median']:.0f}, least {found['ess']['least']:.1f}" in table
    khat = found["khat"]
    assert f"k-hat: {khat['reliable']:,} rows reliable (below {khat['thresholds'][0]:.2f})" in table
    assert f"{khat['doubtful']:,} doubtful, {khat['beyond']:,} beyond" in table


def test_evaluate_has_one_source_for_table_and_json(reals):
    text, said = run("evaluate", reals, "--num-samples", "30", "--proposal", "guide", "--json")
    assert "evaluate: 500 of 500 (100%)" in said
    found = document(text)
    path = Path(found.pop("file"))
    result = pv.Evaluation.load(path)
    assert found == json.loads(as_json(result.summary()))
    check_table(found, str(result))
    assert found["log_evidence"]["mean"] == result.log_evidence.mean().item()
    assert found["log_evidence"]["monte_carlo"] == result.standard_error.norm().item() / 500
    assert found["gap"]["monte_carlo"] is None  # unknown, and no nan
    assert found["bias"] == result.bias.mean().item()
    assert found["draws"] == {"least": 30, "most": 30, "mean": 30.0}
    assert found["missed"] is None
    assert found["conventions"]["dataset"] == "linear-gaussian"
    table, _ = run("evaluate", reals, "--num-samples", "30", "--proposal", "guide", "--quiet")
    assert table == f"{result}\n"


def test_evaluate_of_few_draws_is_valid_json_too(reals, tmp_path):
    options = ["--num-samples", "1", "--proposal", "guide", "--split", "validation", "--quiet"]
    found = document(run("evaluate", reals, *options, "--json")[0])
    assert found["khat"] is None
    assert found["log_evidence"]["monte_carlo"] is None or found["log_evidence"]["monte_carlo"] >= 0
    table = str(pv.Evaluation.load(found["file"]))
    assert "k-hat: needs 25 draws or more" in table
    assert "expected bias" not in table


def test_a_proposal_is_chosen_and_told(reals):
    table, _ = run("evaluate", reals, "--split", "validation", "--num-samples", "30", "--quiet")
    assert re.search(r"proposal: \w+, chosen on 64 rows, 256 draws each: k-hat reliable on", table)
    assert not list(reals.glob("*.partial"))
    assert pv.Evaluation.load(reals / "evaluation_validation.nc").conventions["split"] == "validation"
    options = ["--split", "validation", "--num-samples", "30", "--proposal", "guide"]
    table, _ = run("evaluate", reals, *options)
    assert "proposal:" not in table
    assert table.endswith(f"\nper datum: {reals / 'evaluation_validation.nc'}\n")


def test_a_target_is_told_with_what_missed_it(reals):
    options = ["--num-samples", "100", "--max-samples", "200", "--target-se", "0.2", "--proposal", "guide"]
    found = document(run("evaluate", reals, *options, "--split", "validation", "--json", "--quiet")[0])
    result = pv.Evaluation.load(found["file"])
    assert 0 < found["missed"] == int((result.standard_error > 0.2).sum())
    assert found["draws"]["most"] == 200
    assert f"standard error: {found['missed']:,} rows above the target of 0.2 nats" in str(result)
    assert f"K = 100 to 200 draws, {found['draws']['mean']:,.0f} on average" in str(result)


def test_a_certificate_is_told_with_its_checks(reals):
    options = ["--certify", "--num-temperatures", "3", "--proposal", "guide", "--target-se", "1"]
    options += ["--num-samples", "100", "--max-samples", "100"]
    found = document(run("evaluate", reals, *options, "--json", "--quiet")[0])
    assert found["known"] == (found["reason"] == "")
    assert found["verdict"].startswith("mean log p(x)")
    assert found["verdict"].endswith(found["reason"])
    assert found["checks"].keys() == {"annealed", "lower", "upper"}
    assert found["checks"]["annealed"]["name"] == "annealing from the prior"
    assert found["checks"]["annealed"]["rows"] == 32
    assert found["evaluation"]["rows"] == 500
    assert found["within"] >= found["statistical"] >= 0


def test_compare_has_one_source_for_table_and_json(reals, images, tmp_path):
    other = tmp_path / "other"
    run("train", other, *REALS, *TINY, "--seed", "1", "--quiet")
    for folder in (reals, other):
        run("evaluate", folder, "--num-samples", "30", "--proposal", "guide", "--quiet")
    table, said = run("compare", reals, other, "--quiet")
    assert not said
    found = document(run("compare", reals, other, "--json")[0])
    assert found["reference"] == str(reals)
    assert found["conventions"]["num_samples"] == 30
    mine, theirs = found["models"][str(reals)], found["models"][str(other)]
    results = [pv.Evaluation.load(folder / "evaluation.nc") for folder in (reals, other)]
    difference = (results[1].log_evidence - results[0].log_evidence).mean().item()
    assert theirs["difference"] == pytest.approx(difference, abs=1e-12)
    assert theirs["error"] == pytest.approx(math.hypot(theirs["test_set"], theirs["monte_carlo"]), rel=1e-12)
    assert (mine["difference"], mine["degrees"], mine["verdict"]) == (None, "inf", "reference")
    assert theirs["training"] is None
    row = next(line for line in table.splitlines() if line.startswith(str(other)))
    assert row.removeprefix(str(other)).split()[:2] == [
        f"{theirs['mean']:.3f}",
        f"{theirs['difference']:+.3f}",
    ]
    assert row.endswith(theirs["verdict"])
    assert list(found["models"]) == sorted(found["models"], key=lambda name: -found["models"][name]["mean"])


@pytest.mark.parametrize("words", [["--help"], ["list", "datasets"], ["compare", "a", "b"]])
@pytest.mark.parametrize("output", [">&-", "| head -n 1"])
def test_a_closed_output_is_no_error_of_python(words, output):
    line = f"set -o pipefail; {sys.executable} -m pyrovae {' '.join(words)} {output}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.stderr == "" or words[0] == "compare"
    assert (
        done.returncode == 2 if words[0] == "compare" else done.returncode in (0, 1)
    )  # head is quick, or not


def test_where_output_has_no_plus_minus_it_is_written_out(monkeypatch):
    """The encoding is the terminal's: it is no reason to lose a table that took an hour."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert cli.main(["--version"]) == 0
    print("log p(x)  -99.8  \u00b1 0.9  \u2022 \u4e00")
    assert raw.getvalue().decode().endswith("log p(x)  -99.8  +- 0.9  * ?\n")


def test_list_of_everything_has_every_kind_and_name():
    table = run("list")[0]
    found = document(run("list", "--json")[0])
    assert list(found) == list(registry.KINDS)
    for kind in registry.KINDS:
        assert list(found[kind]) == registry.names(kind)
        assert all(about["about"] and f"  {name} " in table for name, about in found[kind].items())


def test_list_has_about_keywords_and_reference():
    table, said = run("list", "priors", "--quiet")
    assert not said
    found = document(run("list", "priors", "--json")[0])
    assert list(found["priors"]) == registry.names("priors")
    assert found["priors"]["VampPrior"] == {
        "about": registry.describe("priors", "VampPrior"),
        "keywords": "guide, pseudo_inputs, *, learn=True",
        "reference": "arXiv:1705.07120",
    }
    for name, part in found["priors"].items():
        line = next(line for line in table.splitlines() if line.startswith(f"  {name} "))
        assert line.endswith(f"{part['about']} [{part['reference']}]")
        assert part["keywords"] in table


def test_doctor_tells_each_finding_and_whether_training_works(monkeypatch):
    findings = [doctor.Finding("python", "ok", "3.11"), doctor.Finding("zuko", "note", "pip install zuko")]
    monkeypatch.setattr(doctor, "examine", lambda root: iter(findings))
    asked = [{"what": "python", "mark": "ok", "said": "3.11"}]
    asked += [{"what": "zuko", "mark": "note", "said": "pip install zuko"}]
    assert document(run("doctor", "--json")[0]) == {"works": True, "findings": asked}
    assert run("doctor", "--quiet") == (f"{findings[1]}\n", "")
    findings.append(doctor.Finding("torch", "fault", "not installed"))
    assert document(run("doctor", "--json", code=1)[0])["works"] is False


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_what_fails_prints_no_document(command, tmp_path):
    (tmp_path / "thesis.tex").touch()
    text, said = run(command, tmp_path, "--json", "--quiet", code=2)
    assert not text
    assert said.startswith("pyrovae: ")
    assert said.count("\n") == 1


READ: dict[str, Callable] = {
    ".npz": lambda path: dict(np.load(path)),
    ".safetensors": safetensors.numpy.load_file,
}


@pytest.mark.parametrize("ending", READ)
def test_sample_writes_what_the_seed_says(images, tmp_path, ending):
    def drawn(name: str, *options: str) -> dict[str, np.ndarray]:
        run("sample", images[0], "--out", tmp_path / f"{name}{ending}", "--num-samples", "500", *options)
        return READ[ending](tmp_path / f"{name}{ending}")

    first, means, other = drawn("a"), drawn("means", "--means"), drawn("b", "--seed", "1")
    assert first["x"].shape == (500, 28, 28)
    assert first["z"].shape == (500, 2)
    assert set(np.unique(first["x"])) == {0.0, 1.0}
    assert np.array_equal(first["z"], means["z"])
    # Of these codes: pixels that are white thirty times and more, each within five standard errors.
    count, variance = means["x"].sum(0), (means["x"] * (1 - means["x"])).sum(0)
    assert (abs(first["x"].sum(0) - count) < 5 * np.sqrt(variance))[count > 30].all()
    assert (count > 30).sum() > 50
    assert abs(first["z"].mean(0)).max() < 4 / math.sqrt(500)
    assert not np.array_equal(first["z"], other["z"])
    drawn("again")
    assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"a{ending}").read_bytes()


def test_sample_draws_the_trained_model(images, tmp_path):
    torch.set_default_dtype(torch.float32)
    run("sample", images[0], "--out", tmp_path / "x.npz", "--means", "--num-samples", "4")
    found = np.load(tmp_path / "x.npz")
    with torch.no_grad():
        means = pv.load(images[0]).eval().decode(torch.from_numpy(found["z"])).mean
    np.testing.assert_array_equal(found["x"].reshape(4, 784), means.numpy())


def test_sample_of_images_is_a_picture_and_of_other_data_an_archive(images, reals, tmp_path):
    folder = images[0]
    text, said = run("sample", folder, "--num-samples", "5")
    assert (text, said) == (f"5 ancestral samples: {folder / 'samples.png'}\n", "")
    height, width, _ = matplotlib.image.imread(folder / "samples.png").shape
    assert width > 1.3 * height  # two rows of three
    before = (folder / "samples.png").read_bytes()
    assert run("sample", folder, "--num-samples", "5", "--quiet") == ("", "")
    assert (folder / "samples.png").read_bytes() == before
    found = document(run("sample", reals, "--json")[0])
    assert found["file"] == str(reals / "samples.npz")
    assert found["num_samples"] == 64
    assert found["shape"] == [8]
    assert found["weights"] == json.loads((reals / "recipe.json").read_text())["weights"]
    assert np.load(found["file"])["x"].shape == (64, 8)
    _, said = run("sample", reals, "--out", tmp_path / "x.png", code=2)
    assert f"data of shape (8,) are no images: write {tmp_path / 'x.npz'}" in said
    _, said = run("sample", reals, "--out", tmp_path / "none" / "x.npz", code=2)
    assert f"{tmp_path / 'none'} is no folder: make it, or name another file by --out" in said


def test_samples_go_with_the_weights_they_are_of(reals, tmp_path):
    folder = tmp_path / "run"
    run("train", folder, *REALS, *TINY, "--quiet")
    run("sample", folder, "--quiet")
    (folder / "samples.csv").touch()  # a file of one's own
    run("train", folder, *REALS, *TINY, "--quiet", "--overwrite")
    assert not (folder / "samples.npz").exists()
    assert (folder / "samples.csv").exists()
