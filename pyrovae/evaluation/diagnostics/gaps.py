"""The gap between the ELBO and log p(x), split into amortisation and approximation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.random import seed_of
from pyrovae.core.tables import mean_errors, shown, table
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data, conventions_of
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.evaluation.results import Evaluation
from pyrovae.models.guides import Refined
from pyrovae.models.vae import Guide

__all__ = ["Gaps", "gaps"]


@dataclass(frozen=True)
class Gaps:
    """Gaps per datum, ``[n]`` in nats; printed, a table of means with their errors.

    Attributes:
        evidence: Evaluation that log p(x) is taken from.
        source: Its origin, "guide", "refined guide" or "given".
        guide: Evaluation of q.
        refined: Evaluation of q refined for each datum.
        rise: Increase of each datum's ELBO over the second half of the refining steps, ``[n]``; None if the
            refined guide was given.
    """

    evidence: Evaluation
    source: str
    guide: Evaluation
    refined: Evaluation
    rise: Tensor | None = None

    @property
    def inference(self) -> Tensor:
        """Log p(x) minus the ELBO of q: KL(q || p(z | x))."""
        return self.evidence.log_evidence - self.guide.elbo

    @property
    def amortisation(self) -> Tensor:
        """The ELBO of q refined minus that of q: the cost of one network for all data."""
        return self.refined.elbo - self.guide.elbo

    @property
    def approximation(self) -> Tensor:
        """Log p(x) minus the ELBO of q refined: the cost of the family of q."""
        return self.evidence.log_evidence - self.refined.elbo

    @property
    def inference_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`inference`; too large if both come from the same draws."""
        return torch.hypot(self.evidence.standard_error, self.guide.elbo_error)

    @property
    def amortisation_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`amortisation`."""
        return torch.hypot(self.refined.elbo_error, self.guide.elbo_error)

    @property
    def approximation_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`approximation`, like that of :attr:`inference`."""
        return torch.hypot(self.evidence.standard_error, self.refined.elbo_error)

    def __str__(self) -> str:
        rows = {
            "inference gap": (self.inference, self.inference_error),
            "  amortisation": (self.amortisation, self.amortisation_error),
            "  approximation": (self.approximation, self.approximation_error),
            "log p(x)": (self.evidence.log_evidence, self.evidence.standard_error),
            "ELBO of q refined": (self.refined.elbo, self.refined.elbo_error),
            "ELBO of q": (self.guide.elbo, self.guide.elbo_error),
        }
        evidence = self.evidence
        of = "of the result given" if self.source == "given" else f"by the {self.source}"
        bias = f"expected bias {evidence.bias.mean():.2g}"
        lines = [f"{len(evidence):,} rows; log p(x) {of}, {bias}", *table(rows)]
        if doubtful := _doubtful(evidence):
            lines.append(
                f"{doubtful:,} rows have a k-hat that is not reliable: there log p(x), and with it the gaps, "
                f"may be too small by more than their errors; pass a better log p(x) as evidence="
            )
        if self.rise is not None:
            error = shown(mean_errors(self.rise, None)[0])
            lines.append(
                f"the second half of the refining steps raised the ELBO by {self.rise.mean():+.4f} {error}"
            )
        return "\n".join(lines)


@torch.no_grad()
def gaps(
    model: Program,
    guide: Program,
    data: Data,
    *,
    refined: Program | None = None,
    evidence: Evaluation | None = None,
    num_samples: int = 1000,
    steps: int = 500,
    learning_rate: float = 0.01,
    num_particles: int = 16,
    chunk_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Gaps:
    r"""The gap between the ELBO and log p(x), split into the network's part and the family's.

    .. math:: \underbrace{\log p(x) - \mathrm{ELBO}(q)}_{\text{inference}} =
        \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortisation}} +
        \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}, \qquad
        q^* = \arg\max_{q \in \mathcal Q} \mathrm{ELBO}(q)

    q* has parameters of its own for each datum, found by Adam steps from the network's output
    (:class:`pyrovae.guides.Refined`). Steps that have not converged, and their noise, make the approximation
    gap too large and the amortisation gap too small by as much. The result states what the second half of
    the steps still gained; a smaller learning rate or more particles leave less noise. Both ELBOs are
    estimated with fresh draws.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x): ``vae.guide``, whose parameters are refined, or any with ``refined``.
        data: Arguments of both programs; a few hundred rows are enough.
        refined: Pyro program of q*, for a hand-written guide.
        evidence: Evaluation of the same data to take log p(x) from, such as that of
            ``evaluate(..., proposal="auto")`` or ``method="ais"``. By default both guides are used as
            proposals, and the one with fewer unreliable k-hats, then smaller errors, is taken.
        num_samples: Number of draws per datum, for each guide.
        steps: Number of refining steps.
        learning_rate: Learning rate of refining, on the scale of the network's output.
        num_particles: Number of draws of each refining step.
        chunk_size: Number of draws computed at once; see :func:`pyrovae.evaluate`.
        seed: Seed of all draws.
        device: Device for modules and data; by default they stay where they are.
        progress: Whether to show progress bars on standard error.

    Raises:
        ValueError: A guide that cannot be refined; evidence of other data.

    References:
        Cremer et al., Inference Suboptimality in Variational Autoencoders, 2018. arXiv:1801.03558

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(pv.networks.MLP(9, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.MLP(2, 9)), q)
        >>> found = gaps(vae.model, vae.guide, torch.eye(9), num_samples=100, steps=20, progress=False)
        >>> torch.allclose(found.amortisation + found.approximation, found.inference)
        True
    """
    check_count("gaps: num_samples", num_samples)
    halfway = None
    if refined is None:
        part = _refinable(guide)
        settings: Any = {"learning_rate": learning_rate, "num_particles": num_particles, "seed": seed}
        refined = Guide(Refined(part, model, steps, **settings))
        halfway = Guide(Refined(part, model, steps // 2, **settings)) if steps > 1 else None
    # Read once: data that are random at each access have to be the same for all evaluations.
    drawn = [torch.cat(tensors) for tensors in zip(*batches(data, 512, "gaps", seed), strict=True)]

    def of(program: Program, purpose: str) -> Evaluation:
        key = seed_of(f"gaps, {purpose}", seed)
        sizes: Any = {"num_samples": num_samples, "chunk_size": chunk_size, "device": device}
        with caching():  # else the first tile is refined three times
            return evaluate(model, program, tuple(drawn), seed=key, progress=progress, **sizes)

    before, after = (
        replace(result, conventions={**conventions_of(data), **result.conventions})
        for result in (of(guide, "guide"), of(refined, "refined"))
    )
    rise = None if halfway is None else after.elbo - of(halfway, "refined").elbo  # with the same noise
    if evidence is not None:
        _check_same_data(evidence, before)
        return Gaps(evidence, "given", before, after, rise)
    sources = {"refined guide": after, "guide": before}
    # Not by the higher mean: single draws can make an unreliable one high.
    better = min(sources, key=lambda name: (_doubtful(sources[name]), _mean_error(sources[name])))
    return Gaps(sources[better], better, before, after, rise)


def _refinable(guide: Program) -> nn.Module:
    """The part of a VAE's guide whose network's output is refined."""
    part: Any = guide.part if isinstance(guide, Guide) else guide
    if isinstance(guide, Guide) and hasattr(part, "net") and hasattr(part, "given"):
        return part
    raise ValueError(
        f"gaps: {getattr(part, '__qualname__', type(part).__name__)} has no parameters to refine, a net and "
        f"given(net's output): pass refined=, a program of q with parameters for each datum, or a vae.guide"
    )


def _doubtful(result: Evaluation) -> int:
    """Number of rows with an unreliable k-hat; it is nan for too few draws."""
    return int((~result.reliable & ~result.khat.isnan()).sum())


def _mean_error(result: Evaluation) -> float:
    return result.standard_error.nan_to_num(nan=math.inf).mean().item()


def _check_same_data(evidence: Evaluation, result: Evaluation) -> None:
    identity = {"rows": len(evidence), "fingerprint": evidence.conventions.get("fingerprint")}
    for name, theirs in identity.items():
        if theirs is not None and theirs != result.conventions[name]:
            raise ValueError(
                f"gaps: evidence is of other data, {name} {theirs} and not {result.conventions[name]}: "
                f"evaluate the same rows"
            )
