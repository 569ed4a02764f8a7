"""What is wrong with the arguments, in one line that says where and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from pyrovae.cli.commands import COMMANDS, find
from pyrovae.core.checks import choose
from pyrovae.runs.recipe import Recipe

__all__ = ["check_command", "complaint"]

RULES = (
    (r"^Missing from pyrovae \S+: (\S+) (.*?)\.? \(required\)", "{0} is missing ({1}): {see}"),
    (r"^Unrecognized options: (.*?)(?:;|$)", "one argument too many, {0}: {see}"),
    (r"^Missing value for argument '(\S+)'", "{0} has no value: {see}"),
    (r"^Error parsing (--\S+): invalid literal for int.*?: (.*?);", "{0} is {1}: a whole number is needed"),
    (r"^Error parsing (--\S+): could not convert string to float: (.*?);", "{0} is {1}: a number is needed"),
    (r"^Error parsing (--\S+): no type .*?INT.*?from \[(.*?)\]", "{0} is {1}: a whole number is needed"),
    (r"^Error parsing (--\S+): no type .*?FLOAT.*?from \[(.*?)\]", "{0} is {1}: a number is needed"),
    (r"^Error parsing (--\S+): .*?valid parse for arguments: \[(.*?)\]", "{0} cannot be {1}: {see}"),
    (r"^Error parsing (--\S+): (.*?); Argument helptext", "{0}: {1}"),
    (r"^Error parsing \w+: (.*)", "{0}"),
    (r"^invalid choice '(.*?)' for argument '(\S+?)'.*?\((.*)\)", "{1} is '{0}': choose one of {2}"),
)
"""What tyro says, and what is said in its place."""


def check_command(arguments: Sequence[str]) -> None:
    """Refuse no command, and one that is not known.

    Raises:
        ValueError: It says what was probably meant.
    """
    if not arguments:
        raise ValueError(f"no command: choose one of {', '.join(COMMANDS)} (`pyrovae --help` explains them)")
    if not arguments[0].startswith("-"):
        choose("command", arguments[0], COMMANDS)


def complaint(box: str, arguments: Sequence[str]) -> str:
    """One line for tyro's framed error.

    Args:
        box: As tyro prints it.
        arguments: What was given.
    """
    name = arguments[0]
    said = _without_frame(box)
    if name not in COMMANDS:
        return f"unknown option '{name}': pyrovae itself takes --help and --version, and commands the others"
    see = f"see `pyrovae {name} --help`"
    options = _options(find(name))
    given = [_option(word) for word in arguments[1:] if word.startswith("--")]
    if unknown := next((option for option in given if option not in options), None):
        try:
            choose("option", unknown, options)
        except ValueError as error:
            what, mend = str(error).split(": ", 1)
            return f"{name}: {what}: {mend if 'did you mean' in mend else see}"
    for pattern, form in RULES:
        if found := re.search(pattern, said):
            words = [_choices(each) for each in found.groups()]
            return f"{name}: {form.format(*words, see=see)}"
    return f"{name}: {said.removesuffix('.')}: {see}"


def _choices(listed: str) -> str:
    """The choices of an option; tyro has those that may be None as well in an order of chance."""
    words = listed.split(", ")
    return ", ".join(sorted({*words} - {"'None'"})) if "'None'" in words else listed


def _options(command: Any) -> list[str]:
    """All options of a command, as they are written."""
    taken = [
        each for each in signature(command).parameters.values() if each.kind != Parameter.POSITIONAL_ONLY
    ]
    names = [each.name for each in taken if each.name != "recipe"]
    names += Recipe.model_fields if len(names) < len(taken) else []
    return [f"--{name.replace('_', '-')}" for name in names]


def _option(word: str) -> str:
    """An option as it is written in full, without a value or a "no" to it."""
    return re.sub("^--no-", "--", word.split("=")[0].replace("_", "-"))


def _without_frame(box: str) -> str:
    """The sentences in the frame in one line, less its title and the pointer to --help at its end.

    The frame is of lines where the terminal has them, and of dashes alone where it has only ASCII.
    """
    sections: list[list[str]] = [[]]
    for line in (line.strip("│ ") for line in box.splitlines() if line[:1] not in ("╭", "╰")):
        if line and not line.strip("-─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    if "╭" not in box and len(sections) > 1:
        del sections[0]
    told = [" ".join(section) for section in sections]
    return "; ".join([each for each in told if not each.startswith("For full helptext")] or told)
