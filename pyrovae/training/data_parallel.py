r"""A batch shared among processes: each one's loss of its rows, and the gradient of the whole batch.

.. math:: L = \sum_r L_r, \qquad \nabla L = \frac1W \sum_{r=1}^W \nabla (W L_r)

DistributedDataParallel takes the mean on the right. The scale N/B of a subsampling plate is that of the whole
batch, and sites outside the data plate count once, not once for each process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyrovae.core.context import in_parts
from pyrovae.core.distributed import raise_together, share_buffers, total, translate_errors, world
from pyrovae.core.signals import Interrupts
from pyrovae.training.loss import TrackedLoss

__all__ = ["SharedLoss", "scaled_to_batch"]

Value = TypeVar("Value")


class SharedLoss:
    """The part of a step in which all processes work together, and act on signals at the same step.

    All processes start from the first one's parameters.
    """

    def __init__(self, tracked: TrackedLoss, parameters: list[Tensor], interrupts: Interrupts | None) -> None:
        self.tracked, self.interrupts = tracked, interrupts
        device = parameters[0].device
        share_buffers(tracked.module)
        with translate_errors():
            self.parallel = DistributedDataParallel(
                _Parameters(parameters),
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,
            )

    def run(self, compute: Callable[[], tuple[Tensor, Tensor]], *, rows: int) -> tuple[Tensor, Tensor]:
        """The differentiable loss and the sums of this process's rows; zeros where it has none."""
        return self.parallel(compute if rows else self._without_rows)

    def settle(self, sums: Tensor | None, error: Exception | None) -> Tensor:
        """The sums of all processes; an error or a signal of one is raised or noted on all."""
        here = torch.zeros(7, dtype=torch.float64)
        if sums is not None:
            here[:4] = sums
        flags = (False, False) if self.interrupts is None else self.interrupts.flags
        here[4:] = torch.tensor([error is not None, *flags])
        everywhere = total(here)
        if everywhere[4]:
            raise_together(error)
        if self.interrupts is not None:
            self.interrupts.agree(*(everywhere[5:] > 0).tolist())
        return everywhere[:4] if sums is None else everywhere[:4].to(sums)

    def backward(self, loss: Tensor) -> None:
        """The gradient of the whole batch on every process; buffers become the first process's."""
        with translate_errors():
            (world().size * loss).backward()
        share_buffers(self.tracked.module)

    def fetched(self, batches: Iterator[Value]) -> Iterator[Value]:
        """The batches; an error in making one is raised on all processes."""
        while True:
            try:
                batch = next(batches, None)
            except ConnectionError:
                raise
            except Exception as error:
                self.settle(None, error)
                raise
            if batch is None:
                return
            yield batch

    def _without_rows(self) -> tuple[Tensor, Tensor]:
        """A loss of zero, whose gradient is zero for all parameters that the others have gradients of."""
        loss = sum((0.0 * leaf.sum() for leaf in self.tracked.reached), torch.zeros(()))
        return torch.as_tensor(loss), torch.zeros(4, dtype=torch.float64)


class _Parameters(nn.Module):
    """The trained parameters as one module for DDP, those of no module too.

    Buffers are left out: DDP would send them before each run, when a process that failed may be missing.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__()
        # Never used, since DDP warns from C++ if find_unused_parameters finds none in some step.
        self.spare = nn.Parameter(torch.zeros_like(parameters[0].detach().flatten()[:1]))
        for i, each in enumerate(parameters):  # in a closure or in Pyro's store it is no nn.Parameter
            self._parameters[f"parameter_{i}"] = each  # type: ignore[assignment]

    def forward(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return compute()


@contextmanager
def scaled_to_batch(plates: frozenset[str], rows: int, whole: int) -> Iterator[None]:
    """Inside, a loss of ``rows`` of a ``whole`` batch is scaled so that the processes' losses add up to it.

    ``plates`` are the names of the data's plates.
    """
    sharers = min(world().size, whole)
    if sharers == 1:
        yield
        return
    token = in_parts.set(True)
    try:
        with _Scaling(plates, rows / whole, 1 / sharers):
            yield
    finally:
        in_parts.reset(token)


class _Scaling(Messenger):
    """Scale N/B to the whole batch, and divide sites outside the data's plates among the processes."""

    def __init__(self, plates: frozenset[str], share: float, each: float) -> None:
        super().__init__()
        self.plates, self.share, self.each = plates, share, each

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        frame = next((each for each in msg["cond_indep_stack"] if each.name in self.plates), None)
        if frame is None:
            msg["scale"] = msg["scale"] * self.each
            msg["infer"] = {**msg["infer"], "_share": self.each}
        elif frame.full_size not in (None, frame.size):
            msg["scale"] = msg["scale"] * self.share
