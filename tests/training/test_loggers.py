"""Loggers: the history's own numbers, each epoch once, also after a kill; and none of it changes a run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae import cli, loggers
from pyrovae.runs.folder import prepare
from pyrovae.runs.recipe import Recipe
from pyrovae.training.callbacks import Log
from pyrovae.training.loggers import JSONLines, Logger, TensorBoard, WandB


class KilledError(Exception):
    """As a kill in the midst of an epoch."""


def a_fit(num_epochs=3, resume=None, kill_in=None, callbacks=()):
    """Of 3 steps an epoch; killed in a step of an epoch, if any."""
    torch.manual_seed(0)
    vae, x = a_vae(), binary(24)

    class Kill:
        def __call__(self, training):
            """Nothing at an epoch's end."""

        def step(self, training):
            if training.epoch == kill_in:
                raise KilledError

    arguments = {"num_epochs": num_epochs, "batch_size": 8, "validation": x, "compile": False}
    arguments |= {"callbacks": [Kill(), *callbacks], "resume": resume, "progress": False}
    history = pv.fit(vae.model, vae.guide, x, **arguments)
    return vae, history


def rows_of(history):
    return [history.row(index) for index in range(len(history))]


def events_in(folder):
    """Scalars by name: steps and values, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(each.step, each.value) for each in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def expected_of(history):
    """A history as float32 scalars by name."""
    columns = {name: values for name, values in asdict(history).items() if isinstance(values, list)}
    return {
        name: [
            (epoch, torch.tensor(value, dtype=torch.float32).item())
            for epoch, value in zip(history.epoch, values, strict=True)
        ]
        for name, values in columns.items()
        if name != "epoch"
    }


def test_lines_of_json_are_the_history_to_the_last_bit(tmp_path):
    path = tmp_path / "log.jsonl"
    _, history = a_fit(callbacks=[JSONLines(path)])
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows_of(history)
    assert set(rows_of(history)[0]) == set(asdict(history)) - {"compile_seconds"}


@pytest.mark.parametrize("tail", [b"", b'{"epoch": 2, "el', b'{"epoch": 2}\n{"epoch": 3}\n', b"\xff\n"])
def test_a_killed_run_has_each_epoch_once(tmp_path, tail):
    """What a killed process wrote beyond its last checkpoint comes again; a line that was cut goes."""
    run, path = tmp_path / "run", tmp_path / "log.jsonl"
    with pytest.raises(KilledError):
        a_fit(resume=run, kill_in=2, callbacks=[JSONLines(path)])
    assert len(path.read_text().splitlines()) == 2
    path.write_bytes(path.read_bytes() + tail)
    _, history = a_fit(num_epochs=4, resume=run, callbacks=[JSONLines(path)])
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows_of(history)
    assert history.epoch == [0, 1, 2, 3]


def test_a_log_that_joins_late_has_what_was_before(tmp_path):
    run, path = tmp_path / "run", tmp_path / "log.jsonl"
    vae, _ = a_fit(num_epochs=2, resume=run)
    vae, history = a_fit(num_epochs=3, resume=run, callbacks=[JSONLines(path)])
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows_of(history)
    whole, _ = a_fit(num_epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), whole.parameters(), strict=True))


def test_events_of_tensorboard_are_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoard(tmp_path / "logs")
    _, history = a_fit(callbacks=[logger])
    assert events_in(tmp_path / "logs") == expected_of(history)  # flushed, before anything is closed
    logger.close()


def test_a_resumed_run_goes_on_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    run, folder = tmp_path / "run", tmp_path / "logs"
    first, second = TensorBoard(folder), TensorBoard(folder)
    with pytest.raises(KilledError):
        a_fit(resume=run, kill_in=2, callbacks=[first])
    first.write({"epoch": 2, "elbo": -1e6})  # beyond the last checkpoint
    first.close()
    _, history = a_fit(num_epochs=4, resume=run, callbacks=[second])
    second.close()
    found = events_in(folder)
    assert found == expected_of(history)
    assert [step for step, _ in found["elbo"]] == [0, 1, 2, 3]


class StandIn:
    """The calls of wandb that are used, as its documentation has them, with what they were given."""

    def __init__(self, fails=False):
        self.begun, self.rows, self.finished, self.fails = [], [], 0, fails
        self.__file__ = "wandb.py"

    def init(self, *, dir, id, resume, project=None, name=None, config=None):
        if self.fails:
            raise RuntimeError("api_key not configured (no-tty)")
        self.begun.append((dir, id, resume, project, name, config))
        return SimpleNamespace(log=lambda row, step: self.rows.append((step, row)), finish=self._finish)

    def _finish(self):
        self.finished += 1


def test_rows_of_wandb_are_the_history_and_go_on_in_the_same_run(tmp_path, monkeypatch):
    """Against a stand-in; ``test_wandb_offline`` is of wandb itself, where that is installed."""
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    a_fit(num_epochs=2, resume=tmp_path / "run", callbacks=[WandB(tmp_path / "logs", project="digits")])
    again = WandB(tmp_path / "logs", project="digits")
    _, history = a_fit(num_epochs=4, resume=tmp_path / "run", callbacks=[again])
    again.close()
    assert wandb.rows == [(epoch, row) for epoch, row in enumerate(rows_of(history))]
    (dir, identity, resume, *rest), second = wandb.begun
    assert (dir, resume, rest) == (str(tmp_path / "logs"), "allow", ["digits", None, None])
    assert second == wandb.begun[0]
    assert len(identity) == 8
    assert wandb.finished == 1


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(tmp_path, monkeypatch):
    """Every number is in the file that ``wandb sync`` would send."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandB(tmp_path, project="digits")
    _, history = a_fit(callbacks=[logger])
    logger.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    for row in rows_of(history):
        assert all(json.dumps(value).encode() in content for value in row.values())


def test_wandb_that_does_not_start_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", StandIn(fails=True))
    with pytest.raises(OSError, match=r"api_key not configured.*`wandb login`, or set WANDB_MODE=offline"):
        WandB(tmp_path)
    assert not (tmp_path / "id").exists()


@pytest.mark.parametrize(("name", "make"), [("tensorboard", TensorBoard), ("wandb", WandB)])
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, name, make):
    monkeypatch.setitem(sys.modules, name, None)  # as an import that fails
    with pytest.raises(ImportError, match=rf"needs {name}: pip install 'pyrovae\[{name}\]'"):
        make(tmp_path)


def test_a_folder_called_wandb_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ImportError, match="needs wandb"):
        loggers.needs("wandb")
    sys.modules.pop("wandb", None)


def test_a_logger_that_fails_is_told_of_once_and_changes_nothing(tmp_path):
    class Failing:
        def open(self, epoch):
            return 0

        def write(self, row):
            raise ConnectionError("no route")

        def close(self):
            """Nothing."""

    assert isinstance(Failing(), Logger)
    with pytest.warns(UserWarning, match=r"the logger fails \(ConnectionError: no route\)") as caught:
        vae, _ = a_fit(callbacks=[Failing()])
    assert len(caught) == 1
    whole, _ = a_fit()
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), whole.parameters(), strict=True))


def test_a_plain_function_is_a_logger_too():
    rows = []
    _, history = a_fit(callbacks=[Log(rows.append)])
    assert rows == rows_of(history)


def test_the_command_line_logs_and_the_recipe_has_nothing_of_it(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("pyrovae.reports.figures._figures", lambda *_: {})
    folder = tmp_path / "run"
    small = ["--hidden", "8", "--latent-dim", "2", "--batch-size", "2500"]
    assert cli.main(["train", str(folder), *small, "--num-epochs", "1", "--log", "tensorboard"]) == 0
    assert cli.main(["train", str(folder), "--resume", "--num-epochs", "2"]) == 0
    history = json.loads((folder / "history.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["elbo"] for line in lines] == history["elbo"]
    assert [step for step, _ in events_in(folder / "logs" / "tensorboard")["elbo"]] == [0]
    assert "tensorboard" not in (folder / "recipe.json").read_text()
    assert not {"log", "loggers"} & set(Recipe.model_fields)
    prepare(folder, overwrite=True)
    assert not (folder / "logs").exists()
    assert not (folder / "log.jsonl").exists()


def test_the_command_line_says_what_is_missing_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(["train", str(tmp_path / "run"), "--log", "wandb"]) == 1
    assert "pip install 'pyrovae[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", str(tmp_path / "run"), "--log", "paper"]) == 2
