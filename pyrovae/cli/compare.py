"""``pyrovae compare``: log p(x) of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import tyro

from pyrovae.cli.commands import DONE, Command
from pyrovae.cli.output import print_result
from pyrovae.core.checks import choose
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file

__all__ = ["Compare"]


@dataclass(kw_only=True)
class Compare(Command):
    """Say whether models really differ in log p(x), by paired differences with their errors."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two or more runs that were evaluated alike."""
    split: str = "test"
    """Split of the data: train, validation or test."""
    reference: Path | None = None
    """The run to compare the others with; the first if not given."""

    def run(self) -> int:
        """Compare the kept results; the JSON document is that of :meth:`pyrovae.Comparison.summary`."""
        choose("split", self.split, sources.SPLITS)
        if len(self.runs) < 2:
            count = f"{len(self.runs) or 'no'} run"
            raise ValueError(f"compare: {count} given, at least 2 are needed: pyrovae compare RUN RUN")
        if twice := [folder for folder in self.runs if self.runs.count(folder) > 1]:
            raise ValueError(f"compare: {twice[0]} is given twice: name each run once")
        paths = {str(folder): folder / results_file(self.split) for folder in self.runs}
        for folder, path in paths.items():
            if not path.is_file():
                command = f"pyrovae evaluate {quote(folder)} --split {self.split}"
                raise ValueError(f"{path} is missing: evaluate the run first, {command}")

        from pyrovae.evaluation.compare import compare
        from pyrovae.evaluation.results import Evaluation

        results = {folder: Evaluation.load(path) for folder, path in paths.items()}
        result = compare(results, reference=None if self.reference is None else str(self.reference))
        print_result(str(result), result.summary(), json=self.json)
        return DONE
