"""A Pyro loss as a compiled graph of tensor operations, with the same parameters and the same call."""

from __future__ import annotations

from typing import Any, overload

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyrovae.compiler.graphs import Backend, Graphs
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision

__all__ = ["Compiled", "CompiledLoss", "Differentiable", "compile"]


@overload
def compile(loss: ELBO, *, precision: Precision = ..., backend: Backend = ...) -> Compiled: ...


@overload
def compile(
    loss: ELBOModule, example_args: tuple[Any, ...], *, precision: Precision = ..., backend: Backend = ...
) -> CompiledLoss: ...


def compile(
    loss: ELBOModule | ELBO,
    example_args: tuple[Any, ...] | None = None,
    *,
    precision: Precision = "float32",
    backend: Backend = "inductor",
) -> CompiledLoss | Compiled:
    r"""Compile a Pyro loss: it is run once, and written down with its gradients as one graph.

    Parameters, buffers and all tensors of the programs are read at each call. Draws are those of torch's
    generator, the same as without compilation. Running statistics are updated. The call can be differentiated
    once.

    Each shape of arguments has a graph, up to 8. The loss is captured again after an edit: another part or
    parameter, ``requires_grad``, training or evaluation mode, a plain attribute, or a mask, index or flag in
    a buffer (unless set by ``.data``). Other Python code runs at the capture alone. A program that cannot be
    a graph, since the value of a tensor decides what runs or its sites change, runs eagerly, with a warning.

    Args:
        loss: A Pyro ELBO of a model and a guide, ``Trace_ELBO()(model, guide)``, or an ELBO without them,
            ``Trace_ELBO()``, for :class:`pyro.infer.SVI`.
        example_args: Arguments of the shapes of a call; not for an ELBO without a pair.
        precision: Precision of the networks' products: "float32", "bfloat16" or, on a GPU, "tf32".
        backend: "inductor", or "none" to run the graph as it was captured, for tests.

    Returns:
        For an ELBO with a pair, a module with the same parameters and names, called as ``loss`` is.
        For an ELBO without one, an ELBO that compiles at the first call:
        ``SVI(model, guide, optim, loss=pv.compile(Trace_ELBO()))``.

    Raises:
        TypeError: ``loss`` is no Pyro ELBO, or ``example_args`` no tuple.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q, p = guides.Normal(networks.MLP(9, 4)), likelihoods.Bernoulli(networks.MLP(2, 9))
        >>> vae, x = pv.VAE(priors.StandardNormal(2), p, q), torch.eye(9)
        >>> loss = Trace_ELBO()(vae.model, vae.guide)
        >>> compiled = compile(loss, (x,), backend="none")
        >>> _ = torch.manual_seed(0)
        >>> a = loss(x)
        >>> _ = torch.manual_seed(0)
        >>> torch.allclose(a, compiled(x))
        True
    """
    if isinstance(loss, ELBO):
        if example_args is not None:
            raise TypeError(
                "compile: with example_args, loss is the ELBO of a pair, Trace_ELBO()(model, guide)"
            )
        return Compiled(loss, precision=precision, backend=backend)
    if not isinstance(loss, ELBOModule):
        raise TypeError(
            "compile: loss must be a Pyro ELBO, such as Trace_ELBO()(model, guide) or Trace_ELBO()"
        )
    if not isinstance(example_args, tuple):
        raise TypeError("compile: example_args is a tuple of arguments, such as (x,)")
    compiled = CompiledLoss(loss.model, loss.guide, loss.elbo, precision=precision, backend=backend)
    compiled.graphs.prepare(example_args, {}, gradients=torch.is_grad_enabled())
    return compiled


class CompiledLoss(ELBOModule):
    """The compiled loss of a pair, a module, as :func:`pyrovae.compile` makes it.

    Attributes:
        graphs: The graphs made so far, with ``graphs.seconds`` that they took, and ``graphs.cause`` why
            there are none.
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        elbo: Any,
        *,
        precision: Precision = "float32",
        backend: Backend = "inductor",
    ) -> None:
        super().__init__(model, guide, elbo)
        self.elbo: Any
        self.graphs = Graphs(self._loss, (model, guide), elbo, precision=precision, backend=backend)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The differentiable loss."""
        result = self.graphs.run(args, kwargs, gradients=torch.is_grad_enabled())
        if result is None:
            return self.graphs.eager(*args, **kwargs)[0]
        if not result.leaves:
            return result.loss
        return Differentiable.apply(result.loss, result.gradients, *result.leaves)

    def _loss(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        if hasattr(self.elbo, "differentiable_loss"):
            return (self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs),)
        if torch.is_grad_enabled():
            return (self.elbo.loss_and_grads(self.model, self.guide, *args, **kwargs),)
        return (self.elbo.loss(self.model, self.guide, *args, **kwargs),)


class Compiled(ELBO):
    """A Pyro ELBO that runs through compiled graphs, in place of Pyro's Jit losses.

    ``SVI(model, guide, optim, loss=Compiled(Trace_ELBO()))`` takes the steps of stock SVI, and
    ``Compiled(IWAE(5))(model, guide)`` is a compiled module. Graphs are made at the first call with a
    pair, as :func:`pyrovae.compile` makes them.

    Args:
        elbo: A Pyro ELBO.
        precision: Precision of the networks' products.
        backend: "inductor", or "none" to run graphs as they were captured.

    Example:
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(5)
        >>> elbo = Compiled(Trace_ELBO(), backend="none")
        >>> loss = elbo.loss(oracle.model, oracle.guide, x)  # its guide is exact
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    def __init__(
        self, elbo: ELBO, *, precision: Precision = "float32", backend: Backend = "inductor"
    ) -> None:
        if not isinstance(elbo, ELBO):
            raise TypeError(f"Compiled: takes a Pyro ELBO, such as Trace_ELBO(), got {elbo!r}")
        super().__init__(num_particles=elbo.num_particles, vectorize_particles=elbo.vectorize_particles)
        self.elbo: Any = elbo
        self.options: dict[str, Any] = {"precision": precision, "backend": backend}
        self._pairs: list[CompiledLoss] = []

    def __call__(self, model: Program, guide: Program) -> CompiledLoss:
        """The compiled loss of a pair, as a module."""
        return CompiledLoss(model, guide, self.elbo, **self.options)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The differentiable loss."""
        return self._pair(model, guide)(*args, **kwargs)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss without gradients."""
        with torch.no_grad():
            return float(self._pair(model, guide)(*args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, with its gradients added to the parameters'."""
        pair = self._pair(model, guide)
        result = pair.graphs.run(args, kwargs, gradients=True)
        if result is None:
            return self.elbo.loss_and_grads(model, guide, *args, **kwargs)
        for leaf, gradient in zip(result.leaves, result.gradients, strict=True):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        for name in pair.graphs.names:  # by these messages SVI finds what to step
            pyro.param(name)
        return result.loss.item()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)

    def _pair(self, model: Program, guide: Program) -> CompiledLoss:
        for pair in self._pairs:
            if pair.model is model and pair.guide is guide:
                return pair
        self._pairs.append(self(model, guide))
        return self._pairs[-1]


class Differentiable(torch.autograd.Function):
    """A loss of the given leaves whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *leaves: Tensor) -> Tensor:
        """Return the loss."""
        ctx.gradients = gradients
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        """Return the gradients, once."""
        if ctx.gradients is None:
            raise RuntimeError("compiled loss: its gradients were taken already: call the loss again")
        gradients, ctx.gradients = ctx.gradients, None  # so that they need no copy
        # Reading the factor costs nothing on the CPU, and saves a pass over every gradient.
        if outer.is_cpu and outer.item() == 1:
            return None, None, *gradients
        return None, None, *(None if each is None else outer.to(each) * each for each in gradients)
