"""One training loop for every model, guide and loss."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from pyrovae.compiler.loss import Compiled
from pyrovae.core import distributed
from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.clock import Clock
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.precision import Precision, products_in
from pyrovae.core.programs import plain_errors
from pyrovae.core.progress import progress_bar
from pyrovae.core.random import stream
from pyrovae.core.signals import Interrupts
from pyrovae.data.batches import batches, explain_dead_workers, local_batches
from pyrovae.data.rows import Data, identity_of, loader_generators, move_to_gpu, num_rows
from pyrovae.objectives.base import Objective
from pyrovae.training.callbacks import as_callbacks
from pyrovae.training.checkpointing import CheckpointPolicy, checkpoint_policy
from pyrovae.training.data_parallel import SharedLoss, scaled_to_batch
from pyrovae.training.history import History
from pyrovae.training.identity import describe_settings, environment
from pyrovae.training.loggers import Logger
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.optimisers import MakeOptimizer, MakeScheduler, make_optimizer, make_scheduler
from pyrovae.training.state import Training, TrainState, settings_of
from pyrovae.training.step import TrainStep

__all__ = ["History", "Training", "fit"]

FROZEN = ".* was not registered in the param store because requires_grad=False"
"""Pyro's warning about frozen modules, such as the model when only its guide is trained."""


def fit(
    model: Program,
    guide: Program,
    data: Data,
    *,
    loss: ELBO | None = None,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    clip: float | None = None,
    num_epochs: int,
    batch_size: int = 128,
    validation: Data | None = None,
    callbacks: Iterable[Callable[[Training], bool | None] | Logger] = (),
    seed: int = 0,
    device: torch.device | str | None = None,
    compile: bool = False,
    precision: Precision = "float32",
    on_failure: Literal["raise", "rollback"] = "raise",
    resume: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
) -> History:
    """Train a pair of Pyro programs: each step lowers the loss of one batch.

    The loss is Pyro's, a sum over the batch, so a step is that of ``SVI.step``. All noise comes from streams
    keyed by the seed: the same seed gives the same bits, and torch's random state is left alone. In a process
    group (:func:`pyrovae.distributed.join`) each process takes its part of every batch.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (the arguments), a Dataset or a DataLoader.
        loss: A Pyro ELBO; ``Trace_ELBO()`` by default.
        optimizer: A torch optimiser, or a function of the parameters that makes one; fused ``Adam(lr=1e-3)``.
        scheduler: A function of the optimiser that makes a torch scheduler, stepped after each epoch; one
            that waits for a plateau gets minus the validation ELBO.
        clip: Largest norm of the gradients, all together.
        num_epochs: Passes over the data.
        batch_size: Rows per step, of all processes together; the last batch of an epoch may be smaller.
        validation: Data for the plain ELBO after each epoch, with modules in evaluation mode.
        callbacks: Loggers, and functions called after each epoch: True stops. See :mod:`pyrovae.callbacks`.
        seed: Seed of the noise and of the order of the rows.
        device: Device of modules and batches; data that fit stay on a GPU.
        compile: Run the steps as a compiled graph (:func:`pyrovae.compile`): the same losses and gradients up
            to rounding. A program that cannot be a graph runs eagerly, with a warning that says why.
        precision: Precision of the networks' products: "float32", "bfloat16" or, on a GPU, "tf32".
        on_failure: "raise", or "rollback" to the epoch's start with half the learning rate, with a warning,
            three times at most. A failure is a FloatingPointError as below.
        resume: Folder of checkpoints, in which an interrupted run goes on to the bits of an uninterrupted
            one (on the same device, torch and number of threads), and a finished one to more epochs.
        checkpoint_every: Most seconds between checkpoints within an epoch.
        progress: Show a progress bar on standard error.

    Returns:
        The history, per epoch and per datum.

    Raises:
        ValueError: No trainable parameter, or one the optimizer does not hold; no rows; NaN in the data (its
            row is named); a folder of another run (the differences are listed) or of damaged checkpoints.
        FloatingPointError: Loss or gradient is not finite (the parameters are those before the step), or an
            epoch's loss is worse than the first batch's by a hundred times its size.
        OSError: The folder cannot be written, or another process uses it.
        ConnectionError: Another process of the group is gone.
        KeyboardInterrupt: After Ctrl-C (SystemExit after SIGTERM); with ``resume`` once the step is saved.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q, p = guides.Normal(networks.MLP(9, 4)), likelihoods.Bernoulli(networks.MLP(2, 9))
        >>> vae = pv.VAE(priors.StandardNormal(2), p, q)
        >>> len(pv.fit(vae.model, vae.guide, torch.eye(9), num_epochs=3, progress=False))
        3
    """
    _check_arguments(num_epochs, batch_size, clip, on_failure)
    if isinstance(loss, Compiled):
        loss, compile = loss.elbo, True
    modules = modules_of(model, guide, device)
    distributed.refuse_sharded("fit", modules)
    distributed.warn_without_group("fit")
    tracked = TrackedLoss(model, guide, Trace_ELBO() if loss is None else loss)
    source = _Source(data, validation, batch_size, seed, device)
    settings: dict[str, Any] = {"is": "fit", "data": None, "validation": None}  # in order of messages
    settings |= {"batch_size": batch_size, "seed": seed}
    settings |= {"precision": precision, "compile": compile, "clip": clip}
    if resume is not None or distributed.world().size > 1:
        settings["loss"] = describe_settings(tracked.objective)
    distributed.check_same_settings("fit", settings | {"rows": num_rows(data), "num_epochs": num_epochs})
    with checkpoint_policy(resume, checkpoint_every) as policy:
        interrupts = None if policy is None else policy.interrupts
        stepper, schedule = _prepare(
            tracked, source, interrupts, optimizer, scheduler, compile=compile, precision=precision, clip=clip
        )
        resumable = policy is not None or on_failure == "rollback"
        generators = loader_generators(data, validation) if resumable else []
        state = TrainState(stepper, schedule, as_callbacks(callbacks), generators)
        if policy is not None:
            _resume(state, source, policy, settings, num_epochs)
        _train(state, source, policy, num_epochs, rollback=on_failure == "rollback", progress=progress)
    return state.history


def _check_arguments(num_epochs: int, batch_size: int, clip: float | None, on_failure: str) -> None:
    check_count("num_epochs", num_epochs)
    check_count("batch_size", batch_size)
    check_positive("fit: clip", 1.0 if clip is None else clip)
    if on_failure not in ("raise", "rollback"):
        raise ValueError(f"fit: on_failure is {on_failure!r}: 'raise' or 'rollback'")


class _Source:
    """The training and validation data, as this process's share of each batch."""

    def __init__(
        self,
        data: Data,
        validation: Data | None,
        batch_size: int,
        seed: int,
        device: torch.device | str | None,
    ) -> None:
        self.data, self.validation, self.resident, self.checked = data, validation, data, False
        self.batch_size, self.seed, self.device = batch_size, seed, device
        rows = num_rows(data)
        self.steps = len(data) if isinstance(data, DataLoader) else -(-rows // batch_size)  # of an epoch

    def first_batch(self) -> tuple[Tensor, ...]:
        """Move the data to a GPU if they fit, and return a batch of the size that this process will see."""
        self.resident, self.checked = move_to_gpu(self.data, self.device)
        rows = -(-self.batch_size // distributed.world().size)
        return next(batches(self.resident, rows, "first batch", device=self.device))

    def epoch(self, epoch: int, start: int) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """The batches of an epoch from the given step on, each with the number of rows on all processes."""
        return self._local_batches(
            self.resident, "train", epoch, shuffle=True, checked=self.checked, start=start
        )

    def validation_batches(self) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """The validation data in the same order at every epoch."""
        return self._local_batches(self.validation, "validate")

    def _local_batches(self, data: Any, purpose: str, *key: int, **keywords: Any) -> Iterator[Any]:
        where = distributed.world()
        keywords |= {"rank": where.rank, "size": where.size, "device": self.device}
        return local_batches(data, self.batch_size, purpose, self.seed, *key, **keywords)


def _prepare(
    tracked: TrackedLoss,
    source: _Source,
    interrupts: Interrupts | None,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None,
    scheduler: MakeScheduler | None,
    **options: Any,
) -> tuple[TrainStep, LRScheduler | None]:
    """Find the parameters by a first run, and make the optimiser, its schedule and the steps."""
    with distributed.collective():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", FROZEN)
            parameters = tracked.parameters(source.first_batch())
        optimizer = make_optimizer(optimizer, parameters, tracked)
        schedule = make_scheduler(scheduler, optimizer)
    if isinstance(tracked.objective, Objective):
        tracked.objective.clock = Clock()  # the first run was no step
    shared = SharedLoss(tracked, parameters, interrupts) if distributed.world().size > 1 else None
    return TrainStep(tracked, optimizer, parameters, shared=shared, **options), schedule


def _resume(
    state: TrainState, source: _Source, policy: CheckpointPolicy, settings: dict[str, Any], num_epochs: int
) -> None:
    """Continue from the newest checkpoint of the folder, if it has one of the same settings."""
    with distributed.collective():
        settings["data"] = identity_of(source.data)
        settings["validation"] = None if source.validation is None else identity_of(source.validation)
        place = environment(state.device) | distributed.world().settings
        policy.take_up(state, settings | settings_of(state), place, num_epochs)


def _train(
    state: TrainState,
    source: _Source,
    policy: CheckpointPolicy | None,
    num_epochs: int,
    *,
    rollback: bool,
    progress: bool,
) -> None:
    """Train epoch after epoch, with rollback and checkpoints where they are asked for."""
    rank = distributed.world().rank
    done = state.epoch * source.steps + state.step
    bar = progress_bar(num_epochs * source.steps, "train", show=progress and rank == 0, initial=done)
    state.stepper.say = bar.set_description
    precision = products_in(state.stepper.graphs.precision)
    with warnings.catch_warnings(), mode(state.modules, training=True), precision, bar:
        warnings.filterwarnings("ignore", FROZEN)
        warnings.filterwarnings("ignore", "Encountered (NaN|.?inf)")  # Pyro's: fit raises in its place
        if rank > 0:
            warnings.simplefilter("ignore")  # the first process gives them
        while state.epoch < num_epochs and not state.stopped:
            state.begin_epoch(remember=rollback)
            try:
                with explain_dead_workers(source.data, source.validation):
                    _train_epoch(state, source, policy, bar)
            except FloatingPointError as error:
                state.roll_back(error)
                bar.update(state.epoch * source.steps + state.step - bar.n)
                continue
            if policy is not None:
                policy.after_epoch(state, last=state.stopped or state.epoch == num_epochs)


def _train_epoch(state: TrainState, source: _Source, policy: CheckpointPolicy | None, bar: Any) -> None:
    """Take the remaining steps of an epoch, validate, and call the callbacks."""
    each_step = [callback.step for callback in state.callbacks if hasattr(callback, "step")]
    shared, key = state.stepper.shared, ("train", source.seed, state.epoch)
    with stream(*key):
        state.restore_noise()
        remaining = source.epoch(state.epoch, state.step)
        if shared is not None:
            remaining = shared.fetched(remaining)
        for i, (batch, rows) in enumerate(remaining):
            where = f"epoch {state.epoch}, batch {state.step}"
            with distributed.own_stream(*key, state.step):
                sums = state.stepper.step(batch, where, check=i == 0, rows=rows)
            state.count(sums, rows)
            for callback_step in each_step:
                callback_step(state.training)
            if i % 10 == 0:
                bar.set_postfix_str(f"epoch {state.epoch + 1}, ELBO {state.elbo:.2f}", refresh=False)
            bar.update()
            if policy is not None:
                policy.after_step(state)
        state.stepper.finish()
    means = state.means(f"epoch {state.epoch}")
    with ExitStack() as averages:
        for callback in state.callbacks:
            if hasattr(callback, "applied"):
                averages.enter_context(callback.applied())
        validated = _validate(state, source, None if policy is None else policy.interrupts)
        if validated is not None:
            state.end_epoch(means | validated)
            answers = [callback(state.training) for callback in state.callbacks]
    if validated is None:
        policy.leave(state)  # type: ignore[union-attr]
    state.stopped = bool(distributed.total(torch.tensor(float(True in answers))))
    state.next_epoch()


def _validate(state: TrainState, source: _Source, interrupts: Interrupts | None) -> dict[str, float] | None:
    """The plain ELBO and its parts, with the same noise at every epoch; None after a signal."""
    if source.validation is None:
        return {}
    tracked, rows = state.tracked, 0
    sums = torch.zeros(6, dtype=torch.float64)  # loss, ELBO, reconstruction, KL, and two flags of signals
    totals: Tensor | float = 0.0
    with mode(state.modules, training=False), stream("validate", source.seed), distributed.collective():
        for step, (batch, whole) in enumerate(source.validation_batches()):
            if interrupts is not None and interrupts.seen is not None:
                break
            rows += whole
            if not len(batch[0]):
                continue
            own = distributed.own_stream("validate", source.seed, step)
            part = scaled_to_batch(tracked.plates, len(batch[0]), whole)
            with plain_errors("validation"), own, part:
                totals = totals + tracked.sums(tracked.value(*batch))
    sums[:4] = totals
    if interrupts is not None:
        sums[4:] = torch.tensor(interrupts.flags)
    sums = distributed.total(sums)
    if interrupts is not None:
        interrupts.agree(*(sums[4:] > 0).tolist())
        if interrupts.caught is not None:
            return None
    _, bound, reconstruction, kl = (sums[:4] / rows).tolist()
    return {"validation_elbo": bound, "validation_reconstruction": reconstruction, "validation_kl": kl}
