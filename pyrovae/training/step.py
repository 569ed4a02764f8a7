"""Optimiser steps, eager or through a compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrovae.compiler.backend import CompiledGraph
from pyrovae.compiler.graphs import Graphs
from pyrovae.compiler.loss import Differentiable
from pyrovae.core.precision import Precision
from pyrovae.core.programs import plain_errors
from pyrovae.training.adam import DirectStep
from pyrovae.training.data_parallel import SharedLoss, scaled_to_batch
from pyrovae.training.loss import TrackedLoss

__all__ = ["TrainStep"]


class TrainStep:
    """Take the optimiser steps of a run; each refuses a loss or a gradient that is not finite.

    With ``compile``, batches of the first one's shape go through a graph. Others (the last of an epoch) run
    eagerly, with the same result on the same noise, up to rounding. ``say`` shows what takes long.
    """

    def __init__(
        self,
        tracked: TrackedLoss,
        optimizer: torch.optim.Optimizer,
        parameters: list[Tensor],
        *,
        compile: bool,
        precision: Precision,
        clip: float | None = None,
        shared: SharedLoss | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        if not isinstance(compile, bool):
            raise ValueError(f"fit: compile is {compile!r}: pass True or False")
        self.tracked, self.optimizer, self.parameters = tracked, optimizer, parameters
        programs = tracked.model.program, tracked.guide.program
        self.graphs = Graphs(self._run, programs, tracked.objective, precision=precision, finite=True)
        self.compile, self.clip, self.shared, self.say = compile, clip, shared, say
        self.rows = 0
        self.shape: list[list[int]] | None = None
        self.layout: Any = None
        self.graph: CompiledGraph | None = None
        self.direct = DirectStep(optimizer)
        # A GPU runs ahead of Python if the check of one step waits until the next one has been launched.
        can_skip = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.deferred = shared is None and parameters[0].is_cuda and can_skip
        self.unchecked: tuple[Any, ...] | None = None

    def step(self, batch: tuple[Tensor, ...], where: str, *, check: bool, rows: int | None = None) -> Tensor:
        """Take one step; return the batch's sums of loss, ELBO, reconstruction and KL.

        ``check`` looks for edits of programs and optimiser, ``rows`` are those of the batch on all processes.
        After a FloatingPointError or a ConnectionError the parameters are those before the step.
        """
        self.rows = len(batch[0]) if rows is None else rows
        shape = [[self.rows, *tensor.shape[1:]] for tensor in batch]
        self.shape = self.shape or shape
        graph = None
        if self.compile and shape == self.shape and len(batch[0]):
            graph = self._graph(batch, where, check=check)
        if self.shared is not None:
            return self._step_together(self.shared, graph, batch, where)
        if graph is not None:
            return self._step_compiled(graph, batch, where, check=check)
        self.finish()
        sums = self._backward(batch, where)
        self._update(where)
        return sums

    def finish(self) -> None:
        """Make the check of the last step, where that was deferred."""
        if self.unchecked is not None:
            bad, *step = self.unchecked
            self.unchecked = self.optimizer.found_inf = None  # type: ignore[attr-defined]
            if bad():
                self._raise_cause(*step)

    def forget(self) -> None:
        """Start from parameters and an optimiser that were restored to an earlier state."""
        self.direct = DirectStep(self.optimizer)
        self.unchecked = None
        if self.deferred:
            self.optimizer.found_inf = None  # type: ignore[attr-defined]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to take its steps in the same way."""
        return {"compile": self.compile, "shape": self.shape}

    def restore(self, state: dict[str, Any]) -> None:
        """Take further steps as the run of this state would."""
        self.compile, self.shape = state["compile"], state["shape"]

    def _run(self, *batch: Tensor) -> tuple[Tensor, ...]:
        with scaled_to_batch(self.tracked.plates, len(batch[0]), self.rows):
            loss = self.tracked.forward(*batch)
        return loss, self.tracked.sums(loss)

    def _graph(self, batch: tuple[Tensor, ...], where: str, *, check: bool) -> CompiledGraph | None:
        """The graph for this batch, looked up only where it may differ from the last one's."""
        layout = [(tensor.stride(), tensor.dtype, tensor.device) for tensor in batch]
        outdated = self.graph is not None and self.graph.guards_failed()
        if check or outdated or layout != self.layout:
            self.layout = layout
            if not self.graphs.seconds:
                self.say("compile")
            with plain_errors(where):
                self.graph = self.graphs.prepare(batch, {}, gradients=True, check=check or outdated)
            self.say("train")
        if self.graphs.cause is not None:
            self.compile = False
        return self.graph

    def _step_compiled(
        self, graph: CompiledGraph, batch: tuple[Tensor, ...], where: str, *, check: bool
    ) -> Tensor:
        noise = _random_state(self.parameters[0].device)
        result = self.graphs.take(graph, batch, fresh=False)
        self.finish()
        if self.deferred:  # the optimiser's kernel does nothing where found_inf is 1
            bad = 1 - torch.as_tensor(result.finite).isfinite().float()
            self.unchecked = _sent_to_cpu(bad), batch, where, noise
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        elif not math.isfinite(result.finite):
            self._raise_cause(batch, where, noise)
        for parameter in self.parameters:
            parameter.grad = None
        for leaf, gradient in zip(result.leaves, result.gradients, strict=True):
            leaf.grad = gradient
        if self.clip is not None:
            for parameter in self.parameters:  # a graph may give two gradients as one tensor
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.direct(check=check)
        return result.more[0]

    def _raise_cause(self, batch: tuple[Tensor, ...], where: str, noise: Tensor) -> None:
        """Repeat a compiled step eagerly, on its noise, and raise what was not finite in it."""
        clock = getattr(self.tracked.objective, "clock", None)
        with _noise_from(noise, self.parameters[0].device):
            self._backward(batch, where)
        if clock is not None:
            self.tracked.objective.clock = clock
        self.tracked.check_gradients(self.parameters, where)

    def _backward(self, batch: tuple[Tensor, ...], where: str) -> Tensor:
        """The gradients of an eager step; its sums."""
        self.optimizer.zero_grad()
        with plain_errors(where):
            loss, sums = self.graphs.eager(*batch)
        self.tracked.check(loss, where)
        if loss.requires_grad:
            loss.backward()
        return sums

    def _update(self, where: str) -> None:
        """Check the gradients, clip them and step the optimiser."""
        norm = self.tracked.check_gradients(self.parameters, where)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.optimizer.step()

    def _step_together(
        self, shared: SharedLoss, graph: CompiledGraph | None, batch: tuple[Tensor, ...], where: str
    ) -> Tensor:
        """A step of several processes, each on its rows, with sums and gradients of the whole batch."""
        self.optimizer.zero_grad()
        noise = _random_state(self.parameters[0].device)
        loss = sums = error = None
        try:
            with plain_errors(where):
                loss, sums = shared.run(partial(self._differentiable, graph, batch), rows=len(batch[0]))
            if graph is not None and not torch.isfinite(loss):
                with _noise_from(noise, loss.device), torch.no_grad():
                    self._run(*batch)  # eagerly, to see the sites
            self.tracked.check(loss, where)
        except ConnectionError:
            raise
        except Exception as caught:  # perhaps of this process alone, for which the others wait
            error = caught
        sums = shared.settle(sums, error)
        shared.backward(loss)  # type: ignore[arg-type]
        self._update(where)
        return sums

    def _differentiable(
        self, graph: CompiledGraph | None, batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """A loss to call ``backward`` on, also of a graph and of a loss that adds its gradients itself."""
        if graph is not None:
            result = self.graphs.take(graph, batch, fresh=True)
            return Differentiable.apply(result.loss, result.gradients, *result.leaves), result.more[0]
        loss, sums = self.graphs.eager(*batch)
        if not loss.requires_grad:
            with_gradient = [each for each in self.parameters if each.grad is not None]
            gradients = [each.grad for each in with_gradient]
            self.optimizer.zero_grad()
            loss = Differentiable.apply(loss, gradients, *with_gradient)
        return loss, sums


def _sent_to_cpu(number: Tensor) -> Callable[[], float]:
    """A function that waits for a number of the device, and not for work that was launched after it."""
    copied, event = torch.empty((), pin_memory=number.is_cuda), torch.cuda.Event() if number.is_cuda else None
    copied.copy_(number, non_blocking=True)
    if event is not None:
        event.record()

    def wait() -> float:
        if event is not None:
            event.synchronize()
        return copied.item()

    return wait


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _noise_from(state: Tensor, device: torch.device) -> Iterator[None]:
    """Inside, draws are those that followed this random state."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else ()):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
