"""Where the nats between the ELBO and log p(x) go: to the network, or to the family of q."""

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
    """What :func:`gaps` found, per datum ``[n]`` in nats; printed, a table of means with their errors.

    Attributes:
        evidence: The result whose log p(x) it is.
        source: What that is of, "guide", "refined guide" or "given".
        guide: The result of q.
        refined: The result of q refined for each datum.
        rise: What the second half of the refining steps added to each datum's ELBO, ``[n]``; None where the
            refined guide was given.
    """

    evidence: Evaluation
    source: str
    guide: Evaluation
    refined: Evaluation
    rise: Tensor | None = None

    @property
    def inference(self) -> Tensor:
        """Log p(x) less the ELBO of q: KL(q || p(z | x))."""
        return self.evidence.log_evidence - self.guide.elbo

    @property
    def amortisation(self) -> Tensor:
        """The ELBO of q refined less that of q: what one network for all data costs."""
        return self.refined.elbo - self.guide.elbo

    @property
    def approximation(self) -> Tensor:
        """Log p(x) less the ELBO of q refined: what the family of q costs."""
        return self.evidence.log_evidence - self.refined.elbo

    @property
    def inference_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`inference`.

        Log p(x) and an ELBO of the same draws rise together, and their difference is then surer than this.
        """
        return torch.hypot(self.evidence.standard_error, self.guide.elbo_error)

    @property
    def amortisation_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`amortisation`; the draws are apart."""
        return torch.hypot(self.refined.elbo_error, self.guide.elbo_error)

    @property
    def approximation_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`approximation`; as that of :attr:`inference`."""
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
        found = self.evidence
        of = {"given": "of the result given"}.get(self.source, f"by the {self.source}")
        lines = [f"{len(found):,} rows; log p(x) {of}, expected bias {found.bias.mean():.2g}", *table(rows)]
        if doubtful := _doubtful(found):
            lines.append(
                f"{doubtful:,} rows have a k-hat that is not reliable: there log p(x), and with it the gaps "
                f"to it, may be too small by more than their errors; a better one goes in by evidence="
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
    r"""How far the ELBO is below log p(x), taken apart: what is the network's part, and what the family's.

    .. math:: \underbrace{\log p(x) - \mathrm{ELBO}(q)}_{\text{inference}} =
        \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortisation}} +
        \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}, \qquad
        q^* = \arg\max_{q \in \mathcal Q} \mathrm{ELBO}(q)

    q* is q with parameters of its own for each datum, by Adam steps from where the network puts them
    (:class:`pyrovae.guides.Refined`). Steps that stop short, and their noise, count as approximation: that
    gap is too large by as much, and amortisation too small. The result says what the second half of the
    steps still brought; less noise is left with a smaller learning rate or more particles. Both ELBOs are of
    fresh draws, none that the steps were taken by.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x): ``vae.guide``, whose parameters are refined, or with ``refined`` any.
        data: What both are called with; some hundred rows are enough.
        refined: Pyro program of q*, for a guide written by hand.
        evidence: Where log p(x) is taken from, a result of the same data, such as one of
            ``evaluate(..., proposal="auto")`` or ``method="ais"``. If not given it is importance sampled
            from both guides, and that taken of which fewer rows have an unreliable k-hat, or if as many,
            that of the smaller errors.
        num_samples: Draws per datum, for each guide.
        steps: Of refining.
        learning_rate: Of refining, on the scale of the network's output.
        num_particles: Draws of each refining step.
        chunk_size: As for :func:`pyrovae.evaluate`.
        seed: Of all noise.
        device: Where modules and data go; where they are if not given.
        progress: Show progress bars on standard error.

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
    # Rows that are redrawn at each access have to be the same for all.
    drawn = [torch.cat(tensors) for tensors in zip(*batches(data, 512, "gaps", seed), strict=True)]

    def of(program: Program, purpose: str) -> Evaluation:
        key = seed_of(f"gaps, {purpose}", seed)
        sizes: Any = {"num_samples": num_samples, "chunk_size": chunk_size, "device": device}
        with caching():  # from the first look on, or the first tile is refined three times
            return evaluate(model, program, tuple(drawn), seed=key, progress=progress, **sizes)

    before, after = (_told(of(*each), data) for each in ((guide, "guide"), (refined, "refined")))
    rise = None if halfway is None else after.elbo - of(halfway, "refined").elbo  # of the same noise
    if evidence is not None:
        _check_same_data(evidence, before)
        return Gaps(evidence, "given", before, after, rise)
    sources = {"refined guide": after, "guide": before}
    # Not by the higher mean: the fewer draws are to be believed, the further single ones lead it astray.
    better = min(sources, key=lambda name: (_doubtful(sources[name]), _mean_error(sources[name])))
    return Gaps(sources[better], better, before, after, rise)


def _refinable(guide: Program) -> nn.Module:
    if not isinstance(guide, Guide):
        raise ValueError(
            f"gaps: of {getattr(guide, '__qualname__', type(guide).__name__)} no parameters are known to "
            f"refine: pass refined=, a program of q with parameters of each datum's own, or a vae.guide"
        )
    if not (hasattr(guide.part, "net") and hasattr(guide.part, "given")):
        raise ValueError(
            f"gaps: {type(guide.part).__name__} has no parameters to refine, a net and given(net's output): "
            f"pass refined=, a program of q with parameters of each datum's own"
        )
    return guide.part


def _told(found: Evaluation, data: Data) -> Evaluation:
    """With what the data say of themselves."""
    return replace(found, conventions={**conventions_of(data), **found.conventions})


def _doubtful(found: Evaluation) -> int:
    """Rows whose log p(x) is not to be believed."""
    return int((~found.reliable & ~found.khat.isnan()).sum())  # nan is of too few draws to tell


def _mean_error(found: Evaluation) -> float:
    return found.standard_error.nan_to_num(nan=math.inf).mean().item()


def _check_same_data(evidence: Evaluation, found: Evaluation) -> None:
    seen = {"rows": len(evidence), "fingerprint": evidence.conventions.get("fingerprint")}
    for what, theirs in seen.items():
        if theirs is not None and theirs != found.conventions[what]:
            raise ValueError(
                f"gaps: evidence is of other data, {what} {theirs} and not {found.conventions[what]}: "
                f"evaluate the very rows"
            )
