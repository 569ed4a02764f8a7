"""``pyrovae report``: runs as one page."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

import tyro

from pyrovae.cli.commands import DONE
from pyrovae.cli.output import print_result
from pyrovae.core.checks import choose
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import read_run

__all__ = ["Report"]


class Report:
    """Write runs as one HTML page: training, log p(x) and where it goes, pictures, comparison."""

    def __init__(
        self,
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        out: Path | None = None,
        split: str = "test",
        num_samples: int = 100,
        seed: int = 0,
        root: Path | None = None,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            runs: Folders of runs, one or more.
            out: File to write; report.html in the run's folder, or here for several, if not given.
            split: Which split: train, validation or test.
            num_samples: Draws per datum of the KL's parts.
            seed: Of whatever is drawn.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            json: Print one JSON document: the file and the runs on it.
            quiet: No notes, and no word of what was written.
        """
        if num_samples < 1:
            raise ValueError(f"--num-samples is {num_samples}: at least 1 is needed")
        self.folders, self.out, self.split, self.root = runs, out, split, root
        if seed < 0:
            raise ValueError(f"--seed is {seed}: at least 0 is needed")
        self.num_samples, self.seed = num_samples, seed
        self.json, self.quiet = json, quiet

    def run(self) -> int:
        """Write the page, and say where it is; what was not evaluated is no fault, but said.

        The JSON document has ``file``, ``runs`` and ``split``.
        """
        choose("split", self.split, sources.SPLITS)
        if not self.folders:
            raise ValueError("report: no run given, at least 1 is needed")
        for folder in self.folders:
            read_run(folder)
            if not self.quiet and not (folder / results_file(self.split)).is_file():
                more = "" if self.split == "test" else f" --split {self.split}"
                command = f"pyrovae evaluate {quote(str(folder))}{more}"
                print(f"pyrovae: {folder} has no log p(x) yet: {command}", file=sys.stderr)

        from pyrovae.reports import report

        path = report(
            self.folders,
            self.out,
            split=self.split,
            num_samples=self.num_samples,
            root=self.root,
            seed=self.seed,
        )
        if self.json or not self.quiet:
            document = {"file": path, "runs": list(self.folders), "split": self.split}
            print_result(f"report: {path}", document, json=self.json)
        return DONE
