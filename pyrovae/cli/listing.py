"""``pyrovae list``: every name that a recipe may have."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from pyrovae.cli.commands import DONE, Command
from pyrovae.cli.output import print_result
from pyrovae.core import registry
from pyrovae.core.checks import choose

__all__ = ["List"]


@dataclass(kw_only=True)
class List(Command):
    """List the parts that recipes may name, with those of other packages."""

    kind: tyro.conf.Positional[str | None] = None
    """One kind alone, such as priors, with the keywords of its parts."""

    def run(self) -> int:
        """Print each name with the first sentence of its docstring and its reference.

        The JSON document has, by kind and name, ``about``, ``keywords`` with their defaults and
        ``reference``, an arXiv number, a DOI, an address or null.
        """
        kind = None if self.kind is None else choose("kind of part", self.kind, registry.KINDS)
        kinds = registry.KINDS if kind is None else (kind,)
        parts = {kind: {name: _about(kind, name) for name in registry.names(kind)} for kind in kinds}
        blocks = [_block(each, parts[each], keywords=kind is not None) for each in kinds]
        print_result("\n\n".join(blocks), parts, json=self.json)
        return DONE


def _about(kind: str, name: str) -> dict[str, str | None]:
    return {
        "about": registry.describe(kind, name),
        "keywords": registry.keywords(kind, name),
        "reference": registry.reference(kind, name) or None,
    }


def _block(kind: str, parts: dict[str, dict[str, str | None]], *, keywords: bool) -> str:
    width = max(map(len, parts)) + 2
    lines = [kind]
    for name, part in parts.items():
        source = f" [{part['reference']}]" if part["reference"] else ""
        lines.append(f"  {name:<{width}}{part['about']}{source}")
        if keywords and part["keywords"]:
            lines.append(f"  {'':<{width}}{part['keywords']}")
    return "\n".join(lines)
