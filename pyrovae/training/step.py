"""Optimiser steps, eager or through a compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrovae.compiler.backend import CompiledGraph, Result
from pyrovae.compiler.graphs import Graphs
from pyrovae.compiler.loss import Differentiable
from pyrovae.core.precision import Precision
from pyrovae.core.programs import plain_errors
from pyrovae.training.adam import DirectStep
from pyrovae.training.ahead import Ahead, runs_ahead
from pyrovae.training.data_parallel import SharedLoss, weighing
from pyrovae.training.loss import TrackedLoss

__all__ = ["TrainStep"]


class TrainStep:
    """Takes the steps of a run.

    Batches of the first one's shape go through a graph, others (the last of an epoch) eagerly: the two
    give the same on the same noise, up to rounding.

    Args:
        meter: The loss.
        optimizer: It steps.
        parameters: What it steps.
        compile: Whether steps go through a compiled graph.
        precision: Of the networks.
        clip: Norm that the gradients, all together, are brought down to where theirs is larger.
        shared: What other processes do in each step, where they have rows of the same batch.
        say: Told what takes long.
    """

    def __init__(
        self,
        meter: TrackedLoss,
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
        self.meter, self.optimizer, self.parameters = meter, optimizer, parameters
        programs = meter.model.program, meter.guide.program
        self.graphs = Graphs(self._run, programs, meter.objective, precision=precision, finite=True)
        self.compile, self.clip, self.say = compile, clip, say
        self.shared, self.rows = shared, 0
        self.shape: Any = None
        self.layout: Any = None
        self.code: CompiledGraph | None = None
        self.direct = DirectStep(optimizer)
        ahead = shared is None and runs_ahead(optimizer, parameters)
        self.watched = Ahead(optimizer) if ahead else None

    def step(self, batch: tuple[Tensor, ...], where: str, *, check: bool, rows: int | None = None) -> Tensor:
        """Take one; the batch's sums of loss, ELBO, reconstruction and KL.

        Args:
            batch: Arguments of the programs; this process's part of them.
            where: For errors.
            check: Look whether the programs were edited.
            rows: Of the whole batch, where it is another number.

        Raises:
            FloatingPointError: Loss or gradients are not finite; the parameters are those before.
            ConnectionError: Another process is gone; likewise.
        """
        self.rows = len(batch[0]) if rows is None else rows
        shape = [torch.Size([self.rows, *tensor.shape[1:]]) for tensor in batch]
        if self.shape is None:
            self.shape = shape
        if shape != self.shape or not self.compile or not len(batch[0]):
            return self._eagerly(batch, where)
        code = self._code(batch, where, check=check)
        if code is None:
            return self._eagerly(batch, where)
        return self._compiled(code, batch, where, check)

    def _compiled(self, code: CompiledGraph, batch: tuple[Tensor, ...], where: str, check: bool) -> Tensor:
        state = _random_state(self.parameters[0].device)
        if self.shared is not None:
            run, blame = partial(self._known, code, batch), partial(self._blame, batch, where, state)
            return self._together(self.shared, run, blame, batch, where)
        return self._taken(self.graphs.take(code, batch, fresh=False), batch, where, state, check=check)

    def _code(self, batch: tuple[Tensor, ...], where: str, *, check: bool) -> CompiledGraph | None:
        """The graph for this batch, looked up where it may be another than for the last."""
        layout = [(tensor.stride(), tensor.dtype, tensor.device) for tensor in batch]
        outdated = self.code is not None and self.code.guards_failed()
        if check or outdated or layout != self.layout:
            self.layout = layout
            if not self.graphs.seconds:
                self.say("compile")
            with plain_errors(where):
                self.code = self.graphs.prepare(batch, {}, gradients=True, check=check or outdated)
            self.say("train")
        if self.graphs.cause is not None:
            self.compile = False
        return self.code

    def finish(self) -> None:
        """Look at the steps that were not looked at yet."""
        if self.watched is not None:
            self.watched.look(self._blame)

    def forget(self) -> None:
        """Take up from another state of parameters and optimiser than the last step left."""
        self.direct = DirectStep(self.optimizer)
        if self.watched is not None:
            self.optimizer.found_inf = None  # type: ignore[attr-defined]
            self.watched = Ahead(self.optimizer)

    def state(self) -> dict[str, Any]:
        """What a run that goes on elsewhere needs to take its steps in the same way."""
        shape = None if self.shape is None else [list(each) for each in self.shape]
        return {"compile": self.compile, "shape": shape}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the stepper of this state would."""
        self.compile = state["compile"]
        self.shape = None if state["shape"] is None else [torch.Size(each) for each in state["shape"]]

    def _run(self, *batch: Tensor) -> tuple[Tensor, ...]:
        with weighing(self.meter.plates, len(batch[0]), self.rows):
            loss = self.meter.forward(*batch)
        return loss, self.meter.sums(loss)

    def _taken(
        self, result: Result, batch: tuple[Tensor, ...], where: str, state: Tensor, *, check: bool
    ) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        for leaf, gradient in zip(result.leaves, result.gradients, strict=True):
            leaf.grad = gradient
        total: Any = result.finite
        if self.watched is not None:
            self.watched.step(total, (batch, where, state), self._blame)
        elif not math.isfinite(total):
            self._blame(batch, where, state)
        if self.clip is not None:
            self._own_gradients()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.direct(check=check)
        return result.more[0]

    def _own_gradients(self) -> None:
        """Tell gradients apart that a graph gives as one tensor: what is clipped in place is clipped once."""
        seen = set()
        for parameter in self.parameters:
            if parameter.grad is not None:
                place = parameter.grad.untyped_storage().data_ptr()
                if place in seen:
                    parameter.grad = parameter.grad.clone()
                seen.add(place)

    def _blame(self, batch: tuple[Tensor, ...], where: str, state: Tensor) -> None:
        """Say what of a compiled step was not finite, by further runs at its parameters and on its noise."""
        device = self.parameters[0].device
        clock = getattr(self.meter.objective, "clock", None)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else ()):
            _set_random_state(device, state)
            result: Any = self.graphs.run(batch, {}, gradients=True, check=False)
            if clock is not None:
                self.meter.objective.clock = clock
            if not torch.isfinite(result.loss):
                _set_random_state(device, state)
                with torch.no_grad():
                    self._run(*batch)
                self._refuse_loss(result.loss, where)
        for leaf, gradient in zip(result.leaves, result.gradients, strict=True):
            leaf.grad = gradient
        self._check_gradients(where)

    def _eagerly(self, batch: tuple[Tensor, ...], where: str) -> Tensor:
        self.optimizer.zero_grad()
        if self.shared is not None:
            run = partial(self._differentiable, batch)
            return self._together(self.shared, run, None, batch, where)
        with plain_errors(where):
            loss, sums = self.graphs.eager(*batch)  # the sums at the parameters of the loss: before the step
        if not torch.isfinite(loss):
            self._refuse_loss(loss, where)
        if loss.requires_grad:
            loss.backward()
        norm = self._check_gradients(where)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.optimizer.step()
        return sums

    def _together(
        self,
        shared: SharedLoss,
        run: Callable[[], tuple[Tensor, Tensor]],
        blame: Callable[[], None] | None,
        batch: tuple[Tensor, ...],
        where: str,
    ) -> Tensor:
        """A step with other processes: each on its rows, with sums and gradients of the whole batch."""
        self.optimizer.zero_grad()
        loss = sums = error = None
        try:
            with plain_errors(where):
                loss, sums = shared.run(run, rows=len(batch[0]))
            if not torch.isfinite(loss):
                if blame is not None:
                    blame()
                self._refuse_loss(loss, where)
        except ConnectionError:
            raise
        except Exception as caught:  # of this process alone, it may be: the others wait
            error = caught
        sums = shared.settle(sums, error)
        shared.backward(loss)  # type: ignore[arg-type]
        norm = self._check_gradients(where)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.optimizer.step()
        return sums

    def _differentiable(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The loss with a graph, also where Pyro adds the gradients itself, and the sums."""
        loss, sums = self.graphs.eager(*batch)
        if not loss.requires_grad:
            having = [each for each in self.parameters if each.grad is not None]
            gradients = [each.grad for each in having]
            self.optimizer.zero_grad()
            loss = Differentiable.apply(loss, gradients, *having)
        return loss, sums

    def _known(self, code: CompiledGraph, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The same by a graph."""
        result = self.graphs.take(code, batch, fresh=True)
        return Differentiable.apply(result.loss, result.gradients, *result.leaves), result.more[0]

    def _refuse_loss(self, loss: Tensor, where: str) -> None:
        raise FloatingPointError(
            f"fit: the loss is {loss.item()} at {where}: {self.meter.blame()}; "
            f"try a smaller learning rate, or look at the data of this batch"
        )

    def _check_gradients(self, where: str) -> Tensor:
        """Refuse a gradient that is not finite, by name, before the optimiser takes it; the norm of all."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm.isfinite():
            return norm
        for parameter in self.parameters:
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise FloatingPointError(
                    f"fit: the gradient of '{self.meter.name(parameter)}' is not finite at {where}, though "
                    f"the loss is: look for a square root, a logarithm or a division at zero"
                )
        return norm


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
