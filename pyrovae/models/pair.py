"""A pair of Pyro programs that are plain functions of named parts, and the statements they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.core.wrap import as_pyro
from pyrovae.models.base import Part, ProgramModule, as_module
from pyrovae.models.likelihoods import check_support

__all__ = ["Pair", "PartsProgram", "beside", "data_plate", "draw", "observe"]


class Pair(nn.Module):
    """A model and a guide, both Pyro programs that are modules with their parameters.

    Args:
        model: The Pyro program of p(x, z).
        guide: The Pyro program of q(z | x).
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.guide = guide

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Refuse the call: a pair is not a program itself."""
        raise TypeError("a pair is two programs: pass pair.model and pair.guide")

    @torch.no_grad()
    def sample(self, n: int | None = None, **kwargs: Any) -> Tensor:
        """Draw n data from the model, ``[n, *event]``; from a conditional model one for each condition.

        Draws are ancestral and not differentiable.
        """
        if n is not None:
            kwargs["size"] = n
        with poutine.block():
            return self.model(**kwargs)


class PartsProgram(ProgramModule):
    """The Pyro program ``body(parts, *args, **kwargs)``, whose parts are attributes of ``parts``."""

    def __init__(self, body: Callable[..., Any], **parts: Part) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, as_module(part))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.body(self, *args, **kwargs)


def data_plate(x: Tensor | None, size: int | None) -> Any:
    """The plate "data" for the rows of x, or for ``size`` rows to generate."""
    if x is None and size is None:
        raise ValueError("the model is called with data x, or with size= to generate")
    return pyro.plate("data", size if x is None else len(x), dim=-1)


def draw(plate: Any, name: str, distribution: Distribution, **keywords: Any) -> Tensor:
    """Sample a site within the plate."""
    q = as_pyro(distribution)
    with plate:
        return pyro.sample(name, q, **keywords)


def observe(plate: Any, likelihood: Distribution, x: Tensor | None) -> Tensor:
    """Sample site "x" within the plate, or observe data, which must lie in the likelihood's support."""
    if x is not None:
        check_support(as_pyro(likelihood), x)
    return draw(plate, "x", likelihood, obs=x)


def beside(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate two tensors of vectors along the last dim, with the leading dims broadcast."""
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*shape, -1), second.expand(*shape, -1)], -1)
