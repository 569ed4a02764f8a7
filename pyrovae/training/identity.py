"""Settings of a run as plain data, to see whether a resumed run is the same one."""

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
"""Levels that are described: a schedule in a term of a loss is the fourth."""


def describe_settings(value: Any, depth: int = 0) -> Any:
    """A loss, a schedule or an optimiser as names of classes and functions, and what they hold.

    Example:
        >>> from pyrovae.objectives import ELBO, kl_weight, warmup
        >>> describe_settings(ELBO(terms=[kl_weight(warmup(10))]))["terms"][0]["weight"]["length"]
        10
    """
    below = partial(describe_settings, depth=depth + 1)
    name = {"is": getattr(value, "__qualname__", type(value).__qualname__)}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {fingerprint([value]):08x}"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if depth == DEPTH or isinstance(value, (type, nn.Module)) or hasattr(value, "_fields"):  # a clock runs
        return name
    if isinstance(value, Mapping):
        return {str(key): below(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [below(each) for each in value]
    if isinstance(value, partial):
        return {"is": "partial", "of": below(value.func), "args": below(value.args)} | below(value.keywords)
    if isinstance(value, FunctionType):  # the arguments of a schedule are in its closure
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return name | {key: below(cell.cell_contents) for key, cell in cells}
    return name | {
        key: below(each) for key, each in getattr(value, "__dict__", {}).items() if not key.startswith("_")
    }


def architecture(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Class and arguments of each module; of a module of another library, what its repr shows."""
    described = {}
    for name, module in modules.items():
        described[name] = {"is": type(module).__name__}
        if type(module).__module__.startswith("pyrovae."):
            described[name] |= attributes(module)
            if vars(module).get("part") is not None:  # a function in the place of a module
                described[name]["of"] = describe_settings(vars(module)["part"])["is"]
        else:
            described[name]["shows"] = module.extra_repr()
    return described


def attributes(thing: Any) -> dict[str, Any]:
    """The plain values that an object holds under public names, such as ``p`` of a dropout."""
    own = ("training", "call_super_init")
    held = vars(thing).items()
    return {k: v for k, v in held if isinstance(v, PLAIN) and not k.startswith("_") and k not in own}


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a training depend on besides its settings."""
    return {
        "pyrovae": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
