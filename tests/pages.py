"""The code of the documentation, run as it is printed: python tests/pages.py PAGE... writes the outputs.

A block ```` ```python ```` is run in the page's one namespace. What it prints, warns and raises is in the
block ```` ```text ```` right under it; where there is none, it has nothing to say.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pyro
import torch

OLD_ARVIZ = "<!-- ArviZ 0.23 -->"
"""Above code whose output is that of ArviZ's older line alone."""

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<said>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
HASH = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b")
WIDTH = 110


class Block(NamedTuple):
    """Code of a page, and what the page says that it prints."""

    line: int
    code: str
    said: str
    of_old_arviz: bool


def blocks(text: str) -> list[Block]:
    return [
        Block(
            text[: found.start()].count("\n") + 2,
            found["code"],
            found["said"] or "",
            text[: found.start()].rstrip().endswith(OLD_ARVIZ),
        )
        for found in BLOCK.finditer(text)
    ]


def outputs(page: Path) -> Iterator[tuple[Block, str]]:
    """Each block of a page with what it printed now."""
    names, text = {"__name__": "page"}, page.read_text()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), fresh():
        for block in blocks(text):
            yield block, run(block, names, page)


def run(block: Block, names: dict, page: Path) -> str:
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    error = ""
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(io.StringIO()) as said:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        try:
            with redirect_stderr(io.StringIO()):  # bars
                exec(code, names)
        except Exception as raised:
            error = one_line(raised)
    lines = dict.fromkeys(one_line(each.message) for each in warned)
    told = "\n".join(part for part in (said.getvalue().rstrip(), *lines, error) if part)
    return re.sub(r" +$", "", told, flags=re.MULTILINE).replace(f"{Path.cwd()}/", "")


def one_line(said: Warning | Exception) -> str:
    """As Python's last line has it, cut where it is long."""
    text = " ".join(f"{type(said).__name__}: {said}".split())
    return text if len(text) <= 2 * WIDTH else f"{text[: 2 * WIDTH - 4]} ..."


def agree(printed: str, said: str) -> bool:
    """The same words, and numbers that are near.

    Seeds give the same draws everywhere, and other processors other last bits, which training makes larger:
    a twentieth, or 0.02 of a number near zero, is less than what the pages tell by them.
    """
    ours, theirs = (HASH.sub("hash", text) for text in (printed, said))
    if NUMBER.sub("0", ours).split() != NUMBER.sub("0", theirs).split():
        return False
    pairs = zip(*(map(value, NUMBER.findall(text)) for text in (ours, theirs)), strict=True)
    return all(math.isclose(a, b, rel_tol=0.05, abs_tol=0.02) for a, b in pairs)


def value(number: str) -> float:
    return float(number.replace(",", ""))


@contextmanager
def fresh() -> Iterator[None]:
    """What a new process has: nothing seeded, in single precision, an empty parameter store."""
    before, validated = torch.get_default_dtype(), torch.distributions.Distribution._validate_args
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.distributions.Distribution.set_default_validate_args(validated)  # zuko's import turns it off
        pyro.clear_param_store()


def write(page: Path) -> None:
    """Put what its blocks print now under them."""
    text, done, parts = page.read_text(), 0, []
    results = list(outputs(page))
    for found, (_, printed) in zip(BLOCK.finditer(text), results, strict=True):
        parts += [text[done : found.start()], f"```python\n{found['code']}```\n"]
        parts += [f"\n```text\n{printed}\n```\n"] if printed else []
        done = found.end()
    page.write_text("".join([*parts, text[done:]]))


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", str(WIDTH))
    for each in sys.argv[1:]:
        write(Path(each))
