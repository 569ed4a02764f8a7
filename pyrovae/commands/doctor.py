"""``pyrovae doctor``: whether this machine can do what is asked of it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Doctor"]


class Doctor:
    """Look whether all that training and evaluation need is there, and say what to do where it is not."""

    def __init__(self, root: Path | None = None) -> None:
        """Take the arguments.

        Args:
            root: Folder of the data sets, where not $PYROVAE_DATA.
        """
        self.root = root

    def run(self) -> int:
        """Print a line for each check; 1 where training cannot run."""
        from pyrovae import doctor

        failed = False
        for found in doctor.examine(self.root):
            print(found, flush=True)
            failed = failed or found.mark == "fault"
        return int(failed)
