"""Checkpoints: complete or not there, the last two and the best, and never anything but what was written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from components import a_vae, binary
from helpers import locked_by_another
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_run import fit_the_stored_run

import pyrovae as pv
from pyrovae.storage import files as durable
from pyrovae.storage import tensors as trees
from pyrovae.storage.checkpoints import Checkpoints, read
from pyrovae.storage.files import DamagedError
from pyrovae.storage.locks import locked

STORED = Path(__file__).parents[1] / "data" / "run_format_1"


def state(step: int) -> dict:
    return {
        "position": {
            "step": step,
            "loss": 0.1 + step,
            "none": None,
            "off": float("inf"),
            "text": "räksmörgås",
        },
        "weights": {
            "w": torch.arange(6.0).reshape(2, 3).T,
            "n": torch.tensor(step),
            "empty": torch.zeros(0, 2),
        },
        "optimizer": {0: {"step": torch.tensor(3.0)}, 1: (1, [2, (torch.ones(2, dtype=torch.bfloat16),)])},
        "counts": Counter({3: 2}),
    }


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for each, other in zip(a, b, strict=True):
            assert_same(each, other)
    else:
        assert a == b


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_what_is_written_is_read_to_the_bit(checkpoints):
    checkpoints.add(state(7))
    assert_same(checkpoints.newest(), state(7))


def test_keys_that_look_alike_are_kept_apart(checkpoints):
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: {"tensor": "no"}, "1": {"tuple": 2}}
    checkpoints.add({"part": tree})
    assert_same(checkpoints.newest()["part"], tree)


def test_the_last_two_and_the_best_stay(checkpoints):
    for step, score in enumerate([1.0, 5.0, 2.0, None, 3.0, float("nan"), 0.0]):
        checkpoints.add(state(step), score)
    assert [read(path)["position"]["step"] for path in checkpoints.paths()] == [1, 5, 6]
    assert len(list(checkpoints.folder.iterdir())) == 3
    again = Checkpoints(checkpoints.folder)  # in another process
    again.add(state(7), 9.0)
    assert [read(path)["position"]["step"] for path in again.paths()] == [6, 7]


def test_a_damaged_one_is_passed_over_with_a_warning(checkpoints):
    checkpoints.add(state(1))
    checkpoints.add(state(2))
    file = checkpoints.paths()[-1] / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"weights.safetensors: not the bytes .*: the checkpoint before it, 00000001"
    ):
        assert checkpoints.newest()["position"]["step"] == 1
    checkpoints.add(state(3))
    checkpoints.add(state(4))
    assert [read(path)["position"]["step"] for path in checkpoints.paths()] == [3, 4]


def test_when_all_are_damaged_it_is_refused_in_one_line(checkpoints):
    for step in range(2):
        checkpoints.add(state(step))
    for path in checkpoints.paths():
        (path / "state.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"2 bytes, and .* no other checkpoint is whole: take a copy"
    ) as raised:
        checkpoints.newest()
    assert "\n" not in str(raised.value)


def test_a_newer_format_is_refused(checkpoints, monkeypatch):
    checkpoints.add(state(1))
    monkeypatch.setattr(durable, "FORMAT", 2)
    checkpoints.add(state(2))
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match="format 2, and this version reads up to 1: use the pyrovae that wrote"
    ):
        checkpoints.newest()


def test_leftovers_are_swept_and_never_read(tmp_path):
    vae, x = a_vae(), binary(20)
    keywords = {"batch_size": 10, "progress": False, "compile": False, "resume": tmp_path}
    pv.fit(vae.model, vae.guide, x, num_epochs=1, **keywords)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "00000001", folder / "00000002.part")
    (folder / "00000002.part" / "manifest.json").unlink()
    (tmp_path / "weights.safetensors.part").write_bytes(b"half")
    assert len(pv.fit(vae.model, vae.guide, x, num_epochs=2, **keywords)) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_another_process_at_the_run_is_refused_and_a_dead_one_is_not(tmp_path):
    """The pid in the file of a process that is gone locks nothing."""
    vae, x = a_vae(), binary(20)
    keywords = {"num_epochs": 1, "progress": False, "compile": False, "resume": tmp_path}
    with locked_by_another(tmp_path / "lock") as holder:
        with pytest.raises(
            OSError, match=rf"process {holder} is at work in this folder: wait for it"
        ) as raised:
            pv.fit(vae.model, vae.guide, x, **keywords)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "lock").read_text() == str(holder)
    assert len(pv.fit(vae.model, vae.guide, x, **keywords)) == 1
    assert (tmp_path / "lock").read_text() == str(os.getpid())


FORK = """
import os, sys, time
from pathlib import Path
from pyrovae.storage.locks import locked
read, write = os.pipe()
with locked(Path(sys.argv[1])):
    if not os.fork():
        os.write(write, str(os.getpid()).encode())
        time.sleep(60)
    print(os.read(read, 20).decode(), flush=True)
    os._exit(0)  # as a kill does: nothing is let go of
"""

needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock")


@needs_flock
def test_a_fork_does_not_hold_its_parents_lock(tmp_path):
    """As a DataLoader's worker that outlives a killed training."""
    here, path = os.environ | {"PYTHONPATH": str(Path(pv.__file__).parents[1])}, tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", FORK, path], env=here, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.wait()
        free = subprocess.run(["flock", "-n", path, "true"], check=False).returncode
        os.kill(child, signal.SIGKILL)
    assert free == 0


@needs_flock
def test_a_lock_is_let_go_of_though_a_fork_that_just_began_has_it_open(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        held = [
            int(each.name) for each in Path("/proc/self/fd").iterdir() if each.resolve() == path.resolve()
        ]
        other = os.dup(held[0])
        assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 1
    assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 0
    os.close(other)


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def unsupported(lock, **keywords):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", unsupported)
    warned = pytest.warns(UserWarning, match=r"no locks \(No locks available\): run one process at a time")
    with warned, locked(tmp_path / "lock"):
        pass


PICKLE = pickle.dumps({"a": 1})
HUGE = (2**62).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html></html>", "a web page: what was fetched is not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (PICKLE, "a pickle of torch.save, which can run code and is never read"),
        (b"PK\x03\x04 as torch.save writes", "a pickle of torch.save"),
        (HUGE, "header too large"),
        (b"\x05\x00\x00", "not the weights of this model"),
    ],
)
def test_what_people_find_in_the_place_of_weights(tmp_path, content, message):
    vae = a_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        pv.load(tmp_path, vae)
    assert str(raised.value).startswith(str(tmp_path / "weights.safetensors"))
    assert "\n" not in str(raised.value)
    assert_same(dict(vae.state_dict()), before)


def test_a_flipped_byte_of_weights_is_noticed(tmp_path):
    vae = a_vae()
    pv.save(vae, tmp_path)
    file = tmp_path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged, its SHA-256 is another than when it was written"):
        pv.load(tmp_path, vae)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop("model.likelihood.net.layers.0.bias"), "layers.0.bias' is missing"),
        (lambda tensors: tensors.update(more=torch.ones(2)), "'more' is of no part"),
        (
            lambda tensors: tensors.update({"model.likelihood.net.layers.0.bias": torch.ones(9)}),
            r"layers.0.bias' has shape \(9,\), expected \(5,\)",
        ),
    ],
)
def test_missing_superfluous_and_misshaped_tensors_are_named(tmp_path, edit, message):
    vae = a_vae()
    tensors = dict(vae.state_dict())
    edit(tensors)
    (tmp_path / "weights.safetensors").write_bytes(trees.to_bytes(tensors))
    with pytest.raises(ValueError, match=message):
        pv.load(tmp_path, vae)


def test_weights_without_a_hash_are_refused(tmp_path):
    from safetensors.torch import save_model

    vae = a_vae()
    save_model(vae, str(tmp_path / "weights.safetensors"))
    with pytest.raises(
        ValueError, match=r"without the hash that pyrovae.save writes.*load_model\(vae, path\)"
    ):
        pv.load(tmp_path, vae)


def test_nothing_is_pickled(tmp_path, monkeypatch):
    """Neither written nor read, by whatever way."""

    def refuse(*arguments, **keywords):
        raise AssertionError("pickle")

    for module, name in (
        (torch, "save"),
        (torch, "load"),
        (pickle, "dumps"),
        (pickle, "loads"),
        (pickle, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    vae, x = a_vae(), binary(20)
    keywords = {"progress": False, "compile": False, "resume": tmp_path, "validation": x}
    for epochs in (1, 2):
        pv.fit(vae.model, vae.guide, x, num_epochs=epochs, callbacks=[pv.KeepBest()], **keywords)
    pv.save(vae, tmp_path)
    pv.load(tmp_path, vae)


DAMAGE = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "zero", "delete"]),
    st.integers(0, 10**6),  # where, modulo the length
    st.binary(min_size=1, max_size=12),
)


def damaged(content: bytes, damage) -> bytes | None:
    kind, where, more = damage
    where %= len(content)
    if kind == "flip":
        return content[:where] + bytes([content[where] ^ (more[0] or 1)]) + content[where + 1 :]
    if kind == "cut":
        return content[:where]
    if kind == "insert":
        return content[:where] + more + content[where:]
    if kind == "zero":
        return content[:where] + bytes(len(content) - where)
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a training, and a saved model."""
    folder = tmp_path_factory.mktemp("whole")
    vae, x = a_vae(), binary(20)
    pv.fit(vae.model, vae.guide, x, num_epochs=1, compile=False, progress=False, resume=folder)
    pv.save(vae, folder)
    return folder, vae


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_is_what_was_written(whole, tmp_path, data):
    """No error but ours, and never other values: whitespace that came into a manifest harms nobody."""
    original = whole[0] / "checkpoints" / "00000001"
    path = tmp_path / "copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, path)
    for _ in range(data.draw(st.integers(1, 2))):
        file = path / data.draw(st.sampled_from(sorted(each.name for each in path.iterdir())))
        found = damaged(file.read_bytes() or b"\0", data.draw(DAMAGE))
        if found is None:
            file.unlink()
            break
        file.write_bytes(found)
    try:
        found = read(path)
    except DamagedError:
        return
    assert_same(found, read(original))


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=DAMAGE)
def test_damaged_weights_are_refused_or_are_what_was_written(whole, tmp_path, damage):
    folder, vae = whole
    found = damaged((folder / "weights.safetensors").read_bytes(), damage)
    (tmp_path / "weights.safetensors").write_bytes(found or b"")
    other = a_vae()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    try:
        pv.load(tmp_path, other)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert_same(dict(other.state_dict()), before)
    else:
        assert_same(dict(other.state_dict()), dict(vae.state_dict()))


def test_a_run_kept_by_the_first_version_goes_on(tmp_path):
    """Stored when format 1 was made: every later version reads it, and goes on to the same training."""
    shutil.copytree(STORED, tmp_path / "run")
    torch.set_default_dtype(torch.float32)  # as it was
    said = json.loads((STORED / "expected.json").read_text())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*bits may differ")  # of other threads, or a later torch
        history, best, averaged = fit_the_stored_run(tmp_path / "run")
    assert history.elbo[:1] == said["elbo"][:1]  # read, not computed
    assert history.elbo == pytest.approx(said["elbo"], rel=1e-4)
    assert history.validation_elbo == pytest.approx(said["validation_elbo"], rel=1e-4)
    assert history.learning_rate == pytest.approx(said["learning_rate"])
    assert best.epoch == said["best"]
    assert averaged._averages[0].flatten()[:3].tolist() == pytest.approx(said["averages"], rel=1e-3)
