"""``pyrovae list``: every name that a recipe may have."""

from __future__ import annotations

import tyro

from pyrovae.cli.commands import DONE
from pyrovae.cli.output import print_result
from pyrovae.core import registry
from pyrovae.core.checks import choose

__all__ = ["List"]


class List:
    """List the parts that recipes may name, those of other packages among them."""

    def __init__(
        self,
        kind: tyro.conf.Positional[str | None] = None,
        /,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            kind: One kind alone, such as priors, and then with its keywords.
            json: Print one JSON document, by kind and name.
            quiet: No progress and no notes; of those it has none.
        """
        self.kind = None if kind is None else choose("kind of part", kind, registry.KINDS)
        self.json, self.quiet = json, quiet

    def run(self) -> int:
        """Print each name with the first sentence of its docstring and the reference that it gives.

        The JSON document has, by kind and name, ``about``, ``keywords`` with their defaults and
        ``reference``, an arXiv number, a DOI or an address; null where there is none.
        """
        kinds = registry.KINDS if self.kind is None else (self.kind,)
        found = {kind: {name: _about(kind, name) for name in registry.names(kind)} for kind in kinds}
        blocks = [_block(kind, parts, keywords=self.kind is not None) for kind, parts in found.items()]
        print_result("\n\n".join(blocks), found, json=self.json)
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
