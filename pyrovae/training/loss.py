"""Wrap a loss so that each evaluation also reports the ELBO, reconstruction and KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from pyrovae.compiler.watch import leaves_of
from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, log_density, plain_errors, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.supports import check_supports

__all__ = ["TrackedLoss"]


class TrackedLoss:
    """A Pyro ELBO of a pair of programs, which records the traces of its runs."""

    def __init__(self, model: Program, guide: Program, objective: Any) -> None:
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            raise ValueError(
                "the guide is an effect handler: use one that runs by itself, such as AutoNormal"
            )
        if isinstance(objective, type):
            raise TypeError(f"fit: loss is the class {objective.__name__}: pass {objective.__name__}()")
        if not isinstance(objective, ELBO):
            raise TypeError(f"fit: loss is a Pyro ELBO, such as objectives.IWAE(5), got {objective!r}")
        self.model, self.guide = _Recorded(model), _Recorded(guide)
        self.objective: Any = objective
        self.module: nn.Module = objective(self.model, self.guide)
        self.particles = getattr(objective, "num_particles", 1)
        self.runs = 1 if getattr(objective, "vectorize_particles", False) else self.particles
        self.reached: list[Tensor] = []  # the leaves of the first run's loss
        self.plates: frozenset[str] = frozenset()  # names of the data's plates

    def forward(self, *batch: Tensor) -> Tensor:
        """The differentiable loss; where Pyro's loss has no graph its gradients are added already."""
        self._clear()
        if hasattr(self.objective, "differentiable_loss"):
            return self.module(*batch)
        loss = self.objective.loss_and_grads(self.model, self.guide, *batch)
        return torch.as_tensor(loss, dtype=torch.float64)

    @torch.no_grad()
    def value(self, *batch: Tensor) -> Tensor:
        """The loss without gradients."""
        self._clear()
        return torch.as_tensor(self.objective.loss(self.model, self.guide, *batch), dtype=torch.float64)

    @torch.no_grad()
    def sums(self, loss: Tensor) -> Tensor:
        """Sums over the last run's batch: loss, plain ELBO, E_q[log p(x|z)], KL(q || p(z)).

        Under enumeration the last two are nan, and the ELBO is minus the loss.
        """
        loss = _wide(loss.detach())
        enumerated = any(site["infer"].get("_enumerate_dim") is not None for site in self.model.sites())
        if enumerated or len(self.model.traces) != self.runs:  # in parallel, or a run for each value
            unknown = torch.full_like(loss, torch.nan)
            return torch.stack([loss, -loss, unknown, unknown])
        observed = prior = guide = torch.zeros_like(loss)
        for site in self.model.sites():
            if site["is_observed"]:
                observed = observed + _wide(_share(site))
            else:
                prior = prior + _wide(_share(site))
        for site in self.guide.sites(self.runs):
            guide = guide + _wide(_share(site))
        bound = observed + prior - guide
        parts = (part / self.particles for part in (bound, observed, guide - prior))
        return torch.stack([loss.to(bound.device), *parts])  # a loss that was a number is on the CPU

    def parameters(self, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """Every trainable parameter: of the modules, of Pyro's store, or a leaf of the loss."""
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        self.model.finished = self._check_supports  # before the loss asks for a density
        with stream("first run"), poutine.trace(param_only=True) as capture, plain_errors():
            loss = self.forward(*batch)
        self.model.finished = None
        self.reached = leaves_of(loss) or [each for each in self.module.parameters() if each.grad is not None]
        self.plates = self._plates(len(batch[0]))
        self.module.zero_grad()
        if self.model.traces and not any(site["is_observed"] for site in self.model.sites()):
            raise ValueError(
                "fit: the model observes nothing: is obs= forgotten, or are model and guide swapped?"
            )
        with torch.no_grad():
            for buffer, before in buffers:  # running statistics count no data twice
                buffer.copy_(before)
        values: list[Any] = [site["value"] for site in capture.trace.nodes.values()]
        met = [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
        candidates = [*self.module.parameters(), *met, *leaves_of(loss)]
        unique: dict[int, Tensor] = {id(leaf): leaf for leaf in candidates if leaf.requires_grad}
        if not unique:
            raise ValueError("fit: no trainable parameter in model or guide: nothing the loss depends on")
        return list(unique.values())

    def name(self, parameter: Tensor) -> str:
        """The name of a parameter in its module."""
        for name, candidate in self.module.named_parameters():
            if candidate is parameter:
                return name.removeprefix("model.program.").removeprefix("guide.program.")
        return f"a tensor of shape {tuple(parameter.shape)}"

    def _blame(self) -> str:
        """The first site, in the order of execution, whose log density is not finite."""
        for program, kind in ((self.guide, "guide"), (self.model, "model")):
            for site in program.sites():
                if not log_density(site).isfinite().all():
                    return f"site '{site['name']}' of the {kind} has no finite log density"
        return "each site is finite, the loss is not"

    def check(self, loss: Tensor, where: str) -> None:
        """Raise a FloatingPointError that names the site, unless the last run's loss is finite."""
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"fit: the loss is {loss.item()} at {where}: {self._blame()}; "
                f"try a smaller learning rate, or look at the data of this batch"
            )

    def check_gradients(self, parameters: list[Tensor], where: str) -> Tensor:
        """The norm of all gradients; a FloatingPointError names one that is not finite."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm.isfinite():
            return norm
        for parameter in parameters:
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise FloatingPointError(
                    f"fit: the gradient of '{self.name(parameter)}' is not finite at {where}, though the "
                    f"loss is: look for a square root, a logarithm or a division at zero"
                )
        return norm

    def _plates(self, rows: int) -> frozenset[str]:
        """The plates with so many rows in the last run; only "data" if that is one of them."""
        sites = [*self.model.sites(), *self.guide.sites()]
        names = {frame.name for site in sites for frame in site["cond_indep_stack"] if frame.size == rows}
        return frozenset({"data"} & names or names)

    def _check_supports(self) -> None:
        check_supports(list(self.model.sites()), self.guide.sites(), bound=True)

    def _clear(self) -> None:
        self.model.traces.clear()
        self.guide.traces.clear()


def _share(site: Site) -> Tensor:
    """A site's summed log density; this process's share, if it is common to several."""
    density = log_density(site).sum()
    return density * site["infer"]["_share"] if "_share" in site["infer"] else density


def _wide(value: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


class _Recorded(nn.Module):
    """A program that records the traces of its runs; as a module it holds the program's parameters."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.traces: list[Any] = []
        self.finished: Callable[[], None] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as tracer:
            result = self.program(*args, **kwargs)
        self.traces.append(tracer.trace)
        if self.finished is not None:
            self.finished()
        return result

    def sites(self, runs: int | None = None) -> Iterator[Site]:
        """The sites of all runs, or of the first ones: an objective may score the guide again."""
        for trace in self.traces[:runs]:
            yield from sample_sites(trace)
