"""pyrovae doctor: each fault is found, named with what to do, and hides no other finding."""

from __future__ import annotations

import collections
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch

from pyrovae import cli, registry
from pyrovae.cli import doctor

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def quick(monkeypatch):
    """Without imports and the step."""
    monkeypatch.setattr(doctor, "import_module", lambda name: None)
    monkeypatch.setattr(doctor, "_step", lambda: doctor.Finding("step", "ok", ""))


def findings(root=None) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine(root)}


def raising(error: BaseException):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


def failing_import(module: str, error: BaseException):
    return lambda name: raising(error)() if name == module else None


def test_a_machine_that_trains_is_found_to(capsys, tmp_path):
    assert cli.main(["doctor", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    python      3.")
    assert not [line for line in lines if line.startswith("fault")]
    assert lines[-1].startswith("ok    step        20 steps raise the ELBO, -")
    assert any(line.startswith(f"ok    data        {tmp_path}, ") for line in lines)


FAULTS = {
    "torch missing": (
        lambda patch: patch(
            doctor, "version", lambda name: raising(importlib.metadata.PackageNotFoundError())()
        ),
        ("torch", "fault", "not installed: pip install -U torch"),
    ),
    "torch broken": (
        lambda patch: patch(
            doctor, "import_module", failing_import("torch", OSError("libtorch.so: no such file"))
        ),
        ("torch", "fault", "cannot be imported (libtorch.so: no such file): pip install -U torch"),
    ),
    "torch too old": (
        lambda patch: patch(doctor, "version", lambda name: "2.4.1+cpu"),
        ("torch", "fault", "2.4.1+cpu is too old, 2.10 is needed: pip install -U torch"),
    ),
    "torchvision for another torch": (
        lambda patch: patch(
            doctor,
            "import_module",
            failing_import("torchvision", RuntimeError("operator torchvision::nms does not exist")),
        ),
        (
            "torchvision",
            "note",
            "cannot be imported (operator torchvision::nms does not exist): data set mnist needs one",
        ),
    ),
    "pyro broken": (
        lambda patch: patch(
            doctor, "import_module", failing_import("pyro", ImportError("no module named opt_einsum"))
        ),
        ("pyro-ppl", "fault", "cannot be imported (no module named opt_einsum): pip install -U pyro-ppl"),
    ),
    "ArviZ too old": (
        lambda patch: patch(
            doctor, "version", lambda name: "0.17.0" if name == "arviz" else importlib.metadata.version(name)
        ),
        ("arviz", "fault", "0.17.0 is too old, 0.23 is needed"),
    ),
    "ArviZ 1.x": (
        lambda patch: patch(
            doctor, "version", lambda name: "1.3.0" if name == "arviz" else importlib.metadata.version(name)
        ),
        ("arviz", "ok", "1.3.0"),
    ),
    "no zuko": (
        lambda patch: patch(
            doctor,
            "version",
            lambda name: (
                raising(importlib.metadata.PackageNotFoundError())()
                if name == "zuko"
                else importlib.metadata.version(name)
            ),
        ),
        ("zuko", "note", "not installed: flows need it: pip install 'pyrovae[flows]'"),
    ),
    "a GPU that torch does not see": (
        lambda patch: (
            patch(torch.cuda, "is_available", lambda: False),
            patch(shutil, "which", lambda name: f"/usr/bin/{name}"),
            patch(torch.version, "cuda", "12.8"),
        ),
        ("cuda", "note", "a GPU that torch does not see (torch is built for CUDA 12.8): install a torch"),
    ),
    "a GPU that does not work": (
        lambda patch: (
            patch(torch.cuda, "is_available", lambda: True),
            patch(torch, "ones", raising(RuntimeError("CUDA error: no kernel image is available\nmore"))),
        ),
        (
            "cuda",
            "fault",
            "CUDA error: no kernel image is available: install a torch",
        ),
    ),
    "no compiler": (
        lambda patch: (patch(shutil, "which", lambda name: None), patch(os, "environ", {})),
        ("compiler", "note", "no g++: compiled steps need one: apt install g++"),
    ),
    "a compiler that is not there": (
        lambda patch: patch(os, "environ", {**os.environ, "CXX": "/opt/g++-9"}),
        ("compiler", "note", "no /opt/g++-9: compiled steps need one"),
    ),
    "disk full": (
        lambda patch: patch(shutil, "disk_usage", lambda folder: Usage(2**40, 2**40 - 2**28, 2**28)),
        ("disk, tmp", "fault", "0.2 GB free in"),
    ),
    "no temporary folder": (
        lambda patch: patch(tempfile, "TemporaryFile", raising(OSError(30, "Read-only file system"))),
        ("disk, tmp", "fault", "cannot be written to (Read-only file system): name another folder in TMPDIR"),
    ),
    "unwritable home": (
        lambda patch: patch(os, "environ", {"HOME": "/proc/nobody", "PATH": os.environ["PATH"]}),
        ("data", "note", "/proc/nobody/.cache/pyrovae cannot be written to ("),
    ),
    "no home": (
        lambda patch: patch(doctor.sources, "data_folder", raising(RuntimeError("no home directory"))),
        ("data", "note", "no home directory: name another folder in PYROVAE_DATA"),
    ),
    "a step that fails": (
        lambda patch: patch(doctor, "_step", raising(RuntimeError("illegal instruction"))),
        ("step", "fault", "illegal instruction"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_what_to_do(fault, quick, monkeypatch, tmp_path):
    do, (what, mark, said) = FAULTS[fault]
    root = None if "home" in fault else tmp_path
    with monkeypatch.context() as patched:
        patched.delenv("PYROVAE_DATA", raising=False)
        do(patched.setattr)
        found = findings(root)
    assert found[what].mark == mark
    assert said in found[what].said
    assert "\n" not in str(found[what])
    assert {"python", "torch", "compiler", "disk, here", "data", "step"} <= found.keys()


def test_damaged_digits_are_a_fault(monkeypatch):
    monkeypatch.setattr(doctor.sources, "read_mini_mnist", raising(ValueError("mnist-mini: damaged")))
    with pytest.raises(ValueError, match="mnist-mini: damaged"):
        doctor._step()


def test_a_plug_in_that_raises_is_a_finding(quick, monkeypatch):
    monkeypatch.setattr(registry, "plug_ins", lambda: iter([("priors", "Broken"), ("priors", "Laplace")]))
    monkeypatch.setattr(
        registry, "find", lambda kind, name: raising(ImportError("Broken: bad"))() if name == "Broken" else 1
    )
    found = [finding for finding in doctor.examine() if finding.what == "plug-in"]
    assert [(each.mark, each.said) for each in found] == [
        ("note", "Broken: bad"),
        ("ok", "priors Laplace of pyrovae"),
    ]


def test_it_answers_where_torch_cannot_be_imported(tmp_path):
    """A real process whose torch raises as one of another CUDA does."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "pyrovae", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 1
    assert not done.stderr
    lines = done.stdout.splitlines()
    torch_line = "fault torch       cannot be imported (libcudart.so.13: cannot open): pip install -U torch"
    assert torch_line in lines
    assert lines[-1].startswith("fault step        not tried")
    train = [sys.executable, "-m", "pyrovae", "train", str(tmp_path / "run")]
    done = subprocess.run(train, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 1
    assert (
        done.stderr == "pyrovae: libcudart.so.13: cannot open (`pyrovae doctor` looks at what is installed)\n"
    )
