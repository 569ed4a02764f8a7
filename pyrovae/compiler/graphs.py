"""A loss and its gradients as compiled graphs: one for each shape of its arguments, as long as it stays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compiler.backend import CompiledGraph, Result
from pyrovae.compiler.capture import capture, check
from pyrovae.compiler.rehearsal import (
    GraphClock,
    RecordingClock,
    Sites,
    difference,
    may_decide,
    preserve_state,
    without_grad,
)
from pyrovae.compiler.watch import ProgramSnapshot, leaves_of
from pyrovae.core.clock import Clock
from pyrovae.core.context import NotCapturableError
from pyrovae.core.precision import Precision, check_precision, networks_in, products_in
from pyrovae.core.random import stream

__all__ = ["Backend", "Graphs"]

Backend = Literal["inductor", "none"]
"""What makes code of a graph: torch's compiler, or nothing: the graph runs as it was captured."""

MOST = 8
"""Graphs of one loss: each costs seconds to compile, and shapes without end would cost without end."""


class Graphs:
    """Runs a function through its captured graph; tells by None that it has to run by itself.

    Args:
        function: Gives the loss, and whatever is wanted besides, as tensors.
        programs: What the function runs, to notice edits and to find parameters and buffers.
        objective: The loss it is of: one with a clock ticks at each step.
        precision: Of the networks.
        backend: Of the graphs.
        finite: Whether a run tells, by one number, if its loss and all its gradients are finite.
        parameters: Whether gradients are wanted of what the programs are made of; of arguments they always
            are.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        programs: Sequence[Any],
        objective: Any,
        *,
        precision: Precision = "float32",
        backend: Backend = "inductor",
        finite: bool = False,
        parameters: bool = True,
    ) -> None:
        check_precision(precision)
        if backend not in ("inductor", "none"):
            raise ValueError(f"backend is '{backend}': 'inductor' or 'none'")
        self.function, self.programs, self.objective = function, programs, objective
        self.precision: Precision = precision
        self.backend: Backend = backend
        self.finite, self.parameters = finite, parameters
        self.edits = 0
        self.names: list[str] = []  # of parameters met in Pyro's store
        self.seconds = 0.0  # spent on making graphs
        self.cause: str | None = None  # why nothing runs through graphs
        self._graphs: dict[Any, CompiledGraph | None] = {}
        self._watch: ProgramSnapshot | None = None
        self._warned: set[str] = set()

    def eager(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The function by itself, its networks in the precision asked for."""
        with networks_in(self.precision):
            return self.function(*args, **kwargs)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        gradients: bool,
        check: bool = True,
        fresh: bool = True,
    ) -> Result | None:
        """The function's outputs, and the gradients of the first; None where it has to run by itself.

        Args:
            args: Of the function.
            kwargs: Likewise.
            gradients: Whether they are wanted.
            check: Look whether anything was edited since the last run.
            fresh: Whether the outputs are to outlive the next run, on a GPU too.
        """
        graph = self.prepare(args, kwargs, gradients=gradients, check=check)
        if graph is None:
            return None
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return self.take(graph, tensors, fresh=fresh)

    def take(self, code: CompiledGraph, tensors: Sequence[Tensor], *, fresh: bool = True) -> Result:
        """Run a graph that was prepared on the tensors among the arguments; a clock ticks."""
        with products_in(self.precision):
            result = code.run([*tensors], getattr(self.objective, "clock", None), fresh=fresh)
        if code.gradients and hasattr(self.objective, "clock"):
            self.objective.tick()
        return result

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, gradients: bool, check: bool = True
    ) -> CompiledGraph | None:
        """The graph for arguments of this shape, made if it is not there; None where there is none."""
        if any(not getattr(handler, "param_only", False) for handler in _PYRO_STACK):
            return None  # a handler around the call, which the graph would not see
        if check and self._watch is not None:
            self._forget_if_edited()
        if self.cause is not None:
            return None
        leaves, spec = pytree.tree_flatten((args, kwargs))
        key = gradients, spec, *map(_signature, leaves), torch.is_autocast_enabled("cpu")
        graph = self._graphs.get(key)
        if graph is not None and check and graph.stale():
            others = {k: each for k, each in self._graphs.items() if each is None or not each.guards_failed()}
            if len(others) < len(self._graphs) and self._too_often("a tensor whose value decides what runs"):
                return None
            self._graphs = others
            self._graphs.pop(key, None)
        if key not in self._graphs:
            if len(self._graphs) >= MOST:
                self._warn(
                    f"{MOST} shapes of arguments have a graph each, and here is another: it runs without "
                    f"one; make batches of a few sizes"
                )
                return None
            self._graphs[key] = self._make(args, kwargs, leaves, gradients)
        return self._graphs[key]

    def _forget_if_edited(self) -> None:
        edited = self._watched().changed_since(self._watch)  # type: ignore[arg-type]
        if edited is None:
            return
        self._graphs.clear()
        self._watch, self.cause = None, None
        self._too_often(f"'{edited}'")

    def _too_often(self, edited: str) -> bool:
        """Count an edit; with a warning, no more graphs where there were too many."""
        self.edits += 1
        if self.edits <= MOST:
            return False
        self._watch = self._watched()
        self.cause = f"{edited} is edited again and again"
        self._warn(
            f"{self.cause}, and each time needs another graph: runs without one; let what changes be a "
            f"tensor that is computed with, or a schedule of the objective"
        )
        return True

    def _watched(self) -> ProgramSnapshot:
        return ProgramSnapshot([*self.programs, self.objective], self.names)

    def _make(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], gradients: bool
    ) -> CompiledGraph | None:
        """A graph for arguments of this shape; None, with a warning, where there can be none."""
        started = time.perf_counter()
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        first = self._first_run(args, kwargs, tensors, gradients)
        self._watch = self._watched()
        try:
            graph = self._captured(first, args, kwargs, tensors, gradients)
            if self.backend == "inductor":
                with products_in(self.precision):
                    graph.compile(tensors)
        except NotCapturableError as error:
            self._watch = self._watched()
            self.cause = str(error)
            self._warn(f"{error}: runs without a compiled graph")
            return None
        self.seconds += time.perf_counter() - started
        return graph

    def _first_run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], gradients: bool
    ) -> _Found:
        """Run by itself once: parameters made at the first run, schedules, sites; errors are the user's."""
        before = self._watched()
        buffers, clock = before.tensors("buffers"), RecordingClock()
        sites = Sites()
        with (
            stream("first run"),
            preserve_state(buffers, before.tensors("parameters")),
            self._clocked(clock),
            torch.set_grad_enabled(gradients),
            sites,
        ):
            loss, *_ = self.eager(*args, **kwargs)
        store = pyro.get_param_store()._params
        self.names = [name for name in dict.fromkeys([*self.names, *sites.parameters]) if name in store]
        found = [*before.tensors("parameters"), *(store[name] for name in self.names)]
        if isinstance(loss, Tensor):
            found += leaves_of(loss)
        mine = {id(tensor) for tensor in tensors}
        wanted = {id(leaf): leaf for leaf in found if id(leaf) not in mine}
        return _Found(list(wanted.values()), buffers, clock.schedules, sites.sites)

    def _captured(
        self,
        first: _Found,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        gradients: bool,
    ) -> CompiledGraph:
        asked = (*first.leaves, *tensors) if self.parameters else tensors
        wanted = [tensor for tensor in asked if tensor.requires_grad and gradients]
        device = tensors[0].device if tensors else torch.device("cpu")
        values = torch.zeros(max(len(first.schedules), 1), dtype=torch.float64, device=device)
        has: list[bool] = []
        finite: Any = None
        if self.finite and gradients:  # what can be looked at for nothing is made by torch's own sum
            finite = "after" if device.type == "cpu" else "inside"

        def outputs() -> tuple[Tensor, ...]:
            with self._clocked(GraphClock(values)), torch.set_grad_enabled(gradients), without_grad(wanted):
                loss, *more = self.eager(*args, **kwargs)
                loss = torch.as_tensor(loss)
                if not gradients:
                    return loss.detach(), *more
                found: tuple[Tensor | None, ...]
                if loss.requires_grad:
                    found = torch.autograd.grad(loss, wanted, allow_unused=True)
                else:  # a loss that adds its gradients itself
                    found = tuple(leaf.grad for leaf in wanted)
            has.extend(gradient is not None for gradient in found)
            kept: list[Tensor] = [gradient for gradient in found if gradient is not None]
            outputs = [loss.detach(), *(each.detach() for each in more)]
            if finite == "inside":  # one number to look at: a sum is not finite where a term is not
                outputs.append(torch.stack([each.detach().sum().double() for each in (loss, *kept)]).sum())
            return *outputs, *kept

        inputs = [*first.leaves, *first.buffers, values, *tensors]
        given = {id(tensor) for tensor in tensors}
        held = [each for each in first.buffers if may_decide(each) and id(each) not in given]
        versions = [tensor._version for tensor in inputs]
        sites = Sites()
        unmoved, quiet = preserve_state(first.buffers, first.leaves), warnings.catch_warnings()
        with products_in(self.precision), unmoved, quiet, sites:
            warnings.simplefilter("ignore")  # the first run gave them
            captured = capture(outputs, inputs, held)
        with products_in(self.precision), preserve_state(first.buffers, first.leaves):
            check(captured, inputs)
        for tensor, version in zip(inputs, versions, strict=True):
            if tensor._version != version and not any(tensor is buffer for buffer in first.buffers):
                raise NotCapturableError(
                    f"a tensor of shape {tuple(tensor.shape)} that is no buffer of a module is changed in "
                    f"place"
                )
        if sites.sites != first.sites:
            raise NotCapturableError(
                f"the sites change from run to run: {difference(first.sites, sites.sites)}"
            )
        edited = self._watched().changed_since(self._watch)  # type: ignore[arg-type]
        if edited:
            raise NotCapturableError(f"'{edited}' is changed by the run itself")
        fixed = [*first.leaves, *first.buffers]
        return CompiledGraph(
            captured,
            fixed,
            values,
            tensors,
            first.schedules,
            wanted,
            has,
            gradients,
            finite,
        )

    @contextmanager
    def _clocked(self, clock: Any) -> Iterator[None]:
        """With another clock in the objective, if it has one."""
        if not hasattr(self.objective, "clock"):
            yield
            return
        before = self.objective.clock
        clock.time = before
        self.objective.clock = clock
        try:
            yield
        finally:
            self.objective.clock = before

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"compile: {message}", UserWarning, stacklevel=4)


class _Found(NamedTuple):
    leaves: list[Tensor]
    buffers: list[Tensor]
    schedules: list[Callable[[Clock], float]]
    sites: list[tuple[Any, ...]]


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf
