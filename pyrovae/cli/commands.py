"""The commands, a dataclass each: the fields are the arguments, and ``run()`` returns the exit code."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import tyro

__all__ = [
    "BAD_INPUT",
    "COMMANDS",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "TERMINATED",
    "Command",
    "RunFolder",
    "at_least",
    "find",
]

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes; the last two are of Ctrl-C and SIGTERM."""

COMMANDS = {
    "train": "pyrovae.cli.train:Train",
    "evaluate": "pyrovae.cli.evaluate:Evaluate",
    "compare": "pyrovae.cli.compare:Compare",
    "sample": "pyrovae.cli.sample:Sample",
    "report": "pyrovae.cli.report:Report",
    "explore": "pyrovae.cli.explore:Explore",
    "sweep": "pyrovae.cli.sweep:Sweep",
    "list": "pyrovae.cli.listing:List",
    "doctor": "pyrovae.cli.doctor:Doctor",
}
"""Each name with its class. What is slow to import is imported in ``run()``: errors answer at once."""


def find(name: str) -> Any:
    """The class of a command."""
    return resolve_name(COMMANDS[name])


RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
"""The positional argument RUN."""


@dataclass(kw_only=True)
class Command:
    """The options that all commands share."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document, and nothing else, on standard output."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print no progress and no notes."""


def at_least(least: int, **options: int | None) -> None:
    """Refuse the first option whose value is smaller."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: at least {least} is needed")
