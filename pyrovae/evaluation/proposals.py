r"""Proposals: densities other than the guide to estimate log p(x) with, and the choice of one.

Each is a program called as the guide is, and the weights of its draws average to p(x). For a VAE these are

==========  ================================================================================
adapted     a Student t with a full covariance, fitted to each datum by draws
refined     :class:`pyrovae.guides.Refined`, some gradient steps on each datum, widened by 1.2
widened     :class:`pyrovae.guides.Widened`, by 1.2
defensive   :class:`pyrovae.guides.Defensive`, with a tenth of the prior
==========  ================================================================================

and for hand-written programs "adapted" only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.random import stream
from pyrovae.evaluation.adaptive import Adapted
from pyrovae.evaluation.annealing_path import auxiliary_site
from pyrovae.evaluation.importance import log_weights
from pyrovae.evaluation.weights import classify_khat, log_evidence, pareto_khat
from pyrovae.models.guides import Defensive, Refined, Widened
from pyrovae.models.vae import Guide, Model

__all__ = ["PROPOSALS", "Proposal", "choose", "has_a_density"]

TRIED = 256  # draws per datum in the trial of a proposal
LOWEST = -1e9  # Nats that a datum without any weight counts for
CLOSE = 0.01  # nats by which a cheaper proposal may fall short of the best


PROPOSALS: dict[str, Callable[[Any, Any], Program]] = {
    "widened": lambda model, guide: Guide(Widened(guide.part, 1.2)),
    "defensive": lambda model, guide: Guide(Defensive(guide.part, model.prior, 0.1)),
    "adapted": Adapted,
    "refined": lambda model, guide: Guide(Widened(Refined(guide.part, model), 1.2)),
}
"""Constructors of a proposal from a model and a guide, the cheapest first."""


class Proposal(NamedTuple):
    """The program that log p(x) is estimated with, and what a result records: its name, why it was chosen."""

    program: Program
    conventions: dict[str, str]


def choose(
    model: Program,
    guide: Program,
    wanted: str | Program | None,
    arguments: tuple[Any, ...],
    seed: int,
    *,
    to_start_from: bool = False,
) -> Proposal:
    """The wanted proposal; for "auto" the best of all, tried on some data, ``arguments`` of the programs.

    Of each the mean estimated log p(x) is a lower bound, so the highest is the best, unless its k-hat is less
    often reliable than the guide's. The cheapest is chosen of those within two paired standard errors of it,
    or 0.01 nats, with k-hat about as often reliable. The draws are discarded, so the choice adds no bias.
    A proposal to start annealing from (``to_start_from``) needs a density of each latent.

    Raises:
        ValueError: An unknown name, or a proposal that cannot be made for this pair.
    """
    if wanted is None:
        return Proposal(guide, {})
    if not isinstance(wanted, str):
        return Proposal(wanted, {"proposal": "given"})
    if wanted != "auto" and wanted not in PROPOSALS:
        raise ValueError(
            f"evaluate: proposal '{wanted}' is not known: use 'auto', {', '.join(map(repr, PROPOSALS))}, "
            f"or a program"
        )
    if wanted != "auto":
        return Proposal(_make(wanted, model, guide), {"proposal": wanted})
    trials = {"guide": _Trial.of(model, guide, arguments, seed)}
    programs: dict[str, Program] = {"guide": guide}
    for name in PROPOSALS:
        try:
            programs[name] = _make(name, model, guide)
            if not to_start_from or has_a_density(programs[name], arguments):
                trials[name] = _Trial.of(model, programs[name], arguments, seed)
        except ValueError:  # it cannot be made for this pair, of discrete latents for example
            continue
    sound = {name: each for name, each in trials.items() if each.reliable >= trials["guide"].reliable - 0.05}
    best = max(sound.values(), key=lambda each: each.mean)
    name = next((name for name, each in sound.items() if each.as_good_as(best)), "guide")
    return Proposal(programs[name], {"proposal": name, "chosen": trials[name].reason(name, trials["guide"])})


def has_a_density(program: Program, arguments: tuple[Any, ...]) -> bool:
    """Whether each latent has a density; those that an auxiliary site determines have none."""
    with stream("proposals, a look"):
        return auxiliary_site(program, arguments) is None


def _make(name: str, model: Program, guide: Program) -> Program:
    if name != "adapted" and not (isinstance(model, Model) and isinstance(guide, Guide)):
        raise ValueError(
            f"evaluate: proposal '{name}' is made of a VAE's parts, and these programs are hand-written: use "
            f"'adapted', or write the better guide and pass it"
        )
    return PROPOSALS[name](model, guide)


class _Trial(NamedTuple):
    """Estimates of a proposal on the data it was tried on."""

    log_evidence: Tensor  # at least LOWEST
    khat: Tensor

    @classmethod
    def of(cls, model: Program, program: Program, arguments: tuple[Any, ...], seed: int) -> _Trial:
        with stream("proposals", seed), caching():
            weights = log_weights(model, program, *arguments, num_samples=TRIED)
        estimate = log_evidence(weights).nan_to_num(nan=-torch.inf).clamp(min=LOWEST)
        return cls(estimate, pareto_khat(weights))

    @property
    def mean(self) -> float:
        return self.log_evidence.mean().item()

    @property
    def reliable(self) -> float:
        """Share of the data with a reliable k-hat."""
        return classify_khat(self.khat, TRIED).reliable.double().mean().item()

    def difference(self, other: _Trial) -> tuple[float, float]:
        """Mean paired difference from another trial, and its standard error."""
        difference, rows = self.log_evidence - other.log_evidence, len(self.khat)
        return difference.mean().item(), difference.std().item() / rows**0.5 if rows > 1 else 0.0

    def as_good_as(self, best: _Trial) -> bool:
        short, error = best.difference(self)
        return short <= max(2 * error, CLOSE) and self.reliable >= best.reliable - 0.05

    def reason(self, name: str, guide: _Trial) -> str:
        basis = f"on {len(self.khat)} rows, {TRIED} draws each: k-hat reliable on {self.reliable:.0%}"
        if name == "guide":
            return f"{basis}, and nothing tried is better"
        gain, error = self.difference(guide)
        return f"{basis} (guide {guide.reliable:.0%}), log p(x) {gain:+.2f} ± {error:.2f} above the guide's"
