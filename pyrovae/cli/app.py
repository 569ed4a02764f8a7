"""The command line: parse, call the library, print. Torch is imported once the arguments are good."""

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
from pyrovae.cli.complaints import check_command, complaint
from pyrovae.cli.parsing import configured, registry_of_parts
from pyrovae.cli.train import DEFAULT
from pyrovae.core import __version__
from pyrovae.core.checks import choose, one_line
from pyrovae.core.launch import is_main_process

__all__ = ["main"]

SHELLS = ("bash", "zsh", "fish", "tcsh")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What is wrong with a disk, and not with the input."""

EPILOG = """\
exit codes: 0 done; 1 failed (of doctor: training cannot run here); 2 bad input; 130 Ctrl-C and 143 SIGTERM,
after which train has kept what was trained. An error is one line on standard error.

--json: one JSON document on standard output, and nothing else there; --quiet: no progress and no notes.

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
    """Have somewhere to print to where standard output is closed, and print "+-" where it has no "±"."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("plain", _plain)
        sys.stdout.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join({"±": "+-", "•": "*"}.get(each, "?") for each in lacking), error.end


def _parse(arguments: Sequence[str]) -> Any:
    """The command with its arguments; None where all that was asked for is said already, as of --help.

    Raises:
        ValueError: Something is wrong with them.
    """
    check_command(arguments)
    if arguments[0] == "--version":
        print(f"pyrovae {__version__}")
        return None
    if arguments[0].startswith("--tyro-") and len(arguments) > 1:
        choose("shell", arguments[1], SHELLS)
    commands, said = {name: find(name) for name in COMMANDS}, io.StringIO()
    try:
        with redirect_stderr(said), registry_of_parts:
            commands["train"] = partial(commands["train"], recipe=configured(arguments, DEFAULT))
            return tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="pyrovae",
                description="Deep latent-variable models in Pyro, and a log p(x) you can defend.",
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code:
            raise ValueError(complaint(said.getvalue(), arguments)) from stop
    if arguments[0] in ("-h", "--help"):
        print(f"\n{EPILOG}")
    return None


if __name__ == "__main__":
    sys.exit(main())
