"""A pair of Pyro programs whose bodies are plain functions of named parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.models.base import Part, ProgramModule, as_module

__all__ = ["Pair", "PartsProgram", "beside", "rows_of"]


class Pair(nn.Module):
    """A model and a guide, both Pyro programs that carry their parameters.

    Args:
        model: The program of p(x, z).
        guide: The program of q(z | x).
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.guide = guide

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """A pair is no program itself."""
        raise TypeError("a pair is two programs: pass pair.model and pair.guide")

    @torch.no_grad()
    def sample(self, n: int | None = None, **kwargs: Any) -> Tensor:
        """Draw n data from the model, ancestrally; of a conditional model, one for each condition.

        Returns:
            ``[n, *event]``. Not differentiable.
        """
        if n is not None:
            kwargs["size"] = n
        with poutine.block():
            return self.model(**kwargs)


class PartsProgram(ProgramModule):
    """A Pyro program: a function that is called with the parts (as attributes of the first argument).

    Args:
        body: ``body(parts, *args, **kwargs)``, with the ``pyro.sample`` statements.
        parts: The parts by name, modules, functions or Distributions.
    """

    def __init__(self, body: Callable[..., Any], **parts: Part) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, as_module(part))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.body(self, *args, **kwargs)


def beside(first: Tensor, second: Tensor) -> Tensor:
    """Lay two tensors of vectors side by side, whatever leading dims broadcast.

    Example:
        >>> beside(torch.zeros(5, 3), torch.zeros(2, 1, 4)).shape
        torch.Size([2, 5, 7])
    """
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*shape, -1), second.expand(*shape, -1)], -1)


def rows_of(x: Tensor | None, size: int | None) -> int:
    """How many rows a model is run for: the data's, or as many as are to be generated."""
    if x is not None:
        return len(x)
    if size is None:
        raise ValueError("the model is called with data x, or with size= to generate")
    return size
