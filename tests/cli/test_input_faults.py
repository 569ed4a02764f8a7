"""A table of what is given wrongly: what is done, what is said, the exit code, and what is still there.

Everything goes through the command line, on a run whose path has spaces and letters beyond ASCII. Beside it,
what a run can be trusted with: it is repeated to the bit from its recipe, and rebuilt whatever its parts.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import cli
from pyrovae.runs.recipe import read_run

ROWS = {"train": 70, "valid": 5, "test": 40}
SMALL = ["--num-epochs", "2", "--hidden", "8", "--latent-dim", "2", "--batch-size", "32"]
TINY = ["--dataset", "static-mnist", *SMALL]


def binary_digits(seed: int = 0, **changed: np.ndarray) -> bytes:
    """A file as of the fixed binarisation, of few rows."""
    rng = np.random.default_rng(seed)
    rows = {name: np.packbits(rng.integers(0, 2, (n, 784), np.uint8), axis=1) for name, n in ROWS.items()}
    content = io.BytesIO()
    np.savez(content, **rows | changed)
    return content.getvalue()


class Place(NamedTuple):
    """A run, its data and where to write."""

    run: Path
    root: Path
    new: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Place:
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("runs") / "räksmörgås och blå himmel ☂"
    place = Place(folder / "run", folder / "data", folder / "new")
    place.root.mkdir(parents=True)
    (place.root / "static_binarized_mnist.npz").write_bytes(binary_digits())
    assert cli.main(["train", str(place.run), *TINY, "--root", str(place.root)]) == 0
    assert cli.main(["evaluate", str(place.run), "--root", str(place.root), "--num-samples", "30"]) == 0
    return place


@pytest.fixture
def place(trained, tmp_path) -> Place:
    """A copy, to be damaged."""
    folder = tmp_path / "räksmörgås och blå himmel ☂"
    shutil.copytree(trained.run.parent, folder)
    return Place(folder / "run", folder / "data", folder / "new")


def files(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*") if folder.exists() else ()
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class Row(NamedTuple):
    """One fault.

    Attributes:
        done: To the place, before the command.
        command: Its words, of which RUN, DATA and NEW are paths.
        message: What standard error has to say.
        code: The exit code.
    """

    done: Callable[[Place], object]
    command: str
    message: str
    code: int = 2


def data_is(content: bytes) -> Callable[[Place], object]:
    return lambda place: (place.root / "static_binarized_mnist.npz").write_bytes(content)


def recipe_is(**changed: object) -> Callable[[Place], object]:
    return lambda place: edit(place.run / "recipe.json", lambda content: content["recipe"].update(changed))


def nothing(place: Place) -> None:
    """Nothing is damaged: the command is what is wrong."""


TRAIN = "train NEW --root DATA --dataset static-mnist --num-epochs 1"
EVALUATE = "evaluate RUN --root DATA --num-samples 30"

FAULTS = {
    # names
    "misspelt data set": Row(nothing, "train NEW --dataset mnist-mni", "did you mean 'mnist-mini'?"),
    "misspelt prior": Row(nothing, f"{TRAIN} --prior VampPriro", "'VampPriro': did you mean 'VampPrior'?"),
    "misspelt guide": Row(nothing, f"{TRAIN} --guide FullRnkNormal", "did you mean 'FullRankNormal'?"),
    "misspelt likelihood": Row(nothing, f"{TRAIN} --likelihood Bernouli", "did you mean 'Bernoulli'?"),
    "misspelt objective": Row(nothing, f"{TRAIN} --objective IWEA(alpha=5)", "unknown objective 'IWEA'"),
    "misspelt term inside": Row(nothing, f"{TRAIN} --objective ELBO(terms=fre_bits)", "'free_bits'?"),
    "misspelt keyword": Row(nothing, f"{TRAIN} --prior VampPrior(pseudo=3)", "'pseudo_inputs'?"),
    "misspelt option": Row(nothing, f"{TRAIN} --latent-dm 3", "Perhaps you meant: --latent-dim"),
    "misspelt key in a recipe": Row(
        recipe_is(latentdim=3), f"{TRAIN} --config RUN", "unknown key 'latentdim': did you mean 'latent_dim'?"
    ),
    "misspelt kind": Row(nothing, "list prors", "unknown kind of part 'prors': did you mean 'priors'?"),
    "a path in the place of a name": Row(
        nothing, f"{TRAIN} --prior torch.nn:Linear", "'torch.nn:Linear' is no part"
    ),
    "code in the place of a name": Row(
        nothing,
        f"{TRAIN} --prior Laplace(scale=open('x').close())",
        "'open('x').close()' is no number, text, list",
    ),
    "parts that do not fit": Row(nothing, f"{TRAIN} --prior Dirichlet", "does not fit"),
    "data that do not fit": Row(nothing, f"{TRAIN} --likelihood Beta", "site 'x'"),
    # recipes
    "no such recipe": Row(nothing, f"{TRAIN} --config NEW", "there is no such recipe"),
    "newer format": Row(
        lambda place: edit(place.run / "recipe.json", lambda content: content.update(format=3, colour="red")),
        EVALUATE,
        "format 3, and this version of pyrovae reads up to 2: install a newer pyrovae",
    ),
    "newer format to train by": Row(
        lambda place: edit(place.run / "recipe.json", lambda content: content.update(format=3)),
        f"{TRAIN} --config RUN",
        "install a newer pyrovae",
    ),
    "a recipe of a part that is not here": Row(
        recipe_is(prior="Horseshoe"), EVALUATE, "recipe.prior: unknown prior 'Horseshoe'"
    ),
    "a recipe of another model": Row(recipe_is(latent_dim=3), EVALUATE, "not the weights of this model"),
    "empty recipe": Row(
        lambda place: (place.run / "recipe.json").write_bytes(b""),
        EVALUATE,
        "not a recipe this version reads",
    ),
    # data
    "data are missing": Row(lambda place: shutil.rmtree(place.root), TRAIN, "static-mnist: neither"),
    "data are half downloaded": Row(
        data_is(binary_digits()[:2000]), TRAIN, "is damaged (File is not a zip file)"
    ),
    "data are empty": Row(data_is(b""), TRAIN, "npz is empty: fetch it again"),
    "data have a flipped byte": Row(
        data_is(binary_digits()[:1000] + b"\x00" + binary_digits()[1001:]),
        TRAIN,
        "is damaged (Bad CRC-32 for file",
    ),
    "data are object arrays": Row(
        data_is(binary_digits(valid=np.array([{}, None]))),
        TRAIN,
        "is damaged (Object arrays cannot be loaded",
    ),
    "data are a web page": Row(data_is(b"<!DOCTYPE html><html>404</html>"), TRAIN, "npz is a web page"),
    "data are an LFS pointer": Row(
        data_is(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        TRAIN,
        "npz is a Git LFS pointer",
    ),
    "data of another shape": Row(
        data_is(binary_digits(test=np.zeros((4, 50), np.uint8))),
        TRAIN,
        "test has shape (4, 400), expected rows of",
    ),
    "other data than were trained on": Row(
        data_is(binary_digits(seed=1)), EVALUATE, "data set static-mnist: its fingerprint was"
    ),
    "other data than were trained on, to repeat it": Row(
        data_is(binary_digits(seed=1)), "train NEW --root DATA --config RUN", "its fingerprint was"
    ),
    # results
    "results are missing": Row(
        lambda place: (place.run / "evaluation.nc").unlink(), "compare RUN OTHER", "evaluate the run first"
    ),
    "results are damaged": Row(
        lambda place: (place.run / "evaluation.nc").write_bytes(b"<html>"),
        "compare RUN OTHER",
        "evaluation.nc is a web page: what was fetched is not the file: evaluate again",
    ),
    # places
    "a file where the run should be": Row(
        lambda place: place.new.write_text(""), TRAIN, "is a file: name a folder"
    ),
    "a run is there": Row(nothing, TRAIN.replace("NEW", "RUN"), "holds a run already: "),
    "nowhere to write": Row(nothing, TRAIN.replace("NEW", "/proc/run"), "/proc/run"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_everything_as_it_was(fault, place, capsys):
    torch.set_default_dtype(torch.float32)
    done, command, message, code = FAULTS[fault]
    done(place)
    before = files(place.run), files(place.root)
    paths = {
        "RUN": place.run,
        "OTHER": place.run / ".." / place.run.name,  # the same again, by another way
        "DATA": place.root,
        "NEW": place.new,
        "NEW/recipe.json": place.new / "recipe.json",
    }
    assert cli.main([str(paths.get(word, word)) for word in command.split(" ")]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("pyrovae: ")
    assert said.err.count("\n") == 1
    assert not said.out
    assert (files(place.run), files(place.root)) == before
    assert files(place.new).keys() <= {"lock"}


# ----------------------------------------------------------------------- what can be trusted


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


def train(place: Place, *arguments: object) -> int:
    torch.set_default_dtype(torch.float32)
    return cli.main(["train", str(place.new), "--root", str(place.root), *map(str, arguments)])


@pytest.mark.parametrize("form", ["run", "file of the run", "recipe alone"])
def test_a_run_is_repeated_to_the_bit_from_its_recipe(form, trained, place, capsys, tmp_path):
    config = {
        "run": place.run,
        "file of the run": place.run / "recipe.json",
        "recipe alone": tmp_path / "my.json",
    }[form]
    recipe = read_run(place.run).recipe
    (tmp_path / "my.json").write_text(recipe.model_dump_json())
    assert train(place, "--config", config) == 0
    assert not [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyrovae:")]
    assert weights(place.new) == weights(place.run)
    assert (place.new / "recipe.json").read_bytes() == (place.run / "recipe.json").read_bytes()


def test_an_option_beside_a_recipe_changes_it_and_is_said(place, capsys):
    edit(place.run / "recipe.json", lambda content: content["versions"].update(torch="2.9.0"))
    assert train(place, "--config", place.run, "--seed", 3, "--prior", "vamp-prior(pseudo_inputs=4)") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyrovae:")]
    assert said == [
        "pyrovae: prior VampPrior(pseudo_inputs=4) in place of StandardNormal",
        "pyrovae: seed 3 in place of 0",
        f"pyrovae: torch {read_run(place.new).versions['torch']} in place of 2.9.0, so that bits may differ",
    ]
    run = read_run(place.new)
    assert (run.recipe.seed, run.recipe.num_epochs, run.recipe.hidden) == (3, 2, (8,))
    assert weights(place.new) != weights(place.run)


def test_an_option_that_is_the_default_still_changes_a_recipe(place):
    assert train(place, "--config", place.run, "--latent-dim", 16, "--batch-size", 128) == 0
    recipe = read_run(place.new).recipe
    assert (recipe.latent_dim, recipe.batch_size, recipe.num_epochs) == (16, 128, 2)


PARTS = [
    [
        "--prior",
        "VampPrior(pseudo_inputs=6)",
        "--guide",
        "FullRankNormal",
        "--objective",
        "IWAE(num_particles=3)",
    ],
    ["--prior", "MAF(transforms=1)", "--guide", "Flow(flow=IAF(context=5, transforms=1))"],
    ["--prior", "Categorical(num_categories=2, size=3)", "--guide", "StraightThrough(guide=Categorical)"],
    [
        "--encoder",
        "ConvEncoder(channels=[2])",
        "--decoder",
        "ConvDecoder(channels=[2])",
        "--optimizer",
        "SGD",
    ],
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: parts[1])
def test_a_run_is_rebuilt_whatever_its_parts(parts, place, capsys):
    assert train(place, *TINY, *parts) == 0
    arguments = ["--root", str(place.root), "--num-samples", "30", "--proposal", "guide"]
    assert cli.main(["evaluate", str(place.new), *arguments]) == 0
    vae = pv.load(place.new)
    data = pv.datasets.load("static-mnist", place.root)
    again = pv.evaluate(vae.model, vae.guide, data.test, num_samples=30, progress=False)
    result = pv.Evaluation.load(place.new / "evaluation.nc")
    assert torch.equal(again.log_evidence, result.log_evidence)
    assert again.conventions["weights"] == result.conventions["weights"]
    assert cli.main(["compare", str(place.run), str(place.new)]) == 0
    assert f"paired with {place.run}" in capsys.readouterr().out


def test_real_numbers_train_and_figures_that_there_cannot_be_are_told(place, capsys):
    arguments = ["--dataset", "linear-gaussian", "--likelihood", "Normal(scale=0.5, learn_scale=True)"]
    assert train(place, *SMALL, *arguments) == 0
    said = capsys.readouterr().out
    told = [line for line in said.splitlines() if line.startswith("no figure")]
    assert [line.split(", ")[0] for line in told] == ["no figure reconstructions"]  # one line for one reason
    assert "samples" in told[0]
    assert told[0].endswith(": image_grid: expected images of shape (height, width), got (8,)")
    assert f"figure: {place.new / 'figures' / 'learning_curves.png'}" in said
    assert cli.main(["evaluate", str(place.new), "--num-samples", "3", "--proposal", "guide"]) == 0
    assert read_run(place.new).conventions["binarisation"] == "none"


def test_results_under_other_conventions_are_not_compared(place, capsys):
    for name, change in (
        ("precision", {"precision": "bfloat16"}),
        ("binarisation", {"binarisation": "dynamic"}),
        ("dequantisation", {"dequantisation": "uniform"}),
        ("split", {"split": "validation"}),
        ("the rows differ, fingerprint", {"fingerprint": "0123abcd"}),
        ("method", {"method": "annealed importance sampling"}),
    ):
        shutil.copytree(place.run, place.new)
        result = pv.Evaluation.load(place.run / "evaluation.nc")
        result.conventions.update(change)
        result.save(place.new / "evaluation.nc")
        assert cli.main(["compare", str(place.run), str(place.new)]) == 2
        assert f"compare: {name} is " in capsys.readouterr().err
        shutil.rmtree(place.new)


def test_results_from_before_everything_was_said_are_compared(place):
    shutil.copytree(place.run, place.new)
    result = pv.Evaluation.load(place.run / "evaluation.nc")
    for name in ("precision", "dequantisation"):
        del result.conventions[name]
    result.save(place.new / "evaluation.nc")
    assert cli.main(["compare", str(place.run), str(place.new)]) == 0


@pytest.mark.slow
def test_an_unwritable_home_is_no_hindrance(trained, tmp_path):
    """A real process, whose home, cache and configuration cannot be made."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": "/proc/nobody", "PYROVAE_DATA": str(trained.root)}
    words = ["-m", "pyrovae", "train", str(tmp_path / "run"), *TINY]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "run") == weights(trained.run)
    del environment["PYROVAE_DATA"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.startswith("pyrovae: static-mnist: neither static_binarized_mnist.npz nor")
    assert "/proc/nobody/.cache/pyrovae: put either there" in done.stderr
    assert done.stderr.count("\n") == 1
