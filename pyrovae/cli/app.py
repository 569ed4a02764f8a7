"""The command line: parse, call the library, print. Torch is imported after the arguments are checked."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from typing import Any

import tyro

from pyrovae.cli.commands import BAD_INPUT, COMMANDS, DONE, FAILED, INTERRUPTED, find
from pyrovae.cli.parsing import configured, registry_of_parts
from pyrovae.cli.train import DEFAULT
from pyrovae.core import __version__
from pyrovae.core.checks import choose, one_line
from pyrovae.core.launch import is_main_process

__all__ = ["main"]

SHELLS = ("bash", "zsh", "fish", "tcsh")

CONFIG = (tyro.conf.PositionalMetavarFromFieldName,)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of a disk, not of the input."""

EPILOG = """\
exit codes: 0 done; 1 failed (doctor: training cannot run here); 2 bad input; 130 after Ctrl-C and 143 after
SIGTERM, when train has kept what was trained. An error is one line on standard error.

--json: one JSON document, and nothing else, on standard output; --quiet: no progress and no notes.

completion: pyrovae --tyro-write-completion bash ~/.local/share/bash-completion/completions/pyrovae
            pyrovae --tyro-write-completion zsh ~/.zfunc/_pyrovae      (a folder in $fpath; also: fish)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: exit code 0, 1 (failed), 2 (bad input), 130 (Ctrl-C) or 143 (SIGTERM)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _prepare_output()
    caught: BaseException
    try:
        command = _parse(arguments)
        return DONE if command is None else command.run()
    except BrokenPipeError:  # of `pyrovae list | head`; what is not flushed yet goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (FloatingPointError, ConnectionError) as error:
        code, message, caught = FAILED, one_line(error), error
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in FULL
        code, message, caught = FAILED if full else BAD_INPUT, one_line(error), error
    except ImportError as error:
        code, message = FAILED, f"{one_line(error)} (`pyrovae doctor` looks at what is installed)"
        caught = error
    except KeyboardInterrupt as error:
        code, message, caught = INTERRUPTED, "interrupted", error
    if is_main_process(caught):
        print(f"pyrovae: {message}", file=sys.stderr)
    return code


def _prepare_output() -> None:
    """Print to nowhere where standard output is closed, and "+-" where its encoding has no "±"."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("plain", _plain)
        sys.stdout.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join({"±": "+-", "•": "*"}.get(each, "?") for each in missing), error.end


def _parse(arguments: Sequence[str]) -> Any:
    """The command with its arguments; None if its answer is printed already, as after --help.

    Raises:
        ValueError: The arguments are wrong; the message is one line.
    """
    if not arguments:
        raise ValueError(f"no command: choose one of {', '.join(COMMANDS)} (`pyrovae --help` explains them)")
    name = arguments[0]
    if name == "--version":
        print(f"pyrovae {__version__}")
        return None
    if name.startswith("--tyro-") and len(arguments) > 1:
        choose("shell", arguments[1], SHELLS)
    elif name not in ("-h", "--help"):
        choose("command", name, COMMANDS)
    error = io.StringIO()
    try:
        with redirect_stderr(error), registry_of_parts:
            if name in COMMANDS:
                command = find(name)
                if name == "train":
                    command = partial(command, recipe=configured(arguments, DEFAULT))
                return tyro.cli(command, prog=f"pyrovae {name}", args=arguments[1:], config=CONFIG)
            tyro.extras.subcommand_cli_from_dict(
                {each: find(each) for each in COMMANDS},
                prog="pyrovae",
                description="Deep latent-variable models in Pyro, and a log p(x) you can defend.",
                args=arguments,
                config=CONFIG,
            )
    except SystemExit as stop:
        if stop.code:
            raise ValueError(f"{name}: {_unframed(error.getvalue())}: see `pyrovae {name} --help`") from stop
    if name in ("-h", "--help"):
        print(f"\n{EPILOG}")
    return None


def _unframed(error: str) -> str:
    """The error of tyro in one line, without its title, its frame and what it repeats from the help."""
    sections = [""]
    for line in (line.strip("│ ") for line in error.splitlines()[1:]):
        if any(map(str.isalnum, line)):
            sections[-1] = f"{sections[-1]} {line}".strip()
        else:
            sections.append("")
    repeated = ("Argument helptext", "For full helptext", "Got errors")
    return "; ".join(each.rstrip(".") for each in sections if each and not each.startswith(repeated))


if __name__ == "__main__":
    sys.exit(main())
