"""Checks of arguments, and the errors they raise."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_count", "check_positive", "choose", "diff_settings", "one_line"]


def check_positive(name: str, value: float | Tensor) -> None:
    """Refuse a number, or a tensor with an element, that is not positive and finite."""
    import torch  # the command line starts without it

    values = torch.as_tensor(value, dtype=torch.float64)
    bad = values[~((values > 0) & (values < math.inf))]
    if bad.numel():
        raise ValueError(f"{name} must be positive, got {bad.flatten()[0].item():g}")


def check_count(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}: at least 1 is needed")


def diff_settings(there: Any, now: Any, name: str = "") -> list[str]:
    """Messages about the differences between two nested settings.

    A missing value equals None or an empty one. Of objects, which have a key "is", only keys on both sides
    are compared, since another version of a library may add some.

    Example:
        >>> diff_settings({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2, "d": None})
        ['a.b is 1 there and 3 here']
        >>> diff_settings({"is": "Adam", "lr": 1.0}, {"is": "Adam", "lr": 1.0, "fast": True})
        []
    """
    pairs: list[tuple[str, Any, Any]] | None = None
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        keys = list(dict.fromkeys([*there, *now]))
        if "is" in there and "is" in now:
            keys = [key for key in keys if key in there and key in now]
        pairs = [(f"{name}.{key}" if name else key, there.get(key), now.get(key)) for key in keys]
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(there, now, strict=True))]
    if pairs is not None:
        return [message for place, a, b in pairs for message in diff_settings(a, b, place)]
    if there == now or (not there and not now and None in (there, now)):
        return []
    return [f"{name} is {_short(there)} there and {_short(now)} here"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    """An error's message in one line; for a pydantic error, a message for each field."""
    if isinstance(error, ValidationError):
        messages = [(".".join(map(str, e["loc"])), _of_field(e)) for e in error.errors()]
        text = "; ".join(f"{field}: {message}" if field else message for field, message in messages)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _of_field(error: Any) -> str:
    """A message of pydantic's, with the value that was given if it is short."""
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing") or not isinstance(error["input"], (int, float, str)):
        return message
    value = repr(error["input"])
    return f"{message}, got {value}" if len(value) < 40 else message


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known; else a ValueError that suggests the nearest one.

    Example:
        >>> choose("data set", "mnist-mni", ["mnist-mini", "mnist"])
        Traceback (most recent call last):
        ValueError: unknown data set 'mnist-mni': did you mean 'mnist-mini'?
    """
    known = list(known)
    if name in known:
        return name
    lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean '{lower[close[0]]}'?" if close else f"choose one of {', '.join(known)}"
    raise ValueError(f"unknown {kind} '{name}': {hint}")
