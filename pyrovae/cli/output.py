"""Output of the commands: text for people, or one JSON document for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["as_json", "print_result"]


def print_result(text: str, document: Mapping[str, Any], *, json: bool) -> None:
    """Print the text or the document on standard output."""
    print(as_json(document) if json else text)


def as_json(content: Any) -> str:
    """One line of strict JSON: nan is null, and infinities are the strings "inf" and "-inf".

    Example:
        >>> as_json({"bias": float("nan"), "khat": [0.5, float("inf")], "file": Path("a")})
        '{"bias": null, "khat": [0.5, "inf"], "file": "a"}'
    """
    return json.dumps(_plain(content), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "_asdict"):  # a named tuple
        return _plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return str(value) if isinstance(value, Path) else value
