r"""A batch shared among processes: the loss of each one's rows, and the gradient of the whole batch.

.. math:: L = \sum_r L_r, \qquad \nabla L = \frac1W \sum_{r=1}^W \nabla (W L_r)

DistributedDataParallel takes the mean on the right. What a plate says that subsamples, N/B, is of the whole
batch, and what lies outside the plate of the data counts once and not once for each process. A process
without rows takes part with a loss of nought.
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

__all__ = ["SharedLoss", "weighing"]

Value = TypeVar("Value")


class SharedLoss:
    """What the processes do together in a step.

    Args:
        meter: The loss.
        parameters: What is trained; the first process's values go to the others.
        interrupts: Signals, which all have to notice at the same step.
    """

    def __init__(self, meter: TrackedLoss, parameters: list[Tensor], interrupts: Interrupts | None) -> None:
        self.meter, self.interrupts = meter, interrupts
        device = parameters[0].device
        share_buffers(meter.module)
        with translate_errors():
            self.parallel = DistributedDataParallel(
                _Holding(parameters),
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,
            )

    def run(self, compute: Callable[[], tuple[Tensor, Tensor]], *, rows: int) -> tuple[Tensor, Tensor]:
        """Loss, to be differentiated, and sums of this process's rows."""
        return self.parallel(compute if rows else self._nothing)

    def settle(self, sums: Tensor | None, error: Exception | None) -> Tensor:
        """The sums of all; an error of one is raised on all, and a signal to one is one to all.

        Args:
            sums: Of this process's rows.
            error: Of its run.
        """
        here = torch.zeros(7, dtype=torch.float64)
        if sums is not None:
            here[:4] = sums
        flags = (False, False) if self.interrupts is None else self.interrupts.flags
        here[4:] = torch.tensor([error is not None, *flags])
        found = total(here)
        if found[4]:
            raise_together(error)
        if self.interrupts is not None:
            self.interrupts.agree(*(found[5:] > 0).tolist())
        return found[:4] if sums is None else found[:4].to(sums)

    def backward(self, loss: Tensor) -> None:
        """The gradient of the whole batch, into every parameter that it depends on, on every process.

        Buffers, such as running statistics, become the first process's.
        """
        with translate_errors():
            (world().size * loss).backward()
        share_buffers(self.meter.module)

    def fetched(self, batches: Iterator[Value]) -> Iterator[Value]:
        """The batches; where one process cannot make its part, all have its error."""
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

    def _nothing(self) -> tuple[Tensor, Tensor]:
        """Of no rows: a gradient of nought for what the others have one of."""
        loss = sum((0.0 * leaf.sum() for leaf in self.meter.reached), torch.zeros(()))
        return torch.as_tensor(loss), torch.zeros(4, dtype=torch.float64)


class _Holding(nn.Module):
    """The parameters that are trained, for DDP to find: those of no module too, and no buffers.

    Which DDP would send round before each run, when a process that failed to make its batch is not there.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__()
        # Never used: which of the others have no gradient may change from step to step, so DDP looks each
        # time, and where it finds none it writes a warning from C++.
        self.spare = nn.Parameter(torch.zeros_like(parameters[0].detach().flatten()[:1]))
        for i, each in enumerate(parameters):  # in a closure, or in Pyro's store: a leaf, and no nn.Parameter
            self._parameters[f"parameter_{i}"] = each  # type: ignore[assignment]

    def forward(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The loss and the sums of the rows here."""
        return compute()


@contextmanager
def weighing(plates: frozenset[str], rows: int, whole: int) -> Iterator[None]:
    """Inside, programs run on a part of a batch say what adds up to the loss of the whole.

    Args:
        plates: Names of the plates of the data.
        rows: Of the part.
        whole: Of the batch.
    """
    sharers = min(world().size, whole)
    if sharers == 1:
        yield
        return
    token = in_parts.set(True)
    try:
        with _Weighing(plates, rows / whole, 1 / sharers):
            yield
    finally:
        in_parts.reset(token)


class _Weighing(Messenger):
    """N/B of the whole batch in place of the part's, and what no datum has divided among the processes."""

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
