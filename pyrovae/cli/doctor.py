"""``pyrovae doctor``: whether this machine can train, with what to do about each fault.

Torch is imported inside the checks, since a broken torch is one of the faults to report.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import tyro

from pyrovae.cli.commands import DONE, FAILED, Command
from pyrovae.cli.output import as_json
from pyrovae.core import registry
from pyrovae.data import files as sources

__all__ = ["Doctor", "Finding", "examine"]

FREE_GB = 1.0
"""Free disk space below which a run may not fit."""


class Finding(NamedTuple):
    """The result of one check: "ok", "note" (something less works) or "fault" (training does not)."""

    what: str
    mark: str
    said: str

    def __str__(self) -> str:
        return f"{self.mark:<6}{self.what:<12}{self.said}"


@dataclass(kw_only=True)
class Doctor(Command):
    """Check everything that training and evaluation need, and say how to repair what is missing."""

    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print nothing about checks that pass."""

    def run(self) -> int:
        """Print a line after each check; the exit code is 1 if training cannot run.

        The JSON document has ``works`` and ``findings``, each with ``what`` was checked, its ``mark`` ("ok",
        "note", "fault") and what is ``said``, with the repair.
        """
        findings = []
        for finding in examine(self.root):
            findings.append(finding)
            if not self.json and not (self.quiet and finding.mark == "ok"):
                print(finding, flush=True)
        works = all(finding.mark != "fault" for finding in findings)
        if self.json:
            print(as_json({"works": works, "findings": findings}))
        return DONE if works else FAILED


def examine(root: str | os.PathLike[str] | None = None) -> Iterator[Finding]:
    """Make every check, whatever the others found.

    Example:
        >>> [finding.what for finding in examine()][:2]
        ['python', 'torch']
    """
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")
    torch = _check("torch", "fault", "pip install -U torch", partial(_package, "torch", oldest=(2, 10)))
    yield torch
    for name, oldest in (("arviz", (0, 23)), ("h5netcdf", ()), ("safetensors", ()), ("matplotlib", ())):
        yield _check(name, "fault", f"pip install -U {name}", partial(_package, name, oldest=oldest))
    yield _check("zuko", "note", "flows need it: pip install 'pyrovae[flows]'", partial(_package, "zuko", ""))
    yield _check("compiler", "note", "compiled steps need one: apt install g++", _compiler)
    yield _check("disk, here", "note", "work in another folder", lambda: _folder(Path()))
    temporary = "name another folder in TMPDIR, or free some space"
    yield _check("disk, tmp", "fault", temporary, lambda: _folder(Path(tempfile.gettempdir())))
    data = "name another folder in PYROVAE_DATA; mnist-mini, in the package, works without"
    yield _check("data", "note", data, lambda: _folder(sources.data_folder(root)))
    if torch.mark == "fault":
        yield Finding("step", "fault", "not tried, nor what else needs torch: repair torch first")
        return
    vision = "data set mnist needs one built for your torch: install it from where torch is from"
    yield _check("torchvision", "note", vision, partial(_package, "torchvision"))
    pyro = partial(_package, "pyro-ppl", "pyro", (1, 9))
    yield _check("pyro-ppl", "fault", "pip install -U pyro-ppl", pyro)
    yield _check("cuda", "fault", "install a torch for this driver, or set CUDA_VISIBLE_DEVICES=", _cuda)
    for kind, name in registry.plug_ins():
        yield _check("plug-in", "note", "", partial(_plug_in, kind, name))
    yield _check("step", "fault", "", _step)


def _check(what: str, mark: str, mend: str, check: Callable[[], str]) -> Finding:
    """Make a check; whatever it raises is a finding with this mark, and a UserWarning is a note."""
    try:
        return Finding(what, "ok", check())
    except Exception as error:  # a broken installation raises anything
        mark = "note" if isinstance(error, UserWarning) else mark
        return Finding(what, mark, f"{_reason(error)}{mend and ': '}{mend}")


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _package(name: str, module: str | None = None, oldest: tuple[int, ...] = ()) -> str:
    """A package's version. It is imported, unless its module is "": zuko changes torch's validation."""
    try:
        found = version(name)
        if module != "":
            import_module(module or name)
    except PackageNotFoundError as error:
        raise ValueError("not installed") from error
    except Exception as error:
        raise ValueError(f"cannot be imported ({_reason(error)})") from error
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < oldest:
        raise ValueError(f"{found} is too old, {'.'.join(map(str, oldest))} is needed")
    return found


def _compiler() -> str:
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise ValueError(f"no {name}")
    return found


def _folder(folder: Path) -> str:
    """The free space of a folder, or of its nearest parent that exists, which must be writable."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free / 2**30
    except OSError as error:
        raise ValueError(f"{folder.absolute()} cannot be written to ({error.strerror})") from error
    if free < FREE_GB:
        raise ValueError(f"{free:.1f} GB free in {folder.absolute()}")
    return f"{folder.absolute()}, {free:.1f} GB free"


def _cuda() -> str:
    import torch

    if torch.cuda.is_available():
        torch.ones(2, device="cuda").sum().item()
        return f"{torch.version.cuda}, {torch.cuda.device_count()} of {torch.cuda.get_device_name()}"
    if shutil.which("nvidia-smi") is None:
        return "no GPU: everything runs on the CPU"
    raise UserWarning(f"a GPU that torch does not see (torch is built for CUDA {torch.version.cuda})")


def _plug_in(kind: str, name: str) -> str:
    registry.find(kind, name)
    return f"{kind} {name} of {' '.join(registry.package_of(kind, name) or ('pyrovae',))}"


def _step() -> str:
    """Train a small model on digits."""
    import torch

    from pyrovae.core.random import stream
    from pyrovae.runs.build import build, load_data
    from pyrovae.runs.recipe import Recipe
    from pyrovae.training.fit import fit

    recipe, started = Recipe(latent_dim=2, hidden=(32,)), time.perf_counter()
    with stream("doctor"):
        vae = build(recipe, 784)
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    rows = load_data(recipe).train[:512]
    history = fit(vae.model, vae.guide, rows, optimizer=adam, num_epochs=5, compile=False, progress=False)
    change, seconds = f"{history.elbo[0]:.0f} to {history.elbo[-1]:.0f}", time.perf_counter() - started
    if not history.elbo[-1] > history.elbo[0]:
        raise ValueError(f"training does not raise the ELBO ({change})")
    return f"20 steps raise the ELBO, {change}; {seconds:.1f} s"
