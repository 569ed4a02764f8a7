"""Calling what a name stands for: the recipe's keywords, and what is offered for other arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

from pyrovae import registry, sources
from pyrovae.named import NESTED, Named

__all__ = ["Offered", "filled", "make"]

Offered = Mapping[str, Callable[[], Any]]
"""By argument, what makes its value where the recipe is silent."""

ONLY_PARTS = ("activation", "flow", "guide", "terms")
"""Keywords that take parts and no numbers."""


def make(
    kind: str, named: Named, offered: Offered, convert: Callable[[str, Any], Any] = lambda key, value: value
) -> Any:
    """Make a part, and the parts inside it.

    Args:
        kind: Of which its name is.
        named: Its name and keywords.
        offered: For arguments that the keywords do not have.
        convert: Keywords whose values need more than is known here.

    Raises:
        ValueError: Keywords that the part does not take or lacks, or values that it refuses.
        ImportError: It cannot be imported.
    """
    made = registry.find(kind, named.name)
    label = f"{kind.removesuffix('s')} '{named.name}'"
    arguments = filled(label, made, named.given, offered)
    for key, value in named.keywords:
        arguments[key] = _inside(label, key, value, offered, convert)
    try:
        return made(**arguments)
    except TypeError as error:
        raise ValueError(f"{label}: {error}") from error


def filled(
    label: str, made: Callable[..., Any], given: Mapping[str, Any], offered: Offered, some: bool = False
) -> dict[str, Any]:
    """The keywords given, and what is offered for the other arguments there are.

    Args:
        label: Of errors.
        made: What is to be called.
        given: Keywords that have been chosen.
        offered: For the others.
        some: Whether to leave out what is given and not taken, which is refused otherwise.

    Raises:
        ValueError: A keyword that is not taken; an argument that nothing was given or offered for.
    """
    taken = signature(made).parameters
    arguments = {
        name: each
        for name, each in taken.items()
        if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    if some:
        given = {key: value for key, value in given.items() if key in arguments}
    elif not any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
        for key in given:
            sources.choose(f"keyword of {label}", key, arguments)
    found = {key: fill() for key, fill in offered.items() if key in arguments and key not in given}
    found |= given
    for name, each in arguments.items():
        if name not in found and each.default is Parameter.empty:
            raise ValueError(f"{label} needs {name}: give it with the name, as Name({name}=...)")
    return found


def _inside(label: str, key: str, value: Any, offered: Offered, convert: Callable[[str, Any], Any]) -> Any:
    """A keyword's value, with the parts in it made."""
    several = value if isinstance(value, tuple) else (value,)
    if key in ONLY_PARTS and not all(isinstance(each, Named) for each in several):
        raise ValueError(f"{label}: {key} is {value!r}: give a name, see pyrovae list {NESTED[key]}")
    if key == "terms":
        return [make("terms", each, offered) for each in several]
    if key == "activation":
        return _factory(value)
    if key in ("weight", "target") and isinstance(value, Named):
        return make(NESTED[key], value, {})
    return convert(key, value)


def _factory(named: Named) -> Callable[[], Any]:
    """An activation, made anew for each layer."""
    made = registry.find("activations", named.name)
    return partial(made, **filled(f"activation '{named.name}'", made, named.given, {}))
