"""Faults and bad input: what is done, what is said, the exit code, and what is still there.

A row that has a test elsewhere is in ELSEWHERE, by its place.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from components import FEATURES, a_vae, binary
from helpers import locked_by_another
from torch import nn
from torch.utils.data import DataLoader, Dataset

import pyrovae as pv
from pyrovae import cli, datasets
from pyrovae.runs.build import build
from pyrovae.runs.recipe import Recipe, Run
from pyrovae.storage import tensors as trees
from pyrovae.storage.checkpoints import Checkpoints
from pyrovae.storage.locks import locked

TESTS = Path(__file__).parents[1]

ELSEWHERE = {
    "kill -9 in training, in keeping and in evaluation": "storage/test_kills.py::test_at_random_moments",
    "kill between the files of a checkpoint": "storage/test_kills.py::test_between_the_files_of_a_checkpoint",
    "kill -9 of an evaluation": "evaluation/test_tiles.py::test_killed_evaluations_go_on_and_end_the_same",
    "folder of something else": "cli/test_main.py::test_a_folder_of_something_else_is_said_before_training",
    "folder that holds a run": "cli/test_main.py::test_a_run_is_not_written_over_unless_asked",
    "folder that cannot be written": "cli/test_main.py::test_a_folder_that_cannot_be_written_is_said",
    "file in the place of the folder": "cli/test_main.py::test_a_file_in_the_place_of_a_folder_is_named",
    "a training that fails at once": "cli/test_main.py::test_a_run_that_failed_at_once_leaves_no_run",
    "truncated file, any bytes changed": (
        "storage/test_checkpoints.py::test_a_damaged_checkpoint_is_refused_or_is"
    ),
    "any bytes of weights changed": "storage/test_checkpoints.py::test_damaged_weights_are_refused_or_are",
    "empty, HTML, LFS pointer, pickle, huge header": "storage/test_checkpoints.py::test_what_people_find",
    "extra, missing, misshaped keys": (
        "storage/test_checkpoints.py::test_missing_superfluous_and_misshaped_tensors"
    ),
    "newer format version": "storage/test_checkpoints.py::test_a_newer_format_is_refused",
    "changed recipe on resume": "cli/test_main.py::test_a_run_that_goes_on_is_that_of_one_go",
    "changed settings on resume": "training/test_resume.py::test_other_settings_are_refused_and_listed",
    "other data on resume": "training/test_resume.py::test_other_data_seeds_models_and_callbacks_are_refused",
    "checkpoint of a GPU on a CPU": "training/test_resume.py::test_another_place_is_a_warning",
    "two processes on one run": "storage/test_checkpoints.py::test_another_process_at_the_run_is_refused",
    "NaN in data": "training/test_fit_inputs.py::test_nan_in_the_data_names_its_row",
    "infinite loss": "training/test_fit_inputs.py::test_an_infinite_loss_stops_before_the_step",
    "gradient that is not finite": "training/test_fit_inputs.py::test_a_gradient_that_is_not_finite_is_named",
    "one row": "training/test_fit_inputs.py::test_one_row_trains",
    "empty set": "training/test_fit_inputs.py::test_bad_arguments_are_refused",
    "no trainable parameter": "training/test_fit_inputs.py::test_nothing_to_train_is_refused",
    "guide missing a site": "core/test_programs.py::test_what_is_wrong_is_said_in_one_line",
    "weights all -inf": "evaluation/test_weights.py::test_all_weights_zero",
    "out of memory in evaluation": (
        "evaluation/test_tiles.py::test_out_of_memory_halves_the_chunk_and_repeats"
    ),
    "corrupt data file": "data/test_datasets.py::test_static_mnist_damaged_is_named",
    "half-downloaded data": "data/test_datasets.py::test_mnist_damaged_is_one_clear_line",
    "missing optional package": "models/test_part_inputs.py::test_flows_without_zuko_name_the_extra",
    "logger that fails": (
        "training/test_guards.py::test_a_logger_that_fails_is_one_warning_and_training_goes_on"
    ),
    "paths with spaces and unicode": "cli/test_main.py::test_train_leaves_recipe_weights_history_and_figures",
    "misspelt names": "cli/test_arguments.py::test_bad_input_is_one_line_and_exit_code_two",
    "Ctrl-C and SIGTERM": "cli/test_main.py::test_interrupting_keeps_what_was_trained_and_says_how_to_go_on",
}


@pytest.mark.parametrize("row", ELSEWHERE)
def test_rows_that_are_elsewhere_are_there(row):
    name, _, test = ELSEWHERE[row].partition("::")
    assert f"def {test}" in (TESTS / name).read_text()


# ------------------------------------------------------------------------------ rows of the library


def fit(data, folder=None, vae=None, **keywords):
    vae = a_vae() if vae is None else vae
    keywords = {"num_epochs": 2, "batch_size": 10, "progress": False, "compile": False, **keywords}
    return pv.fit(vae.model, vae.guide, data, resume=folder, **keywords)


class Fault(NamedTuple):
    do: Callable[[Path], object]
    said: str  # a pattern
    kind: type[Exception]  # an error, or UserWarning of what goes on
    there: Callable[[Path], bool] = lambda folder: True


def whole(epochs: int) -> Callable[[Path], bool]:
    def look(folder: Path) -> bool:
        return Checkpoints(folder / "checkpoints").newest()["position"]["epoch"] == epochs

    return look


class Mortal(Dataset):
    """Rows whose fetching kills the worker, in the second epoch."""

    def __init__(self, folder: Path) -> None:
        self.seen = folder / "seen"

    def __len__(self):
        return 20

    def __getitem__(self, row):
        if torch.utils.data.get_worker_info() and row == 19:
            if self.seen.exists():
                os.kill(os.getpid(), 9)
            self.seen.touch()
        return torch.ones(FEATURES)


def worker_dies(folder: Path) -> None:
    loader = DataLoader(Mortal(folder), batch_size=5, num_workers=1)
    fit(loader, folder, num_epochs=9)


def batch_norm_of_one(folder: Path) -> None:
    vae = a_vae()
    vae.guide.part.net.layers.insert(0, nn.BatchNorm1d(FEATURES))
    fit(binary(21), folder, vae)


def idle_parameter(folder: Path) -> None:
    vae = a_vae()
    vae.likelihood.register_parameter("spare", nn.Parameter(torch.ones(2)))
    fit(binary(20), folder, vae)


def object_arrays(folder: Path) -> None:
    rows = {name: np.array([{"a": 1}], dtype=object) for name in ("train", "valid", "test")}
    np.savez(folder / "static_binarized_mnist.npz", **rows)
    datasets.load("static-mnist", folder)


def checkpoint_of_strangers(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch=3.ckpt").write_bytes(b"PK\x03\x04")
    fit(binary(20), folder)


def two_evaluations(folder: Path) -> None:
    """With one file to resume from; a thread stands for the other process."""
    vae, ledger = a_vae(), folder / "ledger.jsonl"
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(Path(f"{ledger}.lock"), passing=True):
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    try:
        pv.evaluate(vae.model, vae.guide, binary(5), num_samples=2, resume=ledger, progress=False)
    finally:
        ended.set()
        thread.join()


FAULTS = {
    "two evaluations with one file": Fault(
        two_evaluations,
        rf"process {os.getpid()} is at work in this folder",
        OSError,
        lambda folder: not list(folder.iterdir()),
    ),
    "the last batch is of one row, with BatchNorm": Fault(
        batch_norm_of_one,
        "epoch 0, batch 2: guide: .*: a batch of one row has no variance: choose a batch_size",
        ValueError,
    ),
    "a parameter without a gradient": Fault(
        idle_parameter, r"no gradient for 'likelihood.spare', which will not", UserWarning, whole(2)
    ),
    "object arrays in a data file": Fault(
        object_arrays, r"static_binarized_mnist.npz is damaged \(Object arrays cannot be loaded", ValueError
    ),
    "checkpoints of another library": Fault(
        checkpoint_of_strangers,
        r"checkpoints holds 'epoch=3.ckpt', which is no checkpoint: name another run folder",
        ValueError,
        lambda folder: (folder / "checkpoints" / "epoch=3.ckpt").exists(),
    ),
    "fewer epochs than there are": Fault(
        lambda folder: [fit(torch.ones(20, FEATURES), folder, num_epochs=n) for n in (2, 1)],
        "has 2 epochs already, and num_epochs is 1: ask for as many at least",
        ValueError,
        whole(2),
    ),
    "a file in the place of the folder": Fault(
        lambda folder: [(folder / "run").touch(), fit(binary(20), folder / "run")],
        r"run cannot be made \(File exists\): name another folder",
        OSError,
    ),
    "data of another width": Fault(
        lambda folder: fit(torch.ones(20, FEATURES + 1), folder),
        r"guide: MLP: expected shape \(..., 6\), got \(10, 7\)",
        ValueError,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name, tmp_path):
    row = FAULTS[name]
    telling = pytest.warns if issubclass(row.kind, Warning) else pytest.raises
    with telling(row.kind, match=row.said) as caught:
        row.do(tmp_path)
    said = str(caught[0].message if row.kind is UserWarning else caught.value)
    assert "\n" not in said
    assert row.there(tmp_path)


def test_a_workers_death_is_told_and_what_was_kept_is_there(tmp_path):
    """In a process of its own, in which torch raises again, at any time, what it has against the worker."""
    code = "import sys, pathlib, test_faults; test_faults.worker_dies(pathlib.Path(sys.argv[1]))"
    here = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, Path(__file__).parent)))
    }
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=here, timeout=300)
    assert done.returncode == 1
    assert "data: a worker of the DataLoader died (" in done.stderr  # at times in what torch left of it
    assert whole(1)(tmp_path)


# ------------------------------------------------------------------------------ data that are no fault


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_features_train_and_evaluate(value):
    x, vae = torch.full((30, FEATURES), value), a_vae()
    pv.networks.set_output_bias(vae.likelihood, torch.logit(x.mean(0), eps=1e-3))
    history = fit(x, vae=vae, num_epochs=20, validation=x)
    result = pv.evaluate(vae.model, vae.guide, x, num_samples=50, progress=False)
    assert math.isfinite(history.validation_elbo[-1])
    assert result.log_evidence.isfinite().all()


def test_rows_fewer_than_the_batch_are_one_batch():
    steps = []

    class Counting:
        def __call__(self, training):
            pass

        def step(self, training):
            steps.append(training.epoch)

    fit(binary(3), batch_size=1000, callbacks=[Counting()])
    assert steps == [0, 1]


# ------------------------------------------------------------------------------ disks and places


@contextmanager
def mounted(folder: Path, options: str):
    """A small file system of its own, where that is permitted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting takes more rights: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_disk_full_while_saving_leaves_the_old_checkpoint_and_training_goes_on(tmp_path):
    """Full from the second epoch on; when there is room again, what was trained is kept."""
    folder = tmp_path / "small"
    x, there = binary(20), []

    def fill_and_free(training):
        there.append([path.name for path in Checkpoints(folder / "checkpoints").paths()])
        if training.epoch == 1:
            with pytest.raises(OSError, match="No space"):
                fill(folder / "filler")
        if training.epoch == 3:
            (folder / "filler").unlink()

    with mounted(folder, "size=1m"):
        fit(x, folder, num_epochs=1, checkpoint_every=0)
        with pytest.warns(
            UserWarning, match=r"no checkpoint could be written in .* \(No space left"
        ) as caught:
            history = fit(x, folder, num_epochs=5, checkpoint_every=0, callbacks=[fill_and_free])
        assert len(caught) == 1
        assert len(history) == 5
        assert there[0] == there[1] == there[2] != []
        assert not list(folder.rglob("*.part"))
        assert whole(5)(folder)


def test_disk_full_at_weights_leaves_the_old_ones(tmp_path):
    folder, vae = tmp_path / "small", a_vae()
    with mounted(folder, "size=64k"):
        pv.save(vae, folder)
        before = (folder / "weights.safetensors").read_bytes()
        larger = build(Recipe(hidden=(90,)), features=300)
        with pytest.raises(OSError, match="No space left"):
            pv.save(larger, folder)
        assert (folder / "weights.safetensors").read_bytes() == before
        assert not list(folder.rglob("*.part"))


def test_a_folder_that_is_read_only_is_said_before_training(tmp_path, capsys):
    with mounted(tmp_path / "run", "size=64k,ro"):
        with pytest.raises(
            OSError, match=r"run cannot be written to \(Read-only file system\): name another"
        ):
            fit(binary(20), tmp_path / "run")
        assert cli.main(["train", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "run cannot be written to (Read-only file system): name another folder" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_an_unwritable_home_and_temporary_files_on_another_file_system(tmp_path):
    with mounted(tmp_path / "tmp", "size=1m"):
        command = [sys.executable, "-m", "pyrovae", "train", tmp_path / "run", "--num-epochs", "1"]
        here = os.environ | {"HOME": "/proc/nobody", "TMPDIR": str(tmp_path / "tmp")}
        here |= {"PYTHONPATH": str(TESTS.parent)}
        done = subprocess.run(
            [*command, "--hidden", "8"], capture_output=True, text=True, env=here, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_temporary_files_on_another_file_system(tmp_path, monkeypatch):
    """Nothing is put there: what is renamed has to be beside its place."""
    with mounted(tmp_path / "tmp", "size=64k"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
        monkeypatch.setattr("tempfile.tempdir", None)
        vae = a_vae()
        fit(binary(20), tmp_path / "run", vae)
        pv.save(vae, tmp_path / "run")
        there = {path.name for path in (tmp_path / "tmp").iterdir()}
        assert not {name for name in there if not name.startswith("torchinductor")}
    assert whole(2)(tmp_path / "run")


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    jumps = iter(range(10**6))
    x, start, found = binary(20), a_vae().state_dict(), []
    for name in ("steady", "jumping"):
        if name == "jumping":
            monkeypatch.setattr(time, "time", lambda: 1e9 - 1e6 * next(jumps))
        vae = a_vae()
        vae.load_state_dict(start)
        history = fit(x, tmp_path / name, vae)
        found.append((history.elbo, [seconds > 0 for seconds in history.seconds]))
    assert found[0] == found[1]


# ------------------------------------------------------------------------------ rows of the command line


@pytest.fixture
def a_run(tmp_path) -> Path:
    """As `pyrovae train` leaves it, but for the training."""
    recipe = Recipe(latent_dim=2, hidden=(3,), num_epochs=1)
    run = Run(recipe=recipe, features=784, shape=(28, 28), conventions={}, versions={})
    pv.save(build(recipe, 784), tmp_path, run)
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


class CommandFault(NamedTuple):
    spoil: Callable[[Path], object]
    arguments: list[str]
    said: str  # a pattern
    code: int = 2


def weights(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "weights.safetensors").write_bytes(content)


def damage_all_checkpoints(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    Checkpoints(folder / "checkpoints").add({"weights": {"w": torch.ones(20)}})
    flip(folder / "checkpoints" / "00000001" / "weights.safetensors")


EVALUATE, RESUME = ["evaluate", "RUN"], ["train", "RUN", "--resume"]
COMMAND_FAULTS = {
    "a flipped byte of the weights": CommandFault(
        lambda folder: flip(folder / "weights.safetensors"), EVALUATE, "damaged, its SHA-256 is another"
    ),
    "empty weights": CommandFault(weights(b""), EVALUATE, "the file is empty"),
    "a web page for weights": CommandFault(weights(b"<html>"), EVALUATE, "a web page"),
    "a pointer for weights": CommandFault(
        weights(b"version https://git-lfs.github.com/spec/v1\n"), EVALUATE, "a Git LFS pointer.*git lfs pull"
    ),
    "a pickle for weights": CommandFault(
        weights(b"\x80\x04\x95"), EVALUATE, "which can run code and is never"
    ),
    "weights of another model": CommandFault(
        weights(trees.to_bytes({"w": torch.ones(2)})), EVALUATE, "'model.likelihood.* is missing; .* more$"
    ),
    "every checkpoint is damaged": CommandFault(
        damage_all_checkpoints, EVALUATE, "not the bytes that were written .* no other checkpoint is whole"
    ),
    "a damaged checkpoint to go on from": CommandFault(
        damage_all_checkpoints, RESUME, "not the bytes that were written .* no other checkpoint is whole"
    ),
    "another recipe on resume": CommandFault(
        lambda folder: None,
        [*RESUME, "--seed", "4"],
        "the run's recipe is another: seed is 0 there and 4 here",
    ),
    "checkpoints of another run": CommandFault(
        lambda folder: fit(binary(20), folder, num_epochs=1),
        [*RESUME, "--num-epochs", "3"],
        r"another run: data.rows is 20 there and 5000 here; .* and \d+ more: name another folder, or set .*$",
    ),
    "two processes on one run": CommandFault(
        lambda folder: None, RESUME, r"process \d+ is at work in this folder: wait for it"
    ),
    "a run that is there already": CommandFault(
        lambda folder: None, ["train", "RUN"], "holds a run already: go on with it by --resume"
    ),
    "going on and starting anew": CommandFault(
        lambda folder: None, [*RESUME, "--overwrite"], "--resume goes on with a run, and --overwrite starts"
    ),
    "nothing to go on with": CommandFault(
        lambda folder: (folder / "recipe.json").unlink(), RESUME, "no recipe.json, so no run: train one with"
    ),
}


@pytest.mark.parametrize("name", COMMAND_FAULTS)
def test_fault_of_the_command_line(name, a_run, capsys):
    row = COMMAND_FAULTS[name]
    row.spoil(a_run)
    before = sorted(path.name for path in a_run.rglob("*"))
    recipe = (a_run / "recipe.json").read_bytes() if (a_run / "recipe.json").exists() else b""
    with locked_by_another(a_run / "lock") if "two processes" in name else nullcontext():
        code = cli.main([str(a_run) if word == "RUN" else word for word in row.arguments])
    said = capsys.readouterr()
    assert code == row.code
    assert re.search(row.said, said.err.rstrip("\n")), said.err
    assert said.err.startswith("pyrovae: ")
    assert said.err.count("\n") == 1
    after = sorted(path.name for path in a_run.rglob("*") if path.name != "lock")
    assert after == [name for name in before if name != "lock"]
    assert not recipe or (a_run / "recipe.json").read_bytes() == recipe
