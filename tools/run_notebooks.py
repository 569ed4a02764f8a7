"""Runs notebooks in full and stores them with their outputs: one after another, minutes each."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parents[1]
# Notes of torch about the machine, not about the notebook: which compilers torch.compile finds there.
OF_THE_MACHINE = ("cpp_extension",)


def main() -> None:
    """Parses, runs each, and says how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--smoke", action="store_true", help="the tests' smaller numbers; stores nothing")
    arguments = parser.parse_args()
    os.environ["PYROVAE_SMOKE"] = str(int(arguments.smoke))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for path in arguments.notebooks:
        start = time.perf_counter()
        notebook = run(path)
        if not arguments.smoke:
            store(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in an empty folder.

    Raises:
        RuntimeError: A cell wrote to stderr.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3").execute(cwd=folder)
    notebook.metadata["language_info"] = {"name": "python"}  # and not which Python ran it
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not of_the_machine(output)]
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    raise RuntimeError(f"{path.name}: a cell wrote to stderr, mend it first: {output.text}")
    return notebook


def of_the_machine(output: nbformat.NotebookNode) -> bool:
    """Whether an output is such a note."""
    return output.get("name") == "stderr" and any(mark in output.text for mark in OF_THE_MACHINE)


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Writes beside the old file, then over it: an interrupted run leaves the old one."""
    fresh = path.with_suffix(".new")
    nbformat.write(notebook, fresh)
    fresh.replace(path)


if __name__ == "__main__":
    main()
