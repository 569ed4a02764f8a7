"""``public``: a table of a module's public names, and under it what the docstring of each says.

The names are those of ``__all__``, so that a part that is added is in the reference without a line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, switch_source_input

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("public", Public)
    return {"parallel_read_safe": True}


class Public(SphinxDirective):
    """``.. public:: pyrovae.priors``, or with names after the module: these of its names alone."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The table, then each name."""
        module, *names = " ".join(self.arguments).split()
        text = rst(module, names)
        lines = StringList(text.splitlines(), source=f"public names of {module}")
        with switch_source_input(self.state, lines):
            section = nodes.section()
            self.state.nested_parse(lines, 0, section)
        return section.children


def rst(module: str, names: list[str]) -> str:
    """The directives of Sphinx's own that it stands for; of a whole module its docstring comes first."""
    home = import_module(module)
    shown = names or home.__all__
    head = [f".. automodule:: {module}" if not names else f".. currentmodule:: {module}", ""]
    table = [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in shown), ""]
    blocks = [line for name in shown for line in (*described(name, getattr(home, name)), "")]
    return "\n".join([*head, *table, *blocks])


def described(name: str, value: Any) -> list[str]:
    """Autodoc's directive for one name."""
    if isinstance(value, type):
        # torch's own, of every distribution: it says nothing here
        return [f".. autoclass:: {name}", "   :members:", "   :exclude-members: expand"]
    return [f".. autofunction:: {name}" if callable(value) else f".. autodata:: {name}"]
