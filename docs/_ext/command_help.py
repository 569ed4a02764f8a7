"""``command-help``: what each command of the command line says of itself, asked when the pages are built."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pyrovae import cli

__all__ = ["commands", "help_of", "setup"]

WIDTH = "86"
"""Columns: what fits beside the contents."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": False}


def commands() -> list[str]:
    """Every subcommand, as ``pyrovae --help`` names them."""
    return re.search(r"\{([\w,-]+)\}", help_of())[1].split(",")


def help_of(*command: str) -> str:
    """What ``pyrovae command --help`` prints."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with redirect_stdout(io.StringIO()) as said:
            code = cli.main([*command, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.__setitem__("COLUMNS", columns)
    if code:
        raise RuntimeError(f"pyrovae {' '.join(command)} --help ended with code {code}")
    return re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).rstrip()


class CommandHelp(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        """Ask them all."""
        sections = []
        for command in commands():
            title = f"pyrovae {command}"
            section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
            section += nodes.title(text=title)
            section += nodes.literal_block(text=help_of(command), language="text")
            self.state.document.note_implicit_target(section)
            sections.append(section)
        return sections
