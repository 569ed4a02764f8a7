"""The README's code, the commands of the documentation and the tables of parts run as printed."""

from __future__ import annotations

import copy
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae import flows, guides, likelihoods, networks, priors, registry
from pyrovae.cli.app import _parse as parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARTS = (ROOT / "docs" / "parts.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "how-to" / "command-line.md").read_text()


def fewer(train, test, load, *args, **keywords):
    """The first rows of a data set's splits."""

    def cut(split, rows):
        some = copy.copy(split)
        some.values, some.labels = split.values[:rows], split.labels[:rows]
        some.conventions = {**split.conventions, "rows": rows}
        return some

    found = load(*args, **keywords)
    return replace(
        found,
        train=cut(found.train, train),
        validation=cut(found.validation, test),
        test=cut(found.test, test),
    )


def capped(function, **most):
    """With some keywords no larger than these."""

    def call(*args, **keywords):
        return function(*args, **keywords | {name: min(most[name], keywords[name]) for name in most})

    return call


@pytest.mark.parametrize("rows", [(1000, 12), pytest.param(None, marks=pytest.mark.slow)])
def test_python_blocks_run(rows, tmp_path, monkeypatch, capsys):
    """As they are printed, or with fewer digits, epochs and draws."""
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        monkeypatch.setattr(pv.datasets, "load", partial(fewer, *rows, pv.datasets.load))
        monkeypatch.setattr(pv, "fit", capped(pv.fit, num_epochs=3))
        monkeypatch.setattr(pv, "evaluate", capped(pv.evaluate, num_samples=100))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "log p(x)" in capsys.readouterr().out
    result = namespace["result"]
    assert result.log_evidence.shape == (1000 if rows is None else rows[1],)
    # After 20 epochs of 5,000 digits, or 3 of 1,000; untrained, the mean is about -550.
    assert (-125 if rows is None else -250) < result.log_evidence.mean() < -95
    assert namespace["images"].shape[-2:] == torch.Size([64, 784])


COMMANDS = [
    shlex.split(line, comments=True)
    for line in re.findall(r"^    ((?:pyrovae|torchrun) .*)", README + COMMAND_LINE, re.MULTILINE)
]


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """In a folder that holds the sweep of the documentation, and nothing else."""
    monkeypatch.chdir(tmp_path)
    [sweep] = re.findall(r"```json\n(.*?)```", COMMAND_LINE, re.DOTALL)
    Path("sweep.json").write_text(sweep)


def test_commands_run_in_their_order(at_home, monkeypatch, capsys):
    """Of few rows, with three epochs, few draws and one process; those that take longest are read alone."""
    monkeypatch.setattr(pv.datasets, "load", partial(fewer, 200, 8, pv.datasets.load))
    few = {
        "train": ["--num-epochs", "3"],
        "evaluate": ["--num-samples", "20", "--proposal", "guide"],
        "sweep": ["--dry-run"],
    }
    for words in COMMANDS:
        name, *rest = words[words.index("pyrovae") + 1 :]
        command = parse([name, *rest, *few.get(name, [])])
        if name not in ("explore", "report"):
            assert command.run() == 0, words
    assert "prior-VampPrior-pseudo_inputs-200" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_run_as_they_are_printed(at_home):
    """Half an hour on two cores."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for words in COMMANDS:
        with subprocess.Popen(
            words, env={**os.environ, "PATH": path, "BROWSER": "true"}, stdout=subprocess.PIPE, text=True
        ) as process:
            if words[:2] == ["pyrovae", "explore"]:
                assert "127.0.0.1" in process.stdout.readline()
                process.send_signal(signal.SIGINT)
            said = process.communicate()[0]
        assert process.returncode == 0, words
        print(shlex.join(words), said, sep="\n")
    weights = [Path("runs", name, "weights.safetensors").read_bytes() for name in ("vamp", "again", "seed1")]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w[\w-]*)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("kind", ["priors", "likelihoods", "guides"])
def test_the_swap_table_and_list_cite_the_same(kind):
    swap = PARTS[: PARTS.index("## Whole models")]
    for name in registry._built_in(kind):
        rows = [line for line in swap.splitlines() if re.search(rf"`(flows|{kind})\.{name}\(", line)]
        cited = registry.reference(kind, name).replace("arXiv:", "arxiv.org/abs/").replace("doi:", "doi.org/")
        assert any(cited.split("://")[-1] in row for row in rows), name


def test_every_part_is_in_the_swap_table_and_every_line_of_it_builds():
    swap = PARTS[: PARTS.index("## Whole models")]
    lines = [line.split("|")[1] for line in swap.splitlines() if line.startswith("| `") and ".` " not in line]
    code = [span for line in lines for span in re.findall(r"`([^`]+)`", line) if not span.endswith("= ")]
    x = torch.rand(500, 784)
    q = guides.Normal(networks.MLP(784, 2 * 16))
    vae = pv.VAE(priors.StandardNormal(16), likelihoods.Bernoulli(networks.MLP(16, 784)), q)
    names = {"net": networks.MLP(784, 16), "x": x, "q": q, "vae": vae}
    parts = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "flows": flows}
    for span in code:
        eval(span.replace("codes=...", "codes=torch.randn(99, 16)"), {"torch": torch, **parts, **names})
    for module in (priors, likelihoods, guides):
        listed = {name for name in module.__all__ if name[0].isupper()}
        missing = {name for name in listed if f"{module.__name__.split('.')[-1]}.{name}(" not in swap}
        assert not missing
