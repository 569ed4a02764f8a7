"""The documentation: its code prints what it says, nothing public is left out, and no link leads nowhere."""

from __future__ import annotations

import re
import sys
from importlib import import_module, util
from pathlib import Path

import pytest
from helpers import IS_OLD_ARVIZ
from pages import agree, blocks, outputs

import pyrovae as pv

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
RUN = [path for path in PAGES if blocks(path.read_text()) and path.name != "index.md"]
SLOW = {"compare", "evaluate", "sweep"}
"""They train and evaluate on all of the test digits, for a verdict that is one."""

needs_sphinx = pytest.mark.skipif(not util.find_spec("sphinx"), reason="the extra docs is not installed")


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS).with_suffix(""))


@pytest.mark.parametrize(
    "page",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in RUN],
    ids=name_of,
)
def test_code_prints_what_the_page_says(page):
    for block, printed in outputs(page):
        if IS_OLD_ARVIZ or not block.of_old_arviz:
            assert agree(printed, block.said), (
                f"{page.name}:{block.line} printed\n{printed}\nnot\n{block.said}"
            )


def test_the_comparison_of_outputs_can_fail():
    said = "log p(x) -185.893 ± 0.02, weights 9011ecb2284d9684"
    assert agree("log p(x) -185.890 ± 0.03, weights 8211ecb2284d9684", said)
    assert not agree("log p(x) -205.893 ± 0.02, weights 9011ecb2284d9684", said)
    assert not agree("log q(x) -185.893 ± 0.02, weights 9011ecb2284d9684", said)
    assert not agree("log p(x) 185.893 ± 0.02, weights 9011ecb2284d9684", said)
    assert not agree("", said)


def test_the_first_page_has_the_code_of_the_readme_which_runs_there():
    readme = (ROOT / "README.md").read_text()
    first = blocks((DOCS / "index.md").read_text())
    assert len(first) == 2
    for block in first:
        assert f"```python\n{block.code}```" in readme


def home(module: str):
    """The module of a dotted name: ``pyrovae.priors`` is the root's name of one."""
    name = module.partition(".")[2]
    return getattr(pv, name) if name in pv.__all__ else import_module(module)


def documented() -> dict[str, set[str]]:
    """Modules whose names are in the reference: all of them, or those after the module's name."""
    found: dict[str, set[str]] = {}
    for page in (DOCS / "reference").glob("*.md"):
        for line in re.findall(r"^\.\. public:: (.*)$", page.read_text(), re.MULTILINE):
            module, *names = line.split()
            found.setdefault(module, set()).update(names or home(module).__all__)
    return found


def test_every_public_name_is_in_the_reference():
    found = documented()
    modules = set(pv._MODULES)
    by_home = {home(module).__name__: names for module, names in found.items()}
    at_home = {name for name, place in pv._HOMES.items() if name in by_home.get(f"pyrovae.{place}", ())}
    assert set(pv.__all__) - modules - at_home == found["pyrovae"]
    for name in modules:
        assert set(getattr(pv, name).__all__) <= found[f"pyrovae.{name}"], name
    for module, names in found.items():
        assert all(hasattr(home(module), name) for name in names), module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"(?<!`)\]\((?!https?:)([^)#]+)", text)
    links += [f"{target}.ipynb" for target in re.findall(r"\{doc\}`[^<`]*<([^>]+)>`", text)]
    for entries in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
        lines = [line for line in entries.splitlines() if line and not line.startswith(":")]
        links += [line if "*" in line else f"{line}.md" for line in lines]
    links += re.findall(r"```\{include\} (\S+)", text)
    for link in links:
        assert list(page.parent.glob(link)) if "*" in link else (page.parent / link).exists(), link


def test_the_architecture_names_files_that_exist():
    text = (DOCS / "architecture.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:pyrovae|tests|docs)?/?[\w/]+(?:\.(?:py|md)|/))`", text)
    assert len(paths) > 25
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "pyrovae" / path).exists(), path


@needs_sphinx
def test_the_help_of_every_command_is_asked_for(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    command_help = import_module("command_help")
    assert {"train", "evaluate", "compare", "list", "doctor"} <= set(command_help.commands())
    assert "--num-samples" in command_help.help_of("evaluate")


@needs_sphinx
@pytest.mark.slow
def test_builds_without_warnings_and_wants_nothing_of_the_network(tmp_path):
    """In a process of its own, since Sphinx changes what is imported; -n: every reference is resolved."""
    import subprocess

    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    wanted = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]*)\"")
    assert not {(page.name, url) for page in pages for url in wanted.findall(page.read_text())}
    assert (tmp_path / "_static" / "mathjax" / "tex-chtml.js").exists()
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="").data
    known = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    for module, names in documented().items():
        assert not {f"{module}.{name}" for name in names} - known
