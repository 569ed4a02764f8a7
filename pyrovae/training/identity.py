"""What a run is of, as plain data: to see whether it is the same one that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.core import __version__
from pyrovae.data.rows import fingerprint

__all__ = ["architecture", "attributes", "describe_settings", "environment"]

PLAIN = (bool, int, float, str, type(None))
DEPTH = 6
"""Of what is looked into: a loss of terms of schedules is at 4."""


def describe_settings(value: Any, depth: int = 0) -> Any:
    """A loss, a schedule or an optimiser as plain data: names of classes and functions, and what they hold.

    Example:
        >>> from pyrovae.objectives import ELBO, kl_weight, warmup
        >>> described(ELBO(terms=[kl_weight(warmup(10))]))["terms"][0]["weight"]["length"]
        10
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {fingerprint([value]):08x}"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    name = {"is": getattr(value, "__qualname__", type(value).__qualname__)}
    if depth == DEPTH or isinstance(value, (type, nn.Module)):
        return name
    below = partial(describe_settings, depth=depth + 1)
    if hasattr(value, "_fields"):  # a clock, which runs
        return name
    if isinstance(value, Mapping):
        return {str(key): below(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [below(each) for each in value]
    if isinstance(value, partial):
        return {"is": "partial", "of": below(value.func), "args": below(value.args)} | below(value.keywords)
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return name | {key: below(cell.cell_contents) for key, cell in cells}
    held = {**getattr(value, "__dict__", {})}
    return name | {key: below(each) for key, each in held.items() if not key.startswith("_")}


def architecture(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """What modules are, by name: class, and what their repr shows, or of this package's what they hold."""
    found = {}
    for name, module in modules.items():
        found[name] = {"is": type(module).__name__}
        if type(module).__module__.startswith("pyrovae."):
            part = vars(module).get("part")  # a function in the place of a module
            found[name] |= attributes(module) | (
                {} if part is None else {"of": describe_settings(part)["is"]}
            )
        else:
            found[name]["shows"] = module.extra_repr()
    return found


def attributes(thing: Any) -> dict[str, Any]:
    """The plain values that an object holds under public names.

    Example:
        >>> attributes(torch.nn.Dropout(0.3))
        {'p': 0.3, 'inplace': False}
    """
    held = vars(thing).items()
    return {
        key: value
        for key, value in held
        if isinstance(value, PLAIN) and not key.startswith("_") and key not in ("training", "call_super_init")
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a training depend on besides its settings."""
    return {
        "pyrovae": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
