r"""Better densities than the guide to estimate log p(x) with, and the choice of one.

Each is a program called as the guide is. The weights of its draws average to p(x) whatever it is: a better
one makes them equal. For a VAE's own programs these are

==========  ================================================================================
adapted     a Student t with a full covariance, fitted to each datum by draws
refined     :class:`pyrovae.guides.Refined`, some gradient steps on each datum, widened by 1.2
widened     :class:`pyrovae.guides.Widened`, by 1.2
defensive   :class:`pyrovae.guides.Defensive`, with a tenth of the prior
==========  ================================================================================

and for hand-written ones "adapted" alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.programs import sample_sites
from pyrovae.core.random import stream
from pyrovae.evaluation.adaptive import Adapted
from pyrovae.evaluation.importance import log_weights
from pyrovae.evaluation.weights import khat_threshold, log_evidence, pareto_khat
from pyrovae.models.guides import Defensive, Refined, Widened
from pyrovae.models.vae import Guide, Model

__all__ = ["PROPOSALS", "Proposal", "choose", "has_a_density"]

TRIED = 256
"""Draws of each datum that a proposal is tried with."""

LOWEST = -1e9
"""Nats: what a datum counts for that no draw has weight for."""

CLOSE = 0.01
"""Nats that a simpler proposal may fall short of the best by."""


def _widened(model: Program, guide: Any) -> Program:
    return Guide(Widened(guide.part, 1.2))


def _defensive(model: Any, guide: Any) -> Program:
    return Guide(Defensive(guide.part, model.prior, 0.1))


def _refined(model: Program, guide: Any) -> Program:
    return Guide(Widened(Refined(guide.part, model), 1.2))


PROPOSALS: dict[str, Callable[[Any, Any], Program]] = {
    "widened": _widened,
    "defensive": _defensive,
    "adapted": Adapted,
    "refined": _refined,
}
"""How each is made of a model and a guide, by what it costs, the least first."""


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
    """The proposal that was asked for, or of all the best on some data.

    The mean of the estimated log p(x) is a lower bound for each of them, so the highest is the nearest,
    unless its k-hat is unreliable where the guide's is not. Of those within two paired standard errors of
    it, or 0.01 nats, that leave no more data with an unreliable k-hat, the cheapest is taken. The draws are
    used for nothing else, so that the choice biases nothing.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        wanted: None for the guide, "auto", a name in :data:`PROPOSALS`, or a program.
        arguments: Of the programs: the data to try on.
        seed: Of the draws.
        to_start_from: Whether annealing is to start from it, which needs the density of each latent.

    Raises:
        ValueError: No such name, or a proposal that cannot be made for this pair.
    """
    if wanted is None:
        return Proposal(guide, {})
    if not isinstance(wanted, str):
        return Proposal(wanted, {"proposal": "given"})
    if wanted != "auto":
        if wanted not in PROPOSALS:
            raise ValueError(
                f"evaluate: proposal '{wanted}' is not known: use 'auto', {', '.join(map(repr, PROPOSALS))}, "
                f"or a program"
            )
        return Proposal(_make(wanted, model, guide), {"proposal": wanted})
    tried = {"guide": _Tried.of(model, guide, arguments, seed)}
    programs: dict[str, Program] = {"guide": guide}
    for name in PROPOSALS:
        try:
            programs[name] = _make(name, model, guide)
            if to_start_from and not has_a_density(programs[name], arguments):
                continue
            tried[name] = _Tried.of(model, programs[name], arguments, seed)
        except ValueError:  # it is none for this pair: discrete, on a sphere, without a mean
            continue
    sound = {name: each for name, each in tried.items() if each.reliable >= tried["guide"].reliable - 0.05}
    best = max(sound.values(), key=lambda each: each.mean)
    name = next((name for name, each in sound.items() if each.as_good_as(best)), "guide")
    return Proposal(programs[name], {"proposal": name, "chosen": tried[name].reason(name, tried["guide"])})


def has_a_density(program: Program, arguments: tuple[Any, ...]) -> bool:
    """Whether each latent has one: an auxiliary site has, and what it sets has not."""
    with stream("proposals, a look"):
        trace = poutine.trace(program).get_trace(*arguments)
    return not any(site["infer"].get("is_auxiliary") for site in sample_sites(trace))


def _make(name: str, model: Program, guide: Program) -> Program:
    if name != "adapted" and not (isinstance(model, Model) and isinstance(guide, Guide)):
        raise ValueError(
            f"evaluate: proposal '{name}' is made of a VAE's parts, and these programs are hand-written: use "
            f"'adapted', or write the better guide and pass it"
        )
    return PROPOSALS[name](model, guide)


class _Tried(NamedTuple):
    """What a proposal came to on the data it was tried on."""

    log_evidence: Tensor
    khat: Tensor

    @classmethod
    def of(cls, model: Program, program: Program, arguments: tuple[Any, ...], seed: int) -> _Tried:
        with stream("proposals", seed), caching():
            weights = log_weights(model, program, *arguments, num_samples=TRIED)
        return cls(log_evidence(weights).nan_to_num(nan=-torch.inf), pareto_khat(weights))

    @property
    def mean(self) -> float:
        return self.log_evidence.clamp(min=LOWEST).mean().item()

    @property
    def reliable(self) -> float:
        """Share of the data with a k-hat to be believed."""
        return (self.khat < khat_threshold(TRIED)).double().mean().item()

    def less(self, other: _Tried) -> tuple[float, float]:
        """Mean paired difference from another, and its standard error."""
        difference = self.log_evidence.clamp(min=LOWEST) - other.log_evidence.clamp(min=LOWEST)
        rows = len(difference)
        return difference.mean().item(), difference.std().item() / rows**0.5 if rows > 1 else 0.0

    def as_good_as(self, best: _Tried) -> bool:
        short, error = best.less(self)
        return short <= max(2 * error, CLOSE) and self.reliable >= best.reliable - 0.05

    def reason(self, name: str, guide: _Tried) -> str:
        said = f"on {len(self.khat)} rows, {TRIED} draws each: k-hat reliable on {self.reliable:.0%}"
        if name == "guide":
            return f"{said}, and nothing tried is better"
        gain, error = self.less(guide)
        return f"{said} (guide {guide.reliable:.0%}), log p(x) {gain:+.2f} ± {error:.2f} above the guide's"
