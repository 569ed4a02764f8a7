"""A part of a recipe: a registered name with keywords, read from a call as Python writes it or from JSON."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from pydantic_core import core_schema

from pyrovae.core import registry

__all__ = ["NESTED", "PartSpec"]

NESTED = {
    "activation": "activations",
    "flow": "flows",
    "guide": "guides",
    "target": "weights",
    "terms": "terms",
    "weight": "weights",
}
"""Keywords whose value may be a part, or several, and of which kind. Text elsewhere is text."""


class PartSpec:
    """A name with keywords: ``PartSpec("VampPrior", pseudo_inputs=200)``. Hashable, and equal by value.

    On the command line it is a call as Python has it, ``VampPrior(pseudo_inputs=200)``, which is read and
    never run; in a recipe's JSON ``{"name": "VampPrior", "pseudo_inputs": 200}``, and the bare name where
    there are no keywords. What a name stands for is the registry's affair, :mod:`pyrovae.registry`.

    Args:
        name: As it is registered; case, dashes and underscores are free.
        keywords: Numbers, text, True, False, None, sequences of them, and where :data:`NESTED` has the
            keyword, parts: nested calls.

    Raises:
        ValueError: A name of other characters, or a value of another kind.

    Example:
        >>> PartSpec.parse("ELBO(terms=[kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)])")
        ELBO(terms=[kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)])
    """

    __slots__ = ("keywords", "name")

    name: str
    keywords: tuple[tuple[str, Any], ...]

    def __init__(self, name: str, /, **keywords: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise ValueError(f"{name!r} is no name of a part: letters, digits, dashes and underscores")
        values = tuple((key, _value(key, keywords[key])) for key in sorted(keywords))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "keywords", values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a PartSpec is frozen: make another")

    def __reduce__(self) -> Any:
        return PartSpec.read, (self.content(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartSpec) and (self.name, self.keywords) == (other.name, other.keywords)

    def __hash__(self) -> int:
        return hash((self.name, self.keywords))

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={_written(value)}" for key, value in self.keywords)
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def parse(cls, text: str) -> PartSpec:
        """Read a bare name or a call. Nothing is evaluated: only names, keywords and literals are known.

        Raises:
            ValueError: It is neither.
        """
        found = re.fullmatch(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*(\(.*\))?\s*", text, re.DOTALL)
        if found is None:
            raise ValueError(f"'{text}' is no part: write Name or Name(keyword=value, ...)")
        if found[2] is None:
            return cls(found[1])
        try:
            called = ast.parse(f"f{found[2]}", mode="eval").body
            return _of_call(found[1], called)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"'{text}' is no part ({error}): write Name(keyword=value, ...)") from error

    @classmethod
    def read(cls, value: Any) -> PartSpec:
        """A part from text, from a JSON object, or as it is."""
        if isinstance(value, PartSpec):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], **{str(key): each for key, each in value.items() if key != "name"})
        raise ValueError(f'{value!r} is no part: write a name, or {{"name": ..., keyword: value}}')

    def content(self) -> Any:
        """As JSON has it."""
        if not self.keywords:
            return self.name
        return {"name": self.name, **{key: _content(value) for key, value in self.keywords}}

    def canonical(self, kind: str) -> PartSpec:
        """With every name in it as it is registered.

        Raises:
            ValueError: A name that is not.
        """
        inner = {
            key: _canonical(NESTED[key], value) if key in NESTED else value for key, value in self.keywords
        }
        return PartSpec(registry.canonical(kind, self.name), **inner)

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Every name in it, with its kind."""
        found = [(kind, self.name)]
        for key, value in self.keywords:
            for each in value if isinstance(value, tuple) else (value,):
                found += each.names(NESTED[key]) if isinstance(each, PartSpec) else []
        return found

    @property
    def given(self) -> dict[str, Any]:
        """The keywords."""
        return dict(self.keywords)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(PartSpec.content)
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


def _of_call(name: str, called: ast.expr) -> PartSpec:
    if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Name):
        raise ValueError(f"'{name}(...)' is no call of one name")
    if called.args:
        raise ValueError(f"{name}: '{ast.unparse(called.args[0])}' has no keyword: write keyword=value")
    keywords: dict[str, Any] = {}
    for each in called.keywords:
        if each.arg is None or each.arg in keywords:
            raise ValueError(f"{name}: '{ast.unparse(each)}' is no keyword, or one that is there already")
        keywords[each.arg] = _of_expression(each.value)
    return PartSpec(name, **keywords)


def _of_expression(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _of_call(node.func.id, node)
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


def _content(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_content(each) for each in value]
    return value.content() if isinstance(value, PartSpec) else value


def _canonical(kind: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_canonical(kind, each) for each in value)
    return value.canonical(kind) if isinstance(value, PartSpec) else value
