"""The commands, a class each: the constructor takes the arguments, and ``run()`` returns the exit code."""

from pkgutil import resolve_name
from typing import Any

__all__ = ["BAD_INPUT", "COMMANDS", "DONE", "FAILED", "INTERRUPTED", "TERMINATED", "find"]

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes; the last two are of Ctrl-C and SIGTERM."""

COMMANDS = {
    "train": "pyrovae.commands.train:Train",
    "evaluate": "pyrovae.commands.evaluate:Evaluate",
    "compare": "pyrovae.commands.compare:Compare",
    "sample": "pyrovae.commands.sample:Sample",
    "report": "pyrovae.commands.report:Report",
    "explore": "pyrovae.commands.explore:Explore",
    "sweep": "pyrovae.commands.sweep:Sweep",
    "list": "pyrovae.commands.listing:List",
    "doctor": "pyrovae.commands.doctor:Doctor",
}
"""Each name with its class. What is slow to import is imported in ``run()``: errors answer at once."""


def find(name: str) -> Any:
    """The class of a command."""
    return resolve_name(COMMANDS[name])
