"""What is installed: every file of the package, types that a checker sees, and one version everywhere."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyrovae

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyrovae"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="of a clone")


def tracked() -> set[str]:
    """Files of the package that git knows; those that are there, where there is no git."""
    done = subprocess.run(["git", "ls-files", "pyrovae"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return {line for line in done.stdout.splitlines() if (ROOT / line).is_file()}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {str(path.relative_to(ROOT)) for path in files}


def test_every_file_that_is_no_code_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["pyrovae"]
    shipped = {str(path.relative_to(ROOT)) for pattern in patterns for path in PACKAGE.glob(pattern)}
    others = {name for name in tracked() if not name.endswith(".py")}
    assert others <= shipped, f"add a pattern to package-data in pyproject.toml for {others - shipped}"
    assert {"pyrovae/py.typed", "pyrovae/data/mnist_mini.npz", "pyrovae/data/ATTRIBUTION.md"} <= others


def test_every_folder_of_code_is_a_package():
    folders = {(ROOT / name).parent for name in tracked() if name.endswith(".py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_one_version_and_one_licence_everywhere():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert pyrovae.__version__ == PROJECT["project"]["version"] == str(citation["version"])
    assert PROJECT["project"]["license"] == citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the schema asks for


def test_extras_of_loggers_and_hub_are_what_their_errors_name():
    extras = PROJECT["project"]["optional-dependencies"]
    assert (extras["tensorboard"], extras["wandb"]) == (["tensorboard"], ["wandb"])
    assert extras["hub"] == ["huggingface_hub"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network, by the setuptools that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in [*tracked(), "pyproject.toml", "README.md", "LICENSE"]:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", folder, folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel) -> Path:
    """An environment with the wheel in it, and beside it the packages that are here; its Python."""
    folder = wheel.parent / "environment"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_wheel_has_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if name.startswith("pyrovae/")} == tracked()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/pyrovae/data/ATTRIBUTION.md") for name in names)


@pytest.mark.slow
def test_an_installed_package_runs_outside_of_the_clone(environment, tmp_path):
    code = "import pyrovae as pv; print(pv.__file__, len(pv.datasets.load('mnist-mini').train))"
    for command, said in ((["-c", code], " 5000\n"), (["-m", "pyrovae", "list", "priors"], "StandardNormal")):
        done = subprocess.run([environment, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        if command[0] == "-c":
            assert done.stdout.startswith(f"{environment.parent.parent}/lib/")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_a_type_checker_sees_the_types_of_an_installed_package(environment, tmp_path):
    """By py.typed: without it the package is Any to a user's script, and mypy says nothing of use."""
    script = "import pyrovae as pv\nreveal_type(pv.evaluate)\npv.fit(len, len, [], num_epochs='3')\n"
    (tmp_path / "user.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--python-executable", environment, "--config-file", ""]
    command += ["--cache-dir", tmp_path / "cache", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "-> pyrovae.evaluation.results.Evaluation" in done.stdout, done.stdout + done.stderr
    assert 'user.py:3: error: Argument "num_epochs" to "fit" has incompatible type "str"' in done.stdout
