"""Parts of a recipe on the command line, and the recipe of --config, which the options change."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from pyrovae.runs.named import PartSpec
from pyrovae.runs.recipe import Recipe, Run, read_config

__all__ = ["configured", "registry_of_parts"]

registry_of_parts = tyro.constructors.ConstructorRegistry()
"""Rules by which tyro reads a part as a name or a call."""


def configured(arguments: Sequence[str], default: Recipe) -> Recipe:
    """The recipe of ``--config`` among the arguments of train, or the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    config = parser.parse_known_args(list(arguments))[0].config
    if config in (None, "None") or "train" not in arguments[:1]:
        return default
    read = read_config(Path(config))
    return read.recipe if isinstance(read, Run) else read


@registry_of_parts.primitive_rule
def _part(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    if info.type is not PartSpec:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME(...)",
        instance_from_str=lambda words: PartSpec.parse(words[0]),
        is_instance=lambda value: isinstance(value, PartSpec),
        str_from_instance=lambda value: [str(value)],
    )
