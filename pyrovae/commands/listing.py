"""``pyrovae list``: every name that a recipe may have."""

from __future__ import annotations

import tyro

from pyrovae import registry, sources

__all__ = ["List"]


class List:
    """List the parts that recipes may name, those of other packages among them."""

    def __init__(self, kind: tyro.conf.Positional[str | None] = None, /) -> None:
        """Take the arguments.

        Args:
            kind: One kind alone, such as priors, and then with its keywords.
        """
        self.kind = None if kind is None else sources.choose("kind of part", kind, registry.KINDS)

    def run(self) -> int:
        """Print each name with the first sentence of its docstring."""
        blocks = []
        for kind in registry.KINDS if self.kind is None else (self.kind,):
            width = max(map(len, registry.names(kind))) + 2
            lines = [kind]
            for name in registry.names(kind):
                lines.append(f"  {name:<{width}}{registry.describe(kind, name)}")
                if self.kind is not None and (keywords := registry.keywords(kind, name)):
                    lines.append(f"  {'':<{width}}{keywords}")
            blocks.append("\n".join(lines))
        print("\n\n".join(blocks))
        return 0
