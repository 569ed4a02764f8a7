"""Progress: a bar for people, few plain lines for files, and none of tqdm's warnings in a notebook."""

from __future__ import annotations

import io
import subprocess
import sys

from tqdm import tqdm

from pyrovae.core import progress
from pyrovae.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(monkeypatch, stream: io.StringIO, *, seconds: float = 1.0, **keywords) -> str:
    """What a loop of a hundred steps says, each of which takes so many seconds of a clock."""
    now = iter(range(10**6))
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(100, "train", **{"show": True, **keywords}) as bar:
        bar._time = lambda: bar.start_t + seconds * next(now)
        bar.set_description("train")
        for step in range(keywords.get("initial", 0), 100):
            bar.set_postfix_str(f"ELBO -{step}", refresh=False)
            bar.update()
    return stream.getvalue()


def test_a_file_gets_plain_lines_now_and_then(monkeypatch):
    text = said(monkeypatch, io.StringIO(), seconds=0.5)
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.split("\n")
    assert lines.pop() == ""
    # A hundred steps of half a second: every tenth second of fifty, and the end.
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith("train: ")
    assert lines[-1].startswith("train: 100 of 100 (100%), ")
    assert lines[-1].endswith(" left, ELBO -99")
    counts = [int(line.split()[1]) for line in lines]
    assert counts == sorted(set(counts))


def test_a_short_loop_gets_one_line(monkeypatch):
    text = said(monkeypatch, io.StringIO(), seconds=0.0)
    assert text.count("\n") == 1
    assert text.startswith("train: 100 of 100 (100%), 00:00 gone, ")


def test_the_lines_of_a_long_run_become_rarer(monkeypatch):
    """Of a day of steps of a minute, one line for each fiftieth of what is gone and no more."""
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with progress_bar(1440, "train", show=True) as bar:
        start, minutes = bar.start_t, iter(range(10**6))
        bar._time = lambda: start + 60 * next(minutes)
        for _ in range(1440):
            bar.update()
    # log(1440) / log(1 + 1/50) = 367 lines at most, and 1,440 without.
    assert 50 < stream.getvalue().count("\n") < 400


def test_a_terminal_gets_a_bar(monkeypatch):
    text = said(monkeypatch, Terminal(), seconds=1.0)
    assert text.count("\r") > 10
    assert "train: 100%|" in text
    assert "ELBO -99" in text


def test_what_is_done_already_is_counted_and_nothing_is_said_of_nothing(monkeypatch):
    assert "train: 100 of 100" in said(monkeypatch, io.StringIO(), initial=60)
    assert said(monkeypatch, io.StringIO(), initial=100) == ""
    assert said(monkeypatch, io.StringIO(), show=False) == ""
    assert said(monkeypatch, Terminal(), show=False) == ""


def test_a_notebook_gets_its_own_kind(monkeypatch):
    class Stream(io.StringIO):
        pass

    Stream.__module__ = "ipykernel.iostream"
    kinds = []

    class Own(tqdm):
        def __init__(self, *args, **kwargs):
            kinds.append("own")
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(progress, "automatic", Own)
    said(monkeypatch, Stream())
    assert kinds == ["own"]


def test_a_notebook_without_widgets_is_not_warned():
    """What a kernel has in sys.modules, and no ipywidgets: to import us and then Pyro's tqdm is silent."""
    code = """
import sys, types
kernel, shell = types.ModuleType("ipykernel.zmqshell"), types.ModuleType("IPython")
shell.get_ipython = lambda: None
sys.modules |= {"ipykernel.zmqshell": kernel, "IPython": shell, "ipywidgets": None, "IPython.display": None}
import pyrovae
import tqdm.auto
assert "torch" not in sys.modules
"""
    for program, warned in ((code, False), (code.replace("import pyrovae\n", ""), True)):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ("IProgress not found" in done.stderr) == warned
