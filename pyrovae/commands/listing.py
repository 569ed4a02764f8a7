"""``pyrovae list``: every name that a recipe may have."""

from __future__ import annotations

from pyrovae import registry, sources

__all__ = ["List"]


class List:
    """List the parts that recipes may name, those of other packages among them."""

    def __init__(self, kind: str | None = None) -> None:
        """Take the arguments.

        Args:
            kind: One kind alone, such as priors.
        """
        self.kinds = (
            registry.KINDS if kind is None else (sources.choose("kind of part", kind, registry.KINDS),)
        )

    def run(self) -> int:
        """Print each name with the first line of its docstring."""
        blocks = []
        for kind in self.kinds:
            width = max(map(len, registry.names(kind))) + 2
            lines = [f"  {name:<{width}}{registry.describe(kind, name)}" for name in registry.names(kind)]
            blocks.append("\n".join([kind, *lines]))
        print("\n\n".join(blocks))
        return 0
