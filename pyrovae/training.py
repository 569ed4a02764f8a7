"""One training loop for every model, guide and loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae.batching import Data, batches, num_rows
from pyrovae.importance import elbo, weigh
from pyrovae.programs import Program, Site, inspect, log_density, mode, modules_of, plain_errors, sample_sites
from pyrovae.reductions import check_count
from pyrovae.streams import generator, stream

__all__ = ["History", "Training", "fit"]

ORDER, NOISE, VALUES = range(3)  # what a stream of an epoch is for


@dataclass
class History:
    """What each epoch came to, a list per quantity; the quantities are nats per datum.

    The training columns are means over the epoch's batches, each at the parameters it met; the
    validation columns are the plain ELBO, one draw per datum, at the epoch's end.
    ``elbo = reconstruction - kl``: E_q[log p(x|z)] less KL(q || p(z)), both as drawn.
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
        optimizer: A torch optimiser, or what makes one of a list of parameters; ``Adam`` with
            learning rate 1e-3 if not given.
        num_epochs: Passes over the data.
        batch_size: Rows per step; the last batch of an epoch may be smaller.
        validation: Data for the plain ELBO after each epoch.
        callbacks: Called after each epoch; one that returns True ends the training.
        seed: Of the streams.
        device: Where modules and batches go; where they are if not given.
        progress: Show a progress bar on standard error.

    Returns:
        The history, per epoch and per datum.

    Raises:
        ValueError: No trainable parameter, no rows, NaN in the data (its row is named).
        FloatingPointError: The loss became NaN or infinite; the parameters are those before the
            step.

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
    objective = loss if loss is not None else Trace_ELBO()
    meter = _Meter(model, guide, objective)
    (first,) = islice(batches(data, batch_size, device=device), 1)
    parameters = _parameters(meter.loss, first)
    optimizer = _optimizer(optimizer, parameters)
    history, started = History(), time.perf_counter()
    steps = len(data) if isinstance(data, torch.utils.data.DataLoader) else -(-num_rows(data) // batch_size)
    with mode(modules, training=True), tqdm(total=num_epochs * steps, disable=not progress) as bar:
        bar.set_description("train")
        for epoch in range(num_epochs):
            _reseed(data, seed, epoch, VALUES)
            order = generator(seed, epoch, ORDER)
            totals, rows = torch.zeros(4, dtype=torch.float64), 0
            with stream(seed, epoch, NOISE):
                for step, batch in enumerate(batches(data, batch_size, order=order, device=device)):
                    totals += _step(meter, optimizer, batch, where=f"epoch {epoch}, batch {step}")
                    rows += len(batch[0])
                    if step % 10 == 0:
                        bar.set_postfix_str(f"ELBO {totals[1] / rows:.2f}", refresh=False)
                    bar.update()
            loss_value, elbo_value, reconstruction, kl = (totals / rows).tolist()
            history.append(
                epoch=epoch,
                loss=loss_value,
                elbo=elbo_value,
                reconstruction=reconstruction,
                kl=kl,
                learning_rate=optimizer.param_groups[0]["lr"],
            )
            if validation is not None:
                with mode(modules, training=False):
                    history.append(**_validate(model, guide, validation, batch_size, seed, device))
            history.append(seconds=time.perf_counter() - started)
            state = Training(epoch, history, model, guide, optimizer)
            wishes = [callback(state) for callback in callbacks]
            if any(wishes):
                break
    return history


def _step(meter: _Meter, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...], where: str) -> Tensor:
    """One optimiser step; the batch's sums of loss, ELBO, reconstruction and KL."""
    optimizer.zero_grad()
    meter.clear()
    with plain_errors(where):
        loss = meter.loss(*batch)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"fit: the loss is {loss.item()} at {where}: {meter.blame()}; "
            f"try a smaller learning rate, or look at the data of this batch"
        )
    loss.backward()
    optimizer.step()
    elbo_sum, reconstruction = meter.read(loss)
    return torch.stack([loss.detach(), elbo_sum, reconstruction, reconstruction - elbo_sum]).double().cpu()


class _Meter:
    """A loss that also tells the ELBO and its parts, from the sites its own run went through."""

    def __init__(self, model: Program, guide: Program, objective: ELBO) -> None:
        self.model, self.guide = _Recorded(model), _Recorded(guide)
        self.particles = getattr(objective, "num_particles", 1)
        self.loss: nn.Module = objective(self.model, self.guide)

    def clear(self) -> None:
        self.model.traces.clear()
        self.guide.traces.clear()

    @torch.no_grad()
    def read(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the batch of the plain ELBO and of E_q[log p(x|z)]; nan under enumeration."""
        if any(site["infer"].get("_enumerate_dim") is not None for site in self.model.sites()):
            return -loss.detach(), torch.full_like(loss, torch.nan)
        zero = torch.zeros_like(loss)
        observed = sum((log_density(s).sum() for s in self.model.sites() if s["is_observed"]), zero)
        latent = sum((log_density(s).sum() for s in self.model.sites() if not s["is_observed"]), zero)
        entropy = -sum((log_density(site).sum() for site in self.guide.sites()), zero)
        return (observed + latent + entropy) / self.particles, observed / self.particles

    def blame(self) -> str:
        """The first site with a log density that is not finite, in the order of execution."""
        for program, kind in ((self.guide, "guide"), (self.model, "model")):
            for site in program.sites():
                if not log_density(site).isfinite().all():
                    return f"site '{site['name']}' of the {kind} has no finite log density"
        return "the sites are finite, their sum is not"


class _Recorded(nn.Module):
    """A program that keeps the traces of its runs, and its parameters in sight of the optimiser."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.traces: list[poutine.Trace] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as tracer:
            result = self.program(*args, **kwargs)
        self.traces.append(tracer.trace)
        return result

    def sites(self) -> Iterator[Site]:
        for trace in self.traces:
            yield from sample_sites(trace)


def _parameters(loss: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """Every parameter a step moves: of the modules, and those the programs meet or make as they run."""
    with stream(0), poutine.trace(param_only=True) as capture, plain_errors():
        loss(*batch)
    values: list[Any] = [site["value"] for site in capture.trace.nodes.values()]
    met = [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
    unique: dict[int, Tensor] = {id(parameter): parameter for parameter in (*loss.parameters(), *met)}
    parameters = [parameter for parameter in unique.values() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "fit: no trainable parameter in model or guide: pass modules that carry their parameters "
            "(vae.model, not a handler or a method around it)"
        )
    return parameters


def _optimizer(
    optimizer: torch.optim.Optimizer | Callable[[list[Tensor]], torch.optim.Optimizer] | None,
    parameters: list[Tensor],
) -> torch.optim.Optimizer:
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=1e-3)
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(parameters)


@torch.no_grad()
def _validate(
    model: Program,
    guide: Program,
    data: Data,
    batch_size: int,
    seed: int,
    device: torch.device | str | None,
) -> dict[str, float]:
    """The plain ELBO and its parts, one draw per datum, with the same noise at every epoch."""
    totals, rows = torch.zeros(2, dtype=torch.float64), 0
    _reseed(data, seed, VALUES)
    with stream(seed, NOISE):
        for batch in batches(data, batch_size, device=device):
            structure = inspect(model, guide, *batch)
            for weights, log_likelihood in weigh(model, guide, batch, {}, structure, num_samples=1):
                totals += torch.stack([elbo(weights).sum(), log_likelihood.sum()]).cpu()
            rows += len(batch[0])
    bound, reconstruction = (totals / rows).tolist()
    return {
        "validation_elbo": bound,
        "validation_reconstruction": reconstruction,
        "validation_kl": reconstruction - bound,
    }


def _reseed(data: Data, *key: int) -> None:
    if hasattr(data, "reseed"):
        data.reseed(*key)
