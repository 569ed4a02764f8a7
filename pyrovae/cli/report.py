"""``pyrovae report``: runs as one page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import tyro

from pyrovae.cli.commands import DONE, Command, at_least
from pyrovae.cli.output import print_result
from pyrovae.core.checks import choose
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import read_run

__all__ = ["Report"]


@dataclass(kw_only=True)
class Report(Command):
    """Write runs as one HTML page: training, log p(x) and where it goes, pictures, comparison."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of one or more runs."""
    out: Path | None = None
    """File to write; if not given, report.html in the run's folder, or here for several runs."""
    split: str = "test"
    """Split of the data: train, validation or test."""
    num_samples: int = 100
    """Draws per datum for the parts of the KL."""
    seed: int = 0
    """Seed of everything that is drawn."""
    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""

    def run(self) -> int:
        """Write the page, and print its path; missing evaluations are reported, and are no errors.

        The JSON document has ``file``, ``runs`` and ``split``.
        """
        choose("split", self.split, sources.SPLITS)
        at_least(1, num_samples=self.num_samples)
        at_least(0, seed=self.seed)
        if not self.runs:
            raise ValueError("report: no run given, at least 1 is needed")
        for folder in self.runs:
            read_run(folder)
            if not self.quiet and not (folder / results_file(self.split)).is_file():
                more = "" if self.split == "test" else f" --split {self.split}"
                command = f"pyrovae evaluate {quote(str(folder))}{more}"
                print(f"pyrovae: {folder} has no log p(x) yet: {command}", file=sys.stderr)

        from pyrovae.reports import report

        path = report(
            self.runs,
            self.out,
            split=self.split,
            num_samples=self.num_samples,
            root=self.root,
            seed=self.seed,
        )
        if self.json or not self.quiet:
            document = {"file": path, "runs": list(self.runs), "split": self.split}
            print_result(f"report: {path}", document, json=self.json)
        return DONE
