"""A captured graph as compiled code, which reads parameters, buffers and arguments at each call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyrovae.compiler.capture import Captured
from pyrovae.core.clock import Clock
from pyrovae.core.context import NotCapturableError

__all__ = ["CompiledGraph", "Result", "inductor"]


class Result(NamedTuple):
    """The outputs of one run.

    Attributes:
        loss: The loss, without an autograd graph.
        more: The function's other outputs.
        leaves: The tensors with gradients that the loss depends on.
        gradients: The gradient of each leaf, or None.
        finite: A number that is finite if loss and gradients are; None where it was not asked for.
    """

    loss: Tensor
    more: tuple[Tensor, ...]
    leaves: list[Tensor]
    gradients: list[Tensor | None]
    finite: Any


class CompiledGraph:
    """One captured graph as code, of parameters and buffers, schedule values, arguments and other tensors.

    ``wanted`` are the tensors with gradients, of which those that ``has`` marks are outputs. The number that
    tells whether all is ``finite`` is an output too, or computed "after" the run, faster on the CPU.
    """

    def __init__(
        self,
        captured: Captured,
        fixed: list[Tensor],
        values: Tensor,
        tensors: list[Tensor],
        schedules: list[Callable[[Clock], float]],
        wanted: list[Tensor],
        has: list[bool],
        gradients: bool,
        finite: Literal["inside", "after"] | None,
    ) -> None:
        self.module: Callable[..., tuple[Tensor, ...]] = captured.graph
        self.nodes = len(captured.graph.graph.nodes)
        self.fixed, self.values, self.others, self.read = fixed, values, captured.others, captured.read
        self.schedules, self.has, self.gradients, self.finite = schedules, has, gradients, finite
        positions = {id(tensor): position for position, tensor in enumerate(tensors)}
        self.wanted = [positions.get(id(tensor), tensor) for tensor in wanted]
        self.copied: dict[int, tuple[int, ...]] | None = None
        self.replay: _Replay | None = None

    def compile(self, tensors: list[Tensor]) -> None:
        """Compile by torch's inductor; on a GPU, record all kernels as one CUDA graph."""
        inputs = [*self.fixed, self.values, *tensors, *self.others]
        self.module = inductor(self.module, inputs)
        if all(tensor.is_cuda for tensor in inputs):
            self.replay = _Replay(self.module, self.fixed)

    def stale(self) -> bool:
        """Whether a value that Python read, or the address of a replayed parameter, has changed."""
        return (self.replay is not None and self.replay.moved()) or self.guards_failed()

    def guards_failed(self) -> bool:
        """Whether a value that Python read at the capture has changed."""
        return any(tensor._version != version for tensor, version in self.read)

    def run(self, tensors: list[Tensor], clock: Clock | None, *, fresh: bool = True) -> Result:
        """The outputs for these arguments; with ``fresh`` they outlive the next run, on a GPU too."""
        values = self.values
        if self.schedules:
            now = [schedule(clock) for schedule in self.schedules]  # type: ignore[arg-type]
            values = torch.tensor(now, dtype=torch.float64).to(values.device, non_blocking=True)
        inputs = [*self.fixed, values, *tensors, *self.others]
        with torch.no_grad():
            run = self.module if self.replay is None else self.replay
            outputs = list(run(*inputs))
            if self.replay is not None and fresh:
                outputs = [each.clone() for each in outputs]
        leaves = [tensors[each] if isinstance(each, int) else each for each in self.wanted]
        outputs = self._settled(outputs, inputs, leaves)
        first = len(outputs) - sum(self.has)
        gradient_outputs = iter(outputs[first:])
        gradients = [next(gradient_outputs) if has else None for has in self.has]
        inside = self.finite == "inside"
        total: Any = outputs[first - 1] if inside else None
        if self.finite == "after":
            total = sum(each.sum().item() for each in (outputs[0], *outputs[first:]))
        return Result(outputs[0], tuple(outputs[1 : first - inside]), leaves, gradients, total)

    def _settled(self, outputs: list[Tensor], inputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
        """Copy outputs that are inputs, and gradients whose strides are not their leaf's."""
        if self.copied is None:
            places = {each.untyped_storage().data_ptr() for each in inputs if each.layout == torch.strided}
            having = [leaf for leaf, has in zip(leaves, self.has, strict=True) if has]
            first = len(outputs) - len(having)
            self.copied = {}
            for i, output in enumerate(outputs):
                leaf = having[i - first] if i >= first else output
                if output.untyped_storage().data_ptr() in places or output.stride() != leaf.stride():
                    self.copied[i] = leaf.stride()
        for i, stride in self.copied.items():
            outputs[i] = torch.empty_strided(
                outputs[i].shape, stride, dtype=outputs[i].dtype, device=outputs[i].device
            ).copy_(outputs[i])
        return outputs


class _Replay:
    """A function of tensors on a GPU, recorded once as a CUDA graph: one launch for all its kernels.

    Parameters and buffers (``fixed``, the first inputs) are read in place, arguments are copied to the
    recorded addresses. The next run overwrites the outputs. Draws continue torch's generator.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], fixed: list[Tensor]) -> None:
        self.function, self.fixed = function, fixed
        self.places = [tensor.data_ptr() for tensor in fixed]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refused = False
        self.arguments: list[Tensor] = []
        self.outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.graph is None and not self.refused:
            try:
                self._record(inputs)
            except RuntimeError:  # an operation that cannot be recorded, such as reading a value
                torch.cuda.synchronize()
                self.refused, self.graph = True, None
        if self.graph is None:
            return self.function(*inputs)
        for place, argument in zip(self.arguments, inputs[len(self.fixed) :], strict=True):
            if place is not argument:
                place.copy_(argument)
        self.graph.replay()
        return self.outputs

    def moved(self) -> bool:
        """Whether a parameter or a buffer has another address."""
        return self.places != [tensor.data_ptr() for tensor in self.fixed]

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        kept, state = [tensor.clone() for tensor in self.fixed], torch.cuda.get_rng_state()
        self.arguments = [tensor.clone() for tensor in inputs[len(self.fixed) :]]
        arguments = [*self.fixed, *self.arguments]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries initialise in their first runs
            for _ in range(3):
                self.function(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.set_rng_state(state)
        for tensor, before in zip(self.fixed, kept, strict=True):
            tensor.copy_(before)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.function(*arguments)


def inductor(module: Any, example: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Compile by torch's inductor, with the random numbers of eager torch."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch._inductor.compile(module, [*example], options={"fallback_random": True})
    except Exception as error:
        kind = type(error).__name__ + type(error.__cause__).__name__ + str(error)[:500]
        if "InvalidCxxCompiler" in kind or "No working C++ compiler" in kind:
            raise NotCapturableError(
                "there is no C++ compiler: install g++ (on Debian and Ubuntu, apt install g++)"
            ) from error
        if "TritonMissing" in kind:
            raise NotCapturableError("there is no Triton: pip install triton") from error
        raise NotCapturableError(
            f"torch's compiler fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
