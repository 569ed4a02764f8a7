"""What a machine needs for pyrovae, looked at for real, each finding with what to do.

Nothing of torch is imported at the top: where torch is what is broken, this has to say so.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from pyrovae.core import registry
from pyrovae.data import files as sources

__all__ = ["Finding", "examine"]

OLDEST = {"python": (3, 11), "torch": (2, 10), "pyro-ppl": (1, 9), "arviz": (0, 23)}
"""The versions that work, and newer ones."""

MODULES = {"pyro-ppl": "pyro"}
"""Packages whose module has another name."""

FREE_GB = 1.0
"""Free space below which a run may not fit."""


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        what: What was looked at.
        mark: "ok"; "note", where something less than everything works; "fault", where training does not.
        said: What was found, and what to do.
    """

    what: str
    mark: str
    said: str

    def __str__(self) -> str:
        return f"{self.mark:<6}{self.what:<12}{self.said}"


def examine(root: str | os.PathLike[str] | None = None) -> Iterator[Finding]:
    """Every finding, as it is made. Whatever is broken is a finding, and the next check follows.

    Args:
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.

    Example:
        >>> [finding.what for finding in examine()][:3]
        ['python', 'torch', 'torchvision']
    """
    yield _python()
    torch = _package("torch", "pip install -U torch")
    yield torch
    works = torch.mark != "fault"
    if works:
        yield _torchvision()
        yield _package("pyro-ppl", "pip install -U pyro-ppl")
        yield _guarded("cuda", _cuda)
    for name in ("arviz", "h5netcdf", "safetensors", "matplotlib"):
        yield _package(name, f"pip install -U {name}")
    yield _flows()
    yield _compiler()
    yield from (_disk(what, folder) for what, folder in (("here", Path()), ("temporary", _temporary())))
    yield _data(root)
    if works:
        yield from _plug_ins()
        yield _guarded("step", _step)
    else:
        yield Finding("step", "fault", "not tried, nor what else stands on torch: mend that first")


def _python() -> Finding:
    found = platform.python_version()
    if _numbers(found) < OLDEST["python"]:
        return Finding("python", "fault", f"{found} is too old: install 3.11 or newer")
    return Finding("python", "ok", f"{found}, {sys.executable}")


def _package(name: str, mend: str) -> Finding:
    """A package that is imported for real, and is not too old."""
    try:
        found = version(name)
        import_module(MODULES.get(name, name))
    except PackageNotFoundError:
        return Finding(name, "fault", f"not installed: {mend}")
    except Exception as error:  # a package that does not fit its own libraries raises anything
        return Finding(name, "fault", f"cannot be imported ({_reason(error)}): {mend}")
    oldest = OLDEST.get(name, (0,))
    if _numbers(found) < oldest:
        return Finding(name, "fault", f"{found} is too old, {'.'.join(map(str, oldest))} is needed: {mend}")
    line = f", line {'0.23' if found.startswith('0.') else '1.x'}" if name == "arviz" else ""
    return Finding(name, "ok", f"{found}{line}")


def _torchvision() -> Finding:
    """Only MNIST needs it; one that was built for another torch fails when it is imported."""
    mend = (
        "install one that fits your torch, from where that is from: for a torch without CUDA, "
        "pip install torchvision --index-url https://download.pytorch.org/whl/cpu"
    )
    found = _package("torchvision", mend)
    if found.mark == "ok":
        return found
    return Finding("torchvision", "note", f"{found.said} (data set mnist needs it, and nothing else)")


def _flows() -> Finding:
    """Looked for, not imported: zuko switches torch's argument validation off."""
    try:
        return Finding("zuko", "ok", version("zuko"))
    except PackageNotFoundError:
        return Finding("zuko", "note", "not installed, so no flows: pip install 'pyrovae[flows]'")


def _guarded(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever there is to find
        return Finding(what, "fault", f"failed ({_reason(error)})")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            mend = "install a torch for this driver and GPU, or hide it: CUDA_VISIBLE_DEVICES="
            return Finding("cuda", "fault", f"seen, but it does not work ({_reason(error)}): {mend}")
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("cuda", "ok", f"{torch.version.cuda}, {', '.join(names)}")
    if shutil.which("nvidia-smi") is None:
        return Finding("cuda", "ok", "no GPU: everything runs on the CPU")
    built = torch.version.cuda
    why = "this torch is built without CUDA" if built is None else f"torch is built for CUDA {built}"
    return Finding("cuda", "note", f"a GPU that torch does not see ({why}): install a torch for its driver")


def _compiler() -> Finding:
    name = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), "")
    found = shutil.which(name) if name else None
    if found is None:
        looked = f"$CXX is '{name}', which is not there" if name else "no g++ or clang++"
        return Finding("compiler", "note", f"{looked}: compiled steps need one: apt install g++")
    return Finding("compiler", "ok", found)


def _disk(what: str, folder: Path) -> Finding:
    what = f"disk, {what}" if what == "here" else "disk, tmp"
    try:
        free = shutil.disk_usage(folder).free / 2**30
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        said = f"{folder.absolute()} cannot be written to ({error.strerror})"
        mend = "work in another folder" if what == "disk, here" else "name another in TMPDIR"
        return Finding(what, "note" if what == "disk, here" else "fault", f"{said}: {mend}")
    said = f"{free:.1f} GB free in {folder.absolute()}"
    return Finding(what, "ok", said) if free >= FREE_GB else Finding(what, "fault", f"{said}: free some")


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none that it tried can be written to
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _data(root: str | os.PathLike[str] | None) -> Finding:
    """The folder of data sets, or the nearest one above it that is there."""
    mend = "name another in PYROVAE_DATA; mnist-mini, in the package, works without"
    try:
        folder = sources.data_folder(root)
    except RuntimeError:  # of pathlib: there is no home
        return Finding("data", "note", f"there is no home folder to keep data in: {mend}")
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding("data", "note", f"{folder} cannot be written to ({error.strerror}): {mend}")
    try:
        sources.read_mini_mnist()
    except ValueError as error:
        return Finding("data", "fault", str(error))
    return Finding("data", "ok", f"{folder}{'' if folder.exists() else ', made when it is needed'}")


def _plug_ins() -> Iterator[Finding]:
    for kind, name in registry.plug_ins():
        try:
            registry.find(kind, name)
        except (ImportError, ValueError) as error:
            yield Finding("plug-in", "note", str(error))
        else:
            package = registry.package_of(kind, name) or ("pyrovae", "")
            yield Finding("plug-in", "ok", f"{kind} {name} of {' '.join(package).strip()}")


def _step() -> Finding:
    """Train a little model on digits, for real."""
    import torch

    from pyrovae.core.random import stream
    from pyrovae.runs.build import build, load_data
    from pyrovae.runs.recipe import Recipe
    from pyrovae.training.fit import fit

    recipe = Recipe(latent_dim=2, hidden=(32,))
    with stream("doctor"):
        vae = build(recipe, 784)
    rows = load_data(recipe).train[:512]
    started = time.perf_counter()
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    history = fit(vae.model, vae.guide, rows, optimizer=adam, num_epochs=5, compile=False, progress=False)
    bounds = history.elbo
    seconds = time.perf_counter() - started
    if not bounds[-1] > bounds[0]:
        return Finding(
            "step", "fault", f"training does not raise the ELBO ({bounds[0]:.1f} to {bounds[-1]:.1f})"
        )
    return Finding(
        "step", "ok", f"20 steps raise the ELBO, {bounds[0]:.0f} to {bounds[-1]:.0f}; {seconds:.1f} s"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in text.split("+")[0].split(".")[:2])


def _reason(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
