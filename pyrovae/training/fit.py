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
from pyrovae.data.batches import batches, explain_dead_workers, local_batches
from pyrovae.data.rows import Data, identity_of, loader_generators, move_to_gpu, num_rows
from pyrovae.objectives.base import Objective
from pyrovae.training.callbacks import as_callbacks
from pyrovae.training.checkpointing import CheckpointPolicy, keeping
from pyrovae.training.data_parallel import SharedLoss, weighing
from pyrovae.training.history import History
from pyrovae.training.identity import describe_settings, environment
from pyrovae.training.loggers import Logger
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.optimisers import MakeOptimizer, MakeScheduler, make_optimizer, make_scheduler
from pyrovae.training.state import Training, TrainState
from pyrovae.training.step import TrainStep

__all__ = ["History", "Training", "fit"]

FROZEN = ".* was not registered in the param store because requires_grad=False"
"""Pyro's warning of what is frozen on purpose: a guide trained for a model that stands still."""


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

    The loss is Pyro's, a sum over the batch, so a step is that of ``SVI.step`` with the same
    optimiser. Noise, order and redrawn values come from streams keyed by the seed and the epoch:
    the same seed gives the same run, and torch's own random state is left as it was.

    With ``resume`` the run is kept in a folder, and goes on from there if it has begun there: after a kill,
    a Ctrl-C or a SIGTERM it ends with the very bits of a run that was left alone, on the same device, with
    the same torch and number of threads. Kept are
    weights, buffers, numbers that modules and loss hold as attributes, the optimiser, its schedule, the
    random streams, what is done of the epoch, the history and what callbacks remember; not other Python
    state of one's own modules and losses, nor what is drawn from other generators than torch's. A
    DataLoader's order is gone through again, and thrown away, up to where it was. A run that is finished is
    returned at once; with more ``num_epochs`` it goes on, as if it had been given these, unless schedules
    were made for fewer. One of other data, parts, losses or settings is refused.

    In a process group of torch.distributed (:func:`pyrovae.distributed.join`) every process calls it alike,
    and each takes its part of every batch: the gradient is that of the whole batch, an uneven one too, and so
    are history, guards and validation. Noise is each process's own, by seed, step and rank. The first one
    writes, and starts all with its weights. A run goes on with another number of processes: over the same
    batches, with other noise. Layers that normalise by the batch see their process's part, and keep the first
    one's running statistics; terms of a loss that are of a whole batch are refused.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (arguments of the programs), a Dataset
            or a DataLoader.
        loss: A Pyro ELBO; ``Trace_ELBO()`` if not given.
        optimizer: A torch optimiser that holds every parameter, or a function that makes one of the
            list of parameters; fused ``Adam`` with learning rate 1e-3 if not given.
        scheduler: A function that makes one of torch's learning-rate schedulers of the optimiser; it steps
            after each epoch, and where it waits for a plateau is told minus the validation ELBO.
        clip: Norm that the gradients, all together, are scaled down to where theirs is larger.
        num_epochs: Passes over the data.
        batch_size: Rows per step, of all processes together; the last batch of an epoch may be smaller.
        validation: Data for the plain ELBO after each epoch, modules then in evaluation mode.
        callbacks: Called after each epoch; one that returns True ends the training. More that they can
            do: :mod:`pyrovae.callbacks`. Loggers are among them, such as ``loggers.TensorBoard(folder)``.
        seed: Of the streams.
        device: Where modules and batches go; where they are if not given. On a GPU, tensors and splits
            that fit stay there, and what a split redraws is drawn there.
        compile: Take the steps through a compiled graph, as :func:`pyrovae.compile` makes it: the same
            losses and gradients on the same noise, up to rounding. Compiling takes seconds, and pays in
            runs of thousands of steps. Python code in the programs then runs at the capture alone. A program
            that cannot be a graph runs eagerly, with a warning that says why.
        precision: "bfloat16" multiplies so in the networks' layers, while training, and "tf32" on a GPU;
            densities, parameters and the sums stay as they are.
        on_failure: What to do about a loss or a gradient that is not finite, and about an epoch whose loss
            is worse than the first batch's by a hundred times its size: "raise", or "rollback", to the
            start of the epoch (or where this process took it up) with half the learning rate, three times
            at most, with a warning each. A run that raised may go on with it.
        resume: Folder to keep the run in and to go on from.
        checkpoint_every: Seconds after which it is kept there amid an epoch. At an epoch's end it is
            kept more often, as far as that takes a twentieth of the time; and always at the end.
        progress: Show a progress bar on standard error; where that is no terminal, a line now and then.

    Returns:
        The history, per epoch and per datum.

    Raises:
        ValueError: No trainable parameter, or one the optimizer does not hold; no rows; NaN in the
            data (its row is named); a folder that holds another run (the differences are listed), or no
            checkpoint that is whole.
        FloatingPointError: The loss or a gradient became NaN or infinite; the parameters are those
            before the step. Or the training diverges.
        OSError: The folder cannot be written, or another process is at work in it.
        ConnectionError: Another process is gone, or does not answer within the group's time.
        KeyboardInterrupt: Of Ctrl-C; with ``resume``, once the step is finished and kept, and of a second
            Ctrl-C at once. SIGTERM likewise raises SystemExit.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> vae = pv.VAE(
        ...     priors.StandardNormal(2),
        ...     likelihoods.Bernoulli(networks.MLP(2, 9)),
        ...     guides.Normal(networks.MLP(9, 4)),
        ... )
        >>> history = pv.fit(vae.model, vae.guide, torch.eye(9), num_epochs=3, progress=False)
        >>> len(history.elbo)
        3
    """
    check_count("num_epochs", num_epochs)
    check_count("batch_size", batch_size)
    check_positive("fit: clip", 1.0 if clip is None else clip)
    if on_failure not in ("raise", "rollback"):
        raise ValueError(f"fit: on_failure is {on_failure!r}: 'raise' or 'rollback'")
    callbacks, where = as_callbacks(callbacks), distributed.world()
    modules = modules_of(model, guide, device)
    distributed.refuse_sharded("fit", modules)
    distributed.tell_of_no_group("fit")
    if isinstance(loss, Compiled):
        loss, compile = loss.elbo, True
    meter = TrackedLoss(model, guide, loss if loss is not None else Trace_ELBO())
    num_rows(data)
    said = {
        "is": "fit",  # so that a setting of a later version is no difference
        "data": None,
        "validation": None,
        "batch_size": batch_size,
        "seed": seed,
        "loss": describe_settings(meter.objective) if resume is not None or where.size > 1 else None,
        "precision": precision,
        "compile": compile,
        "clip": clip,
    }
    distributed.check_same_settings("fit", said | {"rows": num_rows(data), "num_epochs": num_epochs})
    with keeping(resume, checkpoint_every) as saver:
        with distributed.collective():
            given = data
            data, checked = move_to_gpu(data, device)
            # As many rows as a process has at most: it may have none.
            most = -(-batch_size // where.size)
            first = next(batches(data, most, "first batch", device=device))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", FROZEN)
                parameters = meter.parameters(first)
            optimizer = make_optimizer(optimizer, parameters, meter)
            schedule = make_scheduler(scheduler, optimizer)
        if isinstance(loss, Objective):
            loss.clock = Clock()  # the look for parameters was no step
        steps = len(data) if isinstance(data, DataLoader) else -(-num_rows(data) // batch_size)
        interrupts = None if saver is None else saver.interrupts
        shared = SharedLoss(meter, parameters, interrupts) if where.size > 1 else None
        stepper = TrainStep(
            meter,
            optimizer,
            parameters,
            compile=compile,
            precision=precision,
            clip=clip,
            shared=shared,
        )
        course = TrainState(
            model,
            guide,
            meter=meter,
            parameters=parameters,
            optimizer=optimizer,
            scheduler=schedule,
            callbacks=callbacks,
            stepper=stepper,
            generators=loader_generators(data, validation) if saver or on_failure == "rollback" else [],
        )
        if saver is not None:
            with distributed.collective():
                said["data"] = identity_of(given)
                said["validation"] = None if validation is None else identity_of(validation)
                place = environment(parameters[0].device) | where.told
                saver.take_up(course, said | course.settings(), place, num_epochs)
        done = course.epoch * steps + course.step
        bar = progress_bar(num_epochs * steps, "train", show=progress and where.rank == 0, initial=done)
        stepper.say = bar.set_description

        def drawn() -> Iterator[tuple[tuple[Tensor, ...], int]]:
            """What is left of the epoch: this process's part of each batch, and the rows of all."""
            parts = local_batches(
                data,
                batch_size,
                "train",
                seed,
                course.epoch,
                rank=where.rank,
                size=where.size,
                shuffle=True,
                device=device,
                checked=checked,
                start=course.step,
            )
            return parts if shared is None else shared.fetched(parts)

        def validated() -> dict[str, float] | None:
            if validation is None:
                return {}
            with mode(modules, training=False):
                return _validate(meter, validation, batch_size, seed, device, saver)

        with warnings.catch_warnings(), mode(modules, training=True), products_in(precision), bar:
            warnings.filterwarnings("ignore", FROZEN)
            warnings.filterwarnings("ignore", "Encountered (NaN|.?inf)")  # Pyro's: fit raises in its place
            if where.rank > 0:
                warnings.simplefilter("ignore")  # the first one gives them
            while course.epoch < num_epochs and not course.stopped:
                course.begin_epoch(remember=on_failure == "rollback")
                try:
                    with explain_dead_workers(data, validation):
                        _run_epoch(course, seed, drawn, validated, callbacks, saver, bar)
                except FloatingPointError as error:
                    course.roll_back(error)
                    bar.update(course.epoch * steps + course.step - bar.n)
                    continue
                if saver is not None:
                    saver.after_epoch(course, last=course.stopped or course.epoch == num_epochs)
        return course.history


def _run_epoch(
    course: TrainState,
    seed: int,
    drawn: Callable[[], Iterator[tuple[tuple[Tensor, ...], int]]],
    validated: Callable[[], dict[str, float] | None],
    callbacks: list[Callable[[Training], bool | None]],
    saver: CheckpointPolicy | None,
    bar: Any,
) -> None:
    """Take the steps that are left of an epoch, validate, and ask the callbacks."""
    at_steps = [callback.step for callback in callbacks if hasattr(callback, "step")]
    with stream("train", seed, course.epoch):
        course.take_up_noise()
        for i, (batch, rows) in enumerate(drawn()):
            where = f"epoch {course.epoch}, batch {course.step}"
            with distributed.own_stream("train", seed, course.epoch, course.step):
                sums = course.stepper.step(batch, where, check=i == 0, rows=rows)
            course.count(sums, rows)
            for at_step in at_steps:
                at_step(course.training)
            if i % 10 == 0:
                bar.set_postfix_str(f"epoch {course.epoch + 1}, ELBO {course.elbo:.2f}", refresh=False)
            bar.update()
            if saver is not None:
                saver.after_step(course)
        course.stepper.finish()
    means = course.means(f"epoch {course.epoch}")
    with ExitStack() as averages:
        for callback in callbacks:
            if hasattr(callback, "applied"):
                averages.enter_context(callback.applied())
        found = validated()
        if found is not None:
            course.end_epoch(means | found)
            wishes = [callback(course.training) for callback in callbacks]
    if found is None:
        saver.leave(course)  # type: ignore[union-attr]
    course.stopped = bool(distributed.total(torch.tensor(float(True in wishes))))
    course.next_epoch()


def _validate(
    meter: TrackedLoss,
    data: Data,
    batch_size: int,
    seed: int,
    device: torch.device | str | None,
    saver: CheckpointPolicy | None,
) -> dict[str, float] | None:
    """The plain ELBO and its parts, with the same noise at every epoch; None where a signal came."""
    where, interrupts = distributed.world(), None if saver is None else saver.interrupts
    totals: Tensor | float = 0.0
    rows = 0
    with stream("validate", seed), distributed.collective():
        drawn = local_batches(
            data, batch_size, "validate", seed, rank=where.rank, size=where.size, device=device
        )
        for step, (batch, whole) in enumerate(drawn):
            if interrupts is not None and interrupts.seen is not None:
                break
            rows += whole
            if not len(batch[0]):
                continue
            own = distributed.own_stream("validate", seed, step)
            with plain_errors("validation"), own, weighing(meter.plates, len(batch[0]), whole):
                totals = totals + meter.sums(meter.value(*batch))
    found = torch.zeros(6, dtype=torch.float64)
    found[:4] = totals
    found[4:] = torch.tensor((False, False) if interrupts is None else interrupts.flags)
    found = distributed.total(found)
    if interrupts is not None:
        interrupts.agree(*(found[4:] > 0).tolist())
        if interrupts.caught is not None:
            return None
    _, bound, reconstruction, kl = (found[:4] / rows).tolist()
    return {"validation_elbo": bound, "validation_reconstruction": reconstruction, "validation_kl": kl}
