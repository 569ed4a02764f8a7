"""Cache of compiled graphs of a loss and its gradients, one per argument shape, invalidated by edits."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
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
    clocked,
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
"""What compiles a graph: torch's inductor, or nothing, so that it runs as it was captured."""

MOST = 8
"""Most graphs of one loss, and most edits before it stays eager: each graph takes seconds to compile."""


class Graphs:
    """Run a function, which returns the loss and other tensors, through its captured graphs.

    Parameters, buffers and edits are looked for in ``programs`` and ``objective``, whose clock ticks at each
    step. With ``finite`` a run gives a number that is finite if its loss and gradients are; without
    ``parameters`` it gives gradients of arguments alone.
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
        self.names: list[str] = []  # of the parameters in Pyro's store
        self.seconds = 0.0  # that making graphs took
        self.cause: str | None = None  # why there are no graphs
        self._graphs: dict[Any, CompiledGraph | None] = {}
        self._snapshot: ProgramSnapshot | None = None
        self._warned: set[str] = set()

    def eager(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the function itself, its networks in the precision asked for."""
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
        """The function's outputs, and the gradients of the first; None if it has to run eagerly.

        ``check`` looks for edits since the last run; ``fresh`` outputs outlive the next run, on a GPU too.
        """
        graph = self.prepare(args, kwargs, gradients=gradients, check=check)
        if graph is None:
            return None
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return self.take(graph, tensors, fresh=fresh)

    def take(self, code: CompiledGraph, tensors: Sequence[Tensor], *, fresh: bool = True) -> Result:
        """Run a prepared graph on the tensors among the arguments; the objective's clock ticks."""
        with products_in(self.precision):
            result = code.run([*tensors], getattr(self.objective, "clock", None), fresh=fresh)
        if code.gradients and hasattr(self.objective, "clock"):
            self.objective.tick()
        return result

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, gradients: bool, check: bool = True
    ) -> CompiledGraph | None:
        """The graph for arguments of this shape, made if need be; None if there can be none."""
        if any(not getattr(handler, "param_only", False) for handler in _PYRO_STACK):
            return None  # the graph would not see the handler around the call
        if check and self._snapshot is not None:
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
        edited = self._edited()
        if edited is None:
            return
        self._graphs.clear()
        self._snapshot, self.cause = None, None
        self._too_often(f"'{edited}'")

    def _too_often(self, edited: str) -> bool:
        """Count an edit; after too many there are no more graphs, with a warning."""
        self.edits += 1
        if self.edits <= MOST:
            return False
        self._snapshot = self.snapshot()
        self.cause = f"{edited} is edited again and again"
        self._warn(
            f"{self.cause}, and each time needs another graph: runs without one; let what changes be a "
            f"tensor that is computed with, or a schedule of the objective"
        )
        return True

    def snapshot(self) -> ProgramSnapshot:
        """The state of programs and objective now."""
        return ProgramSnapshot([*self.programs, self.objective], self.names)

    def _edited(self) -> str | None:
        """The name of the first thing that was edited since the last snapshot."""
        return self.snapshot().changed_since(self._snapshot)  # type: ignore[arg-type]

    def _make(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], gradients: bool
    ) -> CompiledGraph | None:
        """A graph for arguments of this shape; None, with a warning, if there can be none."""
        started = time.perf_counter()
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        dry = _dry_run(self, args, kwargs, tensors, gradients)
        self._snapshot = self.snapshot()
        try:
            graph = _capture(self, dry, args, kwargs, tensors, gradients)
            edited = self._edited()
            if edited:
                raise NotCapturableError(f"'{edited}' is changed by the run itself")
            if self.backend == "inductor":
                with products_in(self.precision):
                    graph.compile(tensors)
        except NotCapturableError as error:
            self._snapshot = self.snapshot()
            self.cause = str(error)
            self._warn(f"{error}: runs without a compiled graph")
            return None
        self.seconds += time.perf_counter() - started
        return graph

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"compile: {message}", UserWarning, stacklevel=4)


class _DryRun(NamedTuple):
    leaves: list[Tensor]
    buffers: list[Tensor]
    schedules: list[Callable[[Clock], float]]
    sites: list[tuple[Any, ...]]


def _dry_run(
    graphs: Graphs, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], gradients: bool
) -> _DryRun:
    """Run the function eagerly once, to collect parameters, buffers, schedules and sites."""
    before = graphs.snapshot()
    buffers, clock, sites = before.tensors("buffers"), RecordingClock(), Sites()
    with (
        stream("first run"),
        preserve_state(buffers, before.tensors("parameters")),
        clocked(graphs.objective, clock),
        torch.set_grad_enabled(gradients),
        sites,
    ):
        loss, *_ = graphs.eager(*args, **kwargs)
    store = pyro.get_param_store()._params
    graphs.names = [name for name in dict.fromkeys([*graphs.names, *sites.parameters]) if name in store]
    leaves = [*before.tensors("parameters"), *(store[name] for name in graphs.names)]
    if isinstance(loss, Tensor):
        leaves += leaves_of(loss)
    arguments = {id(tensor) for tensor in tensors}
    unique = {id(leaf): leaf for leaf in leaves if id(leaf) not in arguments}
    return _DryRun(list(unique.values()), buffers, clock.schedules, sites.sites)


def _capture(
    graphs: Graphs,
    dry: _DryRun,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    gradients: bool,
) -> CompiledGraph:
    """Write the function and its gradients down as a graph, and check it against the function."""
    candidates = (*dry.leaves, *tensors) if graphs.parameters else tensors
    wanted = [tensor for tensor in candidates if tensor.requires_grad and gradients]
    device = tensors[0].device if tensors else torch.device("cpu")
    values = torch.zeros(max(len(dry.schedules), 1), dtype=torch.float64, device=device)
    has: list[bool] = []
    finite: Any = None
    if graphs.finite and gradients:
        finite = "after" if device.type == "cpu" else "inside"

    def outputs() -> tuple[Tensor, ...]:
        clock = clocked(graphs.objective, GraphClock(values))
        with clock, torch.set_grad_enabled(gradients), without_grad(wanted):
            loss, *more = graphs.eager(*args, **kwargs)
            loss = torch.as_tensor(loss)
            if not gradients:
                return loss.detach(), *more
            grads: tuple[Tensor | None, ...]
            if loss.requires_grad:
                grads = torch.autograd.grad(loss, wanted, allow_unused=True)
            else:  # a loss that adds its gradients itself
                grads = tuple(leaf.grad for leaf in wanted)
        has.extend(gradient is not None for gradient in grads)
        kept: list[Tensor] = [gradient for gradient in grads if gradient is not None]
        outputs = [loss.detach(), *(each.detach() for each in more)]
        if finite == "inside":  # the sum is not finite where a term is not
            outputs.append(torch.stack([each.detach().sum().double() for each in (loss, *kept)]).sum())
        return *outputs, *kept

    inputs = [*dry.leaves, *dry.buffers, values, *tensors]
    arguments = {id(tensor) for tensor in tensors}
    held = [each for each in dry.buffers if may_decide(each) and id(each) not in arguments]
    versions = [tensor._version for tensor in inputs]
    sites, unmoved = Sites(), preserve_state(dry.buffers, dry.leaves)
    with products_in(graphs.precision), unmoved, warnings.catch_warnings(), sites:
        warnings.simplefilter("ignore")  # the dry run gave them
        captured = capture(outputs, inputs, held)
    with products_in(graphs.precision), preserve_state(dry.buffers, dry.leaves):
        check(captured, inputs)
    for tensor, version in zip(inputs, versions, strict=True):
        if tensor._version != version and not any(tensor is buffer for buffer in dry.buffers):
            raise NotCapturableError(
                f"a tensor of shape {tuple(tensor.shape)} that is no buffer of a module is changed in place"
            )
    if sites.sites != dry.sites:
        raise NotCapturableError(f"the sites change from run to run: {difference(dry.sites, sites.sites)}")
    fixed = [*dry.leaves, *dry.buffers]
    return CompiledGraph(captured, fixed, values, tensors, dry.schedules, wanted, has, gradients, finite)


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf
