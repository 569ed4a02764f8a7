"""``pyrovae compare``: runs held against one another."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import tyro

from pyrovae.cli.commands import DONE
from pyrovae.cli.output import print_result
from pyrovae.core.checks import choose
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file

__all__ = ["Compare"]


class Compare:
    """Say whether models really differ in log p(x), by paired differences with their errors."""

    def __init__(
        self,
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        split: str = "test",
        reference: Path | None = None,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            runs: Folders of runs that were evaluated alike, two or more.
            split: Which split: train, validation or test.
            reference: The run to hold the others against; the first if not given.
            json: Print one JSON document, Comparison.summary().
            quiet: No progress and no notes; of those it has none.
        """
        self.folders, self.split, self.reference = runs, split, reference
        self.json, self.quiet = json, quiet

    def run(self) -> int:
        """Read what evaluate kept, and print the table; the JSON is :meth:`pyrovae.Comparison.summary`."""
        choose("split", self.split, sources.SPLITS)
        if len(self.folders) < 2:
            count = f"{len(self.folders) or 'no'} run"
            raise ValueError(f"compare: {count} given, at least 2 are needed: pyrovae compare RUN RUN")
        if twice := [folder for folder in self.folders if self.folders.count(folder) > 1]:
            raise ValueError(f"compare: {twice[0]} is given twice: name each run once")
        paths = {str(folder): folder / results_file(self.split) for folder in self.folders}
        for folder, path in paths.items():
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: evaluate the run first, "
                    f"pyrovae evaluate {quote(str(folder))} --split {self.split}"
                )

        from pyrovae.evaluation.compare import compare
        from pyrovae.evaluation.results import Evaluation

        results = {folder: Evaluation.load(path) for folder, path in paths.items()}
        found = compare(results, reference=None if self.reference is None else str(self.reference))
        print_result(str(found), found.summary(), json=self.json)
        return DONE
