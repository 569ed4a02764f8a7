"""A part of a recipe: a registered name with keywords, read from a Python call or from JSON."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from keyword import iskeyword
from typing import Any

from pydantic_core import core_schema

from pyrovae.core import registry

__all__ = ["NESTED", "PartSpec"]

NAME = "[A-Za-z][A-Za-z0-9_-]*"

NESTED = {
    "activation": "activations",
    "flow": "flows",
    "guide": "guides",
    "target": "weights",
    "terms": "terms",
    "weight": "weights",
}
"""Keywords whose values are parts, with the kind of part. Text elsewhere is text."""


@dataclass(frozen=True, init=False, repr=False)
class PartSpec:
    """A name with keywords: ``PartSpec("VampPrior", pseudo_inputs=200)``. Hashable, and equal by value.

    On the command line it is a Python call, ``VampPrior(pseudo_inputs=200)``, which is read and never run; in
    a recipe's JSON it is ``{"name": "VampPrior", "pseudo_inputs": 200}``, or the bare name if there are no
    keywords. :mod:`pyrovae.registry` says what a name stands for.

    Args:
        name: A registered name; case, dashes and underscores are free.
        keywords: Numbers, text, True, False, None and sequences of them; nested parts for the keywords in
            :data:`NESTED`.

    Raises:
        ValueError: A name with other characters, or a value of another kind.

    Example:
        >>> PartSpec.parse("ELBO(terms=[kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)])")
        ELBO(terms=[kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)])
    """

    name: str
    keywords: dict[str, Any]

    def __init__(self, name: str, /, **keywords: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise ValueError(f"{name!r} is no name of a part: letters, digits, dashes and underscores")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "keywords", {key: _value(key, keywords[key]) for key in sorted(keywords)})

    def __hash__(self) -> int:
        return hash((self.name, *self.keywords.items()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={_written(value)}" for key, value in self.keywords.items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def parse(cls, text: str) -> PartSpec:
        """Read a bare name or a call. Nothing is evaluated: only names, keywords and literals are known.

        Raises:
            ValueError: It is neither.
        """
        found = re.fullmatch(rf"\s*({NAME})\s*(\(.*\))?\s*", text, re.DOTALL)
        if found is None:
            raise ValueError(f"'{text}' is no part: write Name or Name(keyword=value, ...)")
        if found[2] is None:
            return cls(found[1])
        try:
            part = _of_expression(ast.parse(found[1].replace("-", "_") + found[2], mode="eval").body)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"'{text}' is no part ({error}): write Name(keyword=value, ...)") from error
        if not isinstance(part, PartSpec):
            raise ValueError(f"'{text}' is no part: write Name(keyword=value, ...)")
        return cls(found[1], **part.keywords)

    @classmethod
    def read(cls, value: Any) -> PartSpec:
        """A part from text, from a JSON object, or from a part."""
        if isinstance(value, PartSpec):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], **{str(key): each for key, each in value.items() if key != "name"})
        raise ValueError(f'{value!r} is no part: write a name, or {{"name": ..., keyword: value}}')

    def to_json(self) -> Any:
        """The part as JSON: its name, or an object with its name and keywords."""
        if not self.keywords:
            return self.name
        return {"name": self.name} | {k: _map_parts(v, PartSpec.to_json) for k, v in self.keywords.items()}

    def canonical(self, kind: str) -> PartSpec:
        """The part with every name in it as it is registered.

        Raises:
            ValueError: A name that is not registered.
        """
        inner = {
            key: _map_parts(value, partial(PartSpec.canonical, kind=NESTED.get(key, "")))
            for key, value in self.keywords.items()
        }
        return PartSpec(registry.canonical(kind, self.name), **inner)

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Every name in the part, with its kind."""
        names = [(kind, self.name)]
        for key, value in self.keywords.items():
            for each in value if isinstance(value, tuple) else (value,):
                names += each.names(NESTED[key]) if isinstance(each, PartSpec) else []
        return names

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(PartSpec.to_json)
        return core_schema.no_info_plain_validator_function(PartSpec.read, serialization=written)


def _value(key: str, value: Any) -> Any:
    """A keyword's value, frozen."""
    if key == "name" or not key.isidentifier() or iskeyword(key):
        raise ValueError(f"'{key}' is no keyword of a part")
    if isinstance(value, (list, tuple)):
        return tuple(_value(key, each) for each in value)
    if key in NESTED and isinstance(value, (str, Mapping, PartSpec)):
        return PartSpec.read(value)
    if isinstance(value, PartSpec):
        if value.keywords:
            raise ValueError(f"'{key}' takes no part, and {value} is one: parts go to {', '.join(NESTED)}")
        return value.name  # text, whose quotes the shell has eaten
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"'{key}' is {value}: numbers have to be finite")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"'{key}' is {value!r}: numbers, text, True, False, None and lists of them can be kept")


def _of_expression(node: ast.expr) -> Any:
    """The value of an expression: a part, a list or a literal."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.args:
            raise ValueError(
                f"{node.func.id}: '{ast.unparse(node.args[0])}' has no keyword: write keyword=value"
            )
        keywords: dict[str, Any] = {}
        for each in node.keywords:
            if each.arg is None or each.arg in keywords:
                text = ast.unparse(each)
                raise ValueError(f"{node.func.id}: '{text}' is no keyword, or one that is there already")
            keywords[each.arg] = _of_expression(each.value)
        return PartSpec(node.func.id, **keywords)
    if isinstance(node, ast.Name):
        return PartSpec(node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_of_expression(each) for each in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"'{ast.unparse(node)}' is no number, text, list or part") from error


def _written(value: Any) -> str:
    return f"[{', '.join(map(_written, value))}]" if isinstance(value, tuple) else repr(value)


def _map_parts(value: Any, function: Callable[[PartSpec], Any]) -> Any:
    """A value with a function applied to the parts in it."""
    if isinstance(value, tuple):
        return [_map_parts(each, function) for each in value]
    return function(value) if isinstance(value, PartSpec) else value
