"""Run a function of tensors once, and write its operations down as a graph."""

from __future__ import annotations

import contextlib
import linecache
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, make_fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyrovae.core.context import NotCapturableError
from pyrovae.core.context import captured as being_captured
from pyrovae.core.random import stream

__all__ = ["Captured", "capture", "check"]

HERE = Path(__file__).parents[1]
LIBRARIES = (*(str(Path(module.__file__ or "").parent) for module in (torch, pyro)), str(HERE))
OURS = (
    "compiler/capture.py",
    "compiler/graphs.py",
    "compiler/backend.py",
    "compiler/loss.py",
    "core/precision.py",
)
HIDDEN = ("<", *(str(HERE / name) for name in OURS), contextlib.__file__)
"""Files whose lines no error names: those of the capture itself."""

READS = {
    getattr(torch.Tensor, name)
    for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__complex__")
}
"""Methods that make a Python value of a tensor."""

SHAPED_BY_VALUES = {torch.nonzero, torch.Tensor.nonzero, torch.argwhere, torch.Tensor.argwhere}
"""Functions whose result has a shape that depends on values, which cannot be compiled."""

INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
"""Functions that take masks, which choose a number of elements that depends on values."""


class Captured(NamedTuple):
    """The graph of one run.

    Attributes:
        graph: A module from the inputs and the others to a tuple of outputs.
        others: Further tensors from outside, which are read at each call.
        read: Tensors from outside whose values Python read, and their versions then.
        outputs: The outputs of the run.
    """

    graph: fx.GraphModule
    others: list[Tensor]
    read: list[tuple[Tensor, int]]
    outputs: tuple[Tensor, ...]


def capture(
    function: Callable[[], tuple[Tensor, ...]], inputs: Sequence[Tensor], held: Sequence[Tensor] = ()
) -> Captured:
    """Run a function once, and write down what it does to tensors: forward, backward, random draws.

    The function may find its inputs anywhere (arguments, modules, Pyro's store, closures); they are known by
    identity. The random state is left alone; the caller restores what the run changes in place.

    Args:
        function: A function that returns tensors. Python may read only values that are the same in every run.
        inputs: Tensors whose values may differ in the next run.
        held: Inputs that seldom change, such as masks: Python may read them, and they are then in ``read``.

    Raises:
        NotCapturableError: Another value was read; the message says where in the caller's code.
    """
    static, before = _Static(held), [each.clone() for each in held]
    outputs: list[Tensor] = []

    def run(*_: Tensor) -> tuple[Tensor, ...]:
        with static:
            outputs.extend(function())
        return tuple(outputs)

    try:
        # Pyro's checks of values were made in the dry run.
        with (
            stream("capture"),
            pyro.validation_enabled(False),
            _capturing(),
            torch.autograd.set_multithreading_enabled(False),  # the tracer is of this thread
        ):
            graph = make_fx(run, tracing_mode="real")(*inputs)
    except Exception as error:  # the dry run did not raise it, whatever it is
        raise NotCapturableError(f"{_cause(error)}, {place(error)}") from error
    for node in graph.graph.nodes:
        if node.target is not torch.ops.aten.index.Tensor and _has(node, torch.Tag.dynamic_output_shape):
            raise NotCapturableError(f"{node.target} gives a shape that depends on the values of a tensor")
    nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
    places = {id(tensor): node for tensor, node in zip(inputs, nodes, strict=True)}
    for each, old in zip(held, before, strict=True):
        written = _is_changed(places[id(each)]) or not torch.equal(each, old)
        if written and any(tensor is each for tensor, _ in static.read):
            raise NotCapturableError(
                f"a buffer of shape {tuple(each.shape)} decides what runs and is changed by the run itself"
            )
    return Captured(graph, _lifted(graph, inputs), static.read, tuple(outputs))


@contextlib.contextmanager
def _capturing() -> Iterator[None]:
    """Let densities choose the form that compiles best."""
    token = being_captured.set(True)
    try:
        yield
    finally:
        being_captured.reset(token)


def check(captured: Captured, inputs: Sequence[Tensor]) -> None:
    """Refuse a graph that gives other outputs than the run, on the same inputs and draws."""
    with stream("capture"), torch.no_grad():
        again = captured.graph(*inputs, *captured.others)
    for output, first in zip(again, captured.outputs, strict=True):
        size = first.nan_to_num(0.0, 0.0, 0.0).abs().max() if first.numel() else 0.0
        if not torch.allclose(output, first, rtol=1e-3, atol=1e-4 * float(size), equal_nan=True):
            raise NotCapturableError(
                "the graph gives another loss or gradient than the program on the same draws: does it seed "
                "torch's generator itself?"
            )


def place(error: BaseException) -> str:
    """The innermost line of the caller's code in an error's traceback, or else of Pyro or this package."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines, theirs, traceback = [], [], error.__traceback__
    while traceback is not None:
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if not file.startswith((*LIBRARIES, *HIDDEN)):
            lines.append((file, line))
        elif not file.startswith((LIBRARIES[0], *HIDDEN)):
            theirs.append((file, line))
        traceback = traceback.tb_next
    if not (lines or theirs):
        return "in torch"
    file, line = (lines or theirs)[-1]
    return f"{Path(file).name}:{line}: {linecache.getline(file, line).strip()}"


class _Static(TorchFunctionMode):
    """Let Python read a value only if it is the same in every run.

    ``item()`` of any other tensor gives the detached tensor, since Pyro's losses return their value so.
    """

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()
        self.held = held
        self.read: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            if self._known(args[0]):
                with disable_proxy_modes_tracing():
                    return func(*args, **kwargs)
            if func is torch.Tensor.item:
                return args[0].detach()
            if func is torch.Tensor.__bool__ and _caller() in ("warn_if_nan", "compute_expectation"):
                return False
            raise NotCapturableError("the value of a tensor decides what runs")
        if func in SHAPED_BY_VALUES and self._known(args[0] if args else kwargs["input"]):
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        if func in INDEXING:
            args = (args[0], self._by_numbers(args[1], write=len(args) == 3), *args[2:])
        if func is functional.one_hot and args[1:] + tuple(kwargs.values()) not in ((), (-1,)):
            return _one_hot(args[0], *args[1:], **kwargs)
        if func is torch.Tensor.register_hook and _caller() == "warn_if_nan":
            return None
        if func is torch.Tensor.masked_select and _caller() == "compute_expectation":
            values, mask = args  # Pyro drops the zeros of a sum of products: keep them as zeros
            return torch.where(mask, values, torch.zeros_like(values))
        return func(*args, **kwargs)

    def _by_numbers(self, index: Any, *, write: bool) -> Any:
        """An index with known masks replaced by the positions that they choose."""
        parts: list[Any] = []
        for each in index if isinstance(index, tuple) else (index,):
            is_mask = isinstance(each, Tensor) and each.dtype == torch.bool and each.dim() > 0
            if is_mask and self._known(each):
                with disable_proxy_modes_tracing():
                    parts += each.nonzero(as_tuple=True)
            elif is_mask and not write:
                raise NotCapturableError("a mask whose values are not known chooses from a tensor")
            else:
                parts.append(each)
        return tuple(parts) if isinstance(index, tuple) or len(parts) != 1 else parts[0]

    def _known(self, tensor: Tensor) -> bool:
        """Whether a tensor's value is the same in every run: it depends on no input and no draw."""
        mode = get_proxy_mode()
        slot = None if mode is None else mode.tracer.tensor_tracker.get(tensor)
        if slot is None:  # from outside: the same until somebody changes it
            self.read.append((tensor, tensor._version))
            return True
        tracer: Any = mode.tracer  # type: ignore[union-attr]
        held = {tracer.tensor_tracker[each].proxy.node: each for each in self.held}
        waiting, seen, outside = [slot.proxy.node], set(), []
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in held:
                outside.append(held[node])
            elif node.op == "get_attr":
                outside.append(getattr(tracer.root, str(node.target)))
            elif node.op != "call_function" or _has(node, torch.Tag.nondeterministic_seeded):
                return False
            if _is_changed(node):
                return False
            waiting += node.all_input_nodes
        self.read += [(each, each._version) for each in outside]
        return True


def _one_hot(codes: Tensor, num_classes: int) -> Tensor:
    """As torch's, but without reading the codes."""
    return (codes[..., None] == torch.arange(num_classes, device=codes.device)).long()


def _has(node: fx.Node, tag: torch.Tag) -> bool:
    return tag in getattr(node.target, "tags", ())


def _is_changed(node: fx.Node) -> bool:
    """Whether something writes to a tensor or to a view of it."""
    return any(_changes_in_place(user) or (_is_view(user) and _is_changed(user)) for user in node.users)


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:  # one of the views that unbind, split or chunk give
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(each.alias_info is not None for each in schema.returns)


def _changes_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _caller() -> str:
    """The name of the function of Pyro that called torch, or ""."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((LIBRARIES[0], *HIDDEN)):
        frame = frame.f_back
    return frame.f_code.co_name if frame.f_code.co_filename.startswith(LIBRARIES[1]) else ""


def _cause(error: Exception) -> str:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    if "trying to get value out of a tracing tensor" in str(error):
        return "the value of a tensor decides what runs"
    if isinstance(error, NotCapturableError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _lifted(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Make further inputs of tensors from outside, which the tracer took for constants."""
    lifted: dict[int, tuple[Tensor, fx.Node]] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        if all(user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users):
            continue  # made in the run, by torch.tensor
        tensor = getattr(graph, str(node.target))
        if any(_changes_in_place(user) and user.args[0] is node for user in node.users):
            raise NotCapturableError(
                f"a tensor of shape {tuple(tensor.shape)} that is no buffer of a module is changed in place"
            )
        if id(tensor) not in lifted:
            with graph.graph.inserting_after(last[-1]) if last else graph.graph.inserting_before():
                last.append(graph.graph.placeholder(f"other_{len(lifted)}"))
            lifted[id(tensor)] = tensor, last[-1]
        node.replace_all_uses_with(lifted[id(tensor)][1])
        graph.graph.erase_node(node)
    if lifted:
        graph.recompile()
    return [tensor for tensor, _ in lifted.values()]
