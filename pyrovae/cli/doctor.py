"""``pyrovae doctor``: whether this machine can do what is asked of it."""

from __future__ import annotations

from pathlib import Path

import tyro

from pyrovae.cli.commands import DONE, FAILED
from pyrovae.cli.output import as_json

__all__ = ["Doctor"]


class Doctor:
    """Look whether all that training and evaluation need is there, and say what to do where it is not."""

    def __init__(
        self,
        root: Path | None = None,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            root: Folder of the data sets, where not $PYROVAE_DATA.
            json: Print one JSON document: whether training runs, and each finding.
            quiet: Say nothing of what is in order.
        """
        self.root, self.json, self.quiet = root, json, quiet

    def run(self) -> int:
        """Print a line for each check, as it is made; 1 where training cannot run.

        The JSON document has ``works``, and ``findings``: of each ``what`` was looked at, its ``mark`` ("ok",
        "note", "fault") and what is ``said``, the mend with it.
        """
        from pyrovae.cli import examine as doctor

        findings = []
        for found in doctor.examine(self.root):
            findings.append(found)
            if not self.json and not (self.quiet and found.mark == "ok"):
                print(found, flush=True)
        works = all(found.mark != "fault" for found in findings)
        if self.json:
            print(as_json({"works": works, "findings": findings}))
        return DONE if works else FAILED
