"""One training loop for every model, guide and loss."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pyrovae.batching import Data, batches, num_rows, resident
from pyrovae.compilation import Compiled
from pyrovae.metering import Meter
from pyrovae.objectives.base import Objective
from pyrovae.objectives.draws import Clock
from pyrovae.precision import Precision
from pyrovae.programs import Program, mode, modules_of, plain_errors
from pyrovae.reductions import check_count
from pyrovae.stepping import Compile, Stepper
from pyrovae.streams import stream

__all__ = ["History", "Training", "fit"]

FROZEN = ".* was not registered in the param store because requires_grad=False"
"""Pyro's warning of what is frozen on purpose: a guide trained for a model that stands still."""


@dataclass
class History:
    """What each epoch came to, a list per quantity; the quantities are nats per datum.

    The training columns are means over the epoch's batches, each at the parameters it met; the
    validation columns are of the epoch's end. ``elbo = reconstruction - kl``: E_q[log p(x|z)] less
    KL(q || p(z)), both as drawn and unscaled; ``loss`` is the loss with all its scales. ``seconds``
    count from the start of training, ``compile_seconds`` of them went into compiling: nought where steps
    ran eagerly.
    """

    epoch: list[int] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_elbo: list[float] = field(default_factory=list)
    validation_reconstruction: list[float] = field(default_factory=list)
    validation_kl: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compile_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.epoch)

    def append(self, **row: float) -> None:
        """Add one epoch."""
        for name, value in row.items():
            getattr(self, name).append(value)


@dataclass
class Training:
    """What a callback sees at the end of an epoch."""

    epoch: int
    history: History
    model: Program
    guide: Program
    optimizer: torch.optim.Optimizer


def fit(
    model: Program,
    guide: Program,
    data: Data,
    *,
    loss: ELBO | None = None,
    optimizer: torch.optim.Optimizer | Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    num_epochs: int,
    batch_size: int = 128,
    validation: Data | None = None,
    callbacks: Iterable[Callable[[Training], bool | None]] = (),
    seed: int = 0,
    device: torch.device | str | None = None,
    compile: Compile = "auto",
    precision: Precision = "float32",
    progress: bool = True,
) -> History:
    """Train a pair of Pyro programs: each step lowers the loss of one batch.

    The loss is Pyro's, a sum over the batch, so a step is that of ``SVI.step`` with the same
    optimiser. Noise, order and redrawn values come from streams keyed by the seed and the epoch:
    the same seed gives the same run, and torch's own random state is left as it was.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (arguments of the programs), a Dataset
            or a DataLoader.
        loss: A Pyro ELBO; ``Trace_ELBO()`` if not given.
        optimizer: A torch optimiser that holds every parameter, or a function that makes one of the
            list of parameters; fused ``Adam`` with learning rate 1e-3 if not given.
        num_epochs: Passes over the data.
        batch_size: Rows per step; the last batch of an epoch may be smaller.
        validation: Data for the plain ELBO after each epoch, modules then in evaluation mode.
        callbacks: Called after each epoch; one that returns True ends the training.
        seed: Of the streams.
        device: Where modules and batches go; where they are if not given. On a GPU, tensors and splits
            that fit stay there, and what a split redraws is drawn there.
        compile: Take the steps through a compiled graph, as :func:`pyrovae.compile` makes it: the same
            losses and gradients on the same noise, up to rounding. "auto" does so where the time that it
            saves in the run is more than what compiling takes, by the time of the first steps; a warning
            says why where no graph can be had. Python code in the programs then runs at the capture alone.
        precision: "bfloat16" multiplies so in the networks' layers, while training; densities,
            parameters and the validation stay as they are.
        progress: Show a progress bar on standard error.

    Returns:
        The history, per epoch and per datum.

    Raises:
        ValueError: No trainable parameter, or one the optimizer does not hold; no rows; NaN in the
            data (its row is named).
        FloatingPointError: The loss or a gradient became NaN or infinite; the parameters are those
            before the step.

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
    modules = modules_of(model, guide, device)
    if isinstance(loss, Compiled):
        loss, compile = loss.elbo, True
    meter = Meter(model, guide, loss if loss is not None else Trace_ELBO())
    num_rows(data)
    data, checked = resident(data, device)
    first = next(batches(data, batch_size, "first batch", device=device))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", FROZEN)
        parameters = meter.parameters(first)
    optimizer = _optimizer(optimizer, parameters, meter)
    if isinstance(loss, Objective):
        loss.clock = Clock()  # the look for parameters was no step
    history, started = History(), time.perf_counter()
    steps = len(data) if isinstance(data, DataLoader) else -(-num_rows(data) // batch_size)
    bar = tqdm(total=num_epochs * steps, disable=not progress)
    stepper = Stepper(
        meter,
        optimizer,
        parameters,
        compile=compile,
        precision=precision,
        num_steps=num_epochs * steps,
        say=bar.set_description,
    )
    with warnings.catch_warnings(), mode(modules, training=True), bar:
        warnings.filterwarnings("ignore", FROZEN)
        warnings.filterwarnings("ignore", "Encountered (NaN|.?inf)")  # Pyro's: fit raises in its place
        bar.set_description("train")
        for epoch in range(num_epochs):
            if isinstance(loss, Objective):
                loss.clock = loss.clock._replace(epoch=epoch)
            totals: Tensor | float = 0.0  # where the steps are: looking at them would wait for the device
            rows = 0
            drawn = batches(
                data, batch_size, "train", seed, epoch, shuffle=True, device=device, checked=checked
            )
            with stream("train", seed, epoch):
                for step, batch in enumerate(drawn):
                    where = f"epoch {epoch}, batch {step}"
                    totals = totals + stepper.step(batch, where, check=step == 0)
                    rows += len(batch[0])
                    if step % 10 == 0:
                        bar.set_postfix_str(f"ELBO {totals[1] / rows:.2f}", refresh=False)
                    bar.update()
                stepper.finish()
            means = (totals / rows).tolist()  # type: ignore[union-attr]
            row = dict(zip(("loss", "elbo", "reconstruction", "kl"), means, strict=True))
            if validation is not None:
                with mode(modules, training=False):
                    row |= _validate(meter, validation, batch_size, seed, device)
            rate = float(optimizer.param_groups[0]["lr"])
            history.compile_seconds = stepper.graphs.seconds
            history.append(epoch=epoch, **row, learning_rate=rate, seconds=time.perf_counter() - started)
            state = Training(epoch, history, model, guide, optimizer)
            wishes = [callback(state) for callback in callbacks]
            if True in wishes:
                break
    return history


def _optimizer(
    optimizer: torch.optim.Optimizer | Callable[[list[Tensor]], torch.optim.Optimizer] | None,
    parameters: list[Tensor],
    meter: Meter,
) -> torch.optim.Optimizer:
    """The optimiser, made if it must be, and sure to move every parameter."""
    if isinstance(optimizer, PyroOptim):
        raise TypeError(
            "fit: optimizer is one of Pyro's: pass torch's, such as torch.optim.Adam(vae.parameters()), "
            "or a function of the list of parameters"
        )
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=1e-3, fused=_fusible(parameters))
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer(parameters)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & {id(parameter) for parameter in parameters}:
        raise ValueError("fit: the optimizer holds no parameter of model or guide: make it of theirs")
    for parameter in parameters:
        if id(parameter) not in held:
            raise ValueError(
                f"fit: the optimizer does not hold '{meter.name(parameter)}': add it, or freeze it with "
                f"requires_grad_(False), or pass a function of the list of parameters"
            )
    return optimizer


def _fusible(parameters: list[Tensor]) -> bool:
    """Whether torch has one kernel for the whole step."""
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters)


def _validate(
    meter: Meter, data: Data, batch_size: int, seed: int, device: torch.device | str | None
) -> dict[str, float]:
    """The plain ELBO and its parts, with the same noise at every epoch."""
    totals: Tensor | float = 0.0
    rows = 0
    with stream("validate", seed):
        for batch in batches(data, batch_size, "validate", seed, device=device):
            with plain_errors("validation"):
                totals = totals + meter.sums(meter.value(*batch))
            rows += len(batch[0])
    _, bound, reconstruction, kl = (totals / rows).tolist()  # type: ignore[union-attr]
    return {"validation_elbo": bound, "validation_reconstruction": reconstruction, "validation_kl": kl}
