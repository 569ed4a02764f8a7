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
    """Refuse what is not a positive finite number, or has an element that is not."""
    import torch  # which the command line does without

    values = torch.as_tensor(value, dtype=torch.float64)
    bad = values[~((values > 0) & (values < math.inf))]
    if bad.numel():
        raise ValueError(f"{name} must be positive, got {bad.flatten()[0].item():g}")


def check_count(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}: at least 1 is needed")


def diff_settings(there: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two such descriptions, each by its place.

    A thing not there is as good as none. What an object holds on one side only tells nothing: another version
    of its library may have given it that.

    Example:
        >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2, "d": None})
        ['a.b is 1 there and 3 here']
        >>> differences({"is": "Adam", "lr": 1.0}, {"is": "Adam", "lr": 1.0, "fast": True})
        []
    """
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        keys = list(dict.fromkeys([*there, *now]))
        if "is" in there and "is" in now:
            keys = [key for key in keys if key in there and key in now]
        found = [
            diff_settings(there.get(key), now.get(key), f"{name}.{key}" if name else key) for key in keys
        ]
        return [each for some in found for each in some]
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        found = [diff_settings(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(there, now, strict=True))]
        return [each for some in found for each in some]
    if there == now or (not there and not now and None in (there, now)):
        return []
    return [f"{name} is {_short(there)} there and {_short(now)} here"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    """An error's message in one line; of a pydantic error, each field with its complaint."""
    if isinstance(error, ValidationError):
        found = [(".".join(map(str, e["loc"])), _complaint(e)) for e in error.errors()]
        text = "; ".join(f"{where}: {what}" if where else what for where, what in found)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _complaint(found: Any) -> str:
    """One of pydantic's, with what was given where its words have only what is asked for."""
    bare = found["type"] not in ("value_error", "missing") and isinstance(found["input"], (int, float, str))
    given = repr(found["input"]) if bare else ""
    return f"{found['msg'].removeprefix('Value error, ')}{f', got {given}' if 0 < len(given) < 40 else ''}"


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known; else a ValueError that says what was probably meant.

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
