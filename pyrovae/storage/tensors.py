"""Nested state as JSON and named tensors, and tensors as safetensors bytes. Nothing is pickled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pyrovae.storage.files import DamagedError, what_is

__all__ = ["digest", "flatten", "from_bytes", "hash_of", "to_bytes", "tree_map", "unflatten"]

PLAIN = (bool, int, float, str, type(None))
MARKS = ("tensor", "tuple", "items", "counts")
"""Keys of JSON objects that stand for what JSON lacks; each is the only key of its object."""


def flatten(tree: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of plain values, lists, tuples, dicts and tensors into JSON and tensors by name.

    Raises:
        TypeError: The tree holds another type; the message says where.

    Example:
        >>> import torch
        >>> flatten({"lr": 0.1, "state": {0: (torch.ones(2), None)}})
        ({'lr': 0.1, 'state': {'items': [[0, {'tuple': [{'tensor': 'state.0.0'}, None]}]]}},
         {'state.0.0': tensor([1., 1.])})
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            while name in tensors:  # {"a.b": x, "a": {"b": y}}
                name += "'"
            tensors[name] = value.detach()
            return {"tensor": name}
        if isinstance(value, PLAIN):
            return value
        below = f"{name}." if name else ""
        if isinstance(value, Counter):
            return {"counts": [[walk(k, name), v] for k, v in value.items()]}
        if isinstance(value, Mapping):
            named = {key: walk(each, f"{below}{key}") for key, each in value.items()}
            if all(isinstance(key, str) for key in named) and not (len(named) == 1 and {*named} & {*MARKS}):
                return named
            return {"items": [[walk(key, name), each] for key, each in named.items()]}
        if isinstance(value, (list, tuple)):
            listed = [walk(each, f"{below}{i}") for i, each in enumerate(value)]
            return listed if isinstance(value, list) else {"tuple": listed}
        raise TypeError(
            f"'{name}' is a {type(value).__name__}, which cannot be kept: let state be made of numbers, "
            f"strings, tensors, lists and dicts"
        )

    return walk(tree, name), tensors


def unflatten(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`flatten` split."""
    if isinstance(content, list):
        return [unflatten(each, tensors) for each in content]
    if not isinstance(content, dict):
        return content
    if len(content) == 1:
        ((mark, value),) = content.items()
        if mark == "tensor":
            return tensors[value]
        if mark == "tuple":
            return tuple(unflatten(each, tensors) for each in value)
        if mark == "items":
            return {unflatten(key, tensors): unflatten(each, tensors) for key, each in value}
        if mark == "counts":
            return Counter({unflatten(key, tensors): count for key, count in value})
    return {key: unflatten(value, tensors) for key, value in content.items()}


def tree_map(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor of a tree."""
    content, tensors = flatten(tree)
    return unflatten(content, {name: function(tensor) for name, tensor in tensors.items()})


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors, with a hash of names, types, shapes and values in the header."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(copies, {"sha256": digest(copies)})  # safetensors writes several entries in any order


def from_bytes(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of :func:`to_bytes`, verified; a DamagedError names the file, ``path``, and the fault."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        seal = header.get("__metadata__", {}).get("sha256")
    except (SafetensorError, ValueError, RuntimeError, KeyError, AttributeError, OverflowError) as error:
        reason = what_is(path)
        if content.startswith((b"PK\x03\x04", b"\x80")):
            reason = (
                "is a pickle of torch.save, which can run code and is never read: save it by pyrovae.save"
            )
        reason = f"the file {reason}" if reason else " ".join(str(error).split())
        raise DamagedError(f"{path}: not the weights of this model: {reason}") from error
    if seal is None:
        fault = "without the hash that pyrovae.save writes, so that damage could not be told"
        mend = "if you trust the file, safetensors.torch.load_model(vae, path) reads it"
        raise DamagedError(f"{path}: {fault}: {mend}")
    if digest(tensors) != seal:
        raise DamagedError(f"{path}: damaged, its SHA-256 is another than when it was written: take a copy")
    return tensors


def hash_of(modules: list[nn.Module]) -> str:
    """A hash of the parameters and buffers of modules, by name.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> before = hash_of([net])
        >>> _ = torch.nn.init.ones_(net.weight)
        >>> before == hash_of([net])
        False
    """
    return digest(*(module.state_dict() for module in modules))[:16]


def digest(*states: Mapping[str, Any]) -> str:
    """SHA-256 of tensors: their names, types, shapes and values."""
    result = sha256()
    for state in states:
        for name, value in sorted(state.items()):
            if isinstance(value, Tensor):
                result.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                result.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()
