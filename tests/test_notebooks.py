"""Every notebook runs in its smoke setting, is stored with its outputs, and says what they say."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


def outputs_of(cells):
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    """A client of one kernel for all notebooks: it takes as long to start as some of them to run."""
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3")
    environment = os.environ | {"PYROVAE_SMOKE": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    with client.setup_kernel(cwd=str(tmp_path_factory.mktemp("kernel")), env=environment):
        yield client


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Jupyter's own
def test_runs_in_the_smoke_setting(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    afresh = f"%reset -f\n%cd -q {tmp_path}\nimport pyro; pyro.clear_param_store(); del pyro"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(afresh))
    kernel.nb = notebook
    for index, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, index)
    outputs = outputs_of(notebook.cells[1:])
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_with_the_outputs_of_one_full_run(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 30
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "SMOKE = " in code[0].source
    assert not [output for output in outputs_of(code) if output.get("name") == "stderr"]
    assert not any(str(Path.home()) in str(cell) or str(FOLDER) in str(cell) for cell in notebook.cells)


# Decimals in the prose that are neither results nor settings, by notebook, each with its reason.
NO_RESULTS = {
    "05_which_bound": {"0.01"},  # the threshold of active units as others use it
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_the_text_are_those_of_the_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert unsupported(notebook) - NO_RESULTS.get(path.stem, set()) == set()


def test_a_number_that_no_output_has_is_found():
    def notebook(prose, code, output):
        cell = nbformat.v4.new_code_cell(code)
        cell.outputs = [nbformat.v4.new_output("stream", text=output)]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell])

    told = notebook("It is -1.24 (arXiv:1802.04537, [a](http://b/1.5)) at 0.25.", "RATE = 0.25", "-1.2351")
    assert unsupported(told) == set()
    assert unsupported(notebook("It is 1.24, or 1.25.", "RATE = 0.25", "-1.24 1.2")) == {"1.24", "1.25"}
    assert unsupported(notebook("", 'say(f"It is 3.5 of {x:.2f}")', "3.5 of 1.00")) == {"3.5"}
    assert unsupported(notebook("", 'say(f"scale {s:.2f}, not 0.5"); s = 0.5', "scale 0.50")) == set()


def unsupported(notebook):
    """Decimals typed into prose that neither a printed number rounds to nor the code has as a constant.

    Prose is the text cells, without addresses and arXiv numbers, and what the strings in code cells say
    beside the numbers put into them: those are typed too, and grow stale as text does.
    """
    code = [ast.parse(plain(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]
    constants = {
        str(node.value)
        for tree in code
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }
    typed = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            typed |= set(DECIMAL.findall(re.sub(r"\]\([^)]*\)|arXiv:[\d.]+", "", cell.source)))
    printed = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + str(output.get("data", {}).get("text/markdown", ""))
            printed += DECIMAL.findall(text)
    wrong = {
        number for number in typed if number.lstrip("+-") not in constants and not among(number, printed)
    }
    said = {number for tree in code for text in spoken(tree) for number in DECIMAL.findall(text)}
    return wrong | {number for number in said if number.lstrip("+-") not in constants}


SAYING = ("say", "table", "print")
DECIMAL = re.compile(r"(?<![\w.])[+-]?\d[\d,]*\.\d+(?![\w.]*\d)")


def plain(source):
    """Without what only IPython reads."""
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))


def spoken(tree):
    """The fixed parts of strings that are said or printed."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) in SAYING:
            for node in ast.walk(call):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def among(number, printed):
    """Whether a printed number, which has as many digits or more, rounds to it."""
    digits = len(number.split(".")[1])
    value = float(number.replace(",", ""))
    return any(
        len(each.split(".")[1]) >= digits and abs(float(each.replace(",", "")) - value) <= 0.5 * 10**-digits
        for each in printed
    )
