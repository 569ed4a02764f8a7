r"""Annealed importance sampling of any pair with continuous latents, and bidirectional Monte Carlo.

.. math:: \pi_\beta(z) \propto q(z \mid x)^{1 - \beta} \, p(x, z)^\beta, \qquad
    0 = \beta_0 < \dots < \beta_T = 1
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.coordinates import Coordinates, coordinates
from pyrovae.importance import sum_by_datum
from pyrovae.programs import Program, Structure, inspect, mode, modules_of, plain_errors, sample_sites
from pyrovae.reductions import check_count
from pyrovae.streams import stream

__all__ = ["Annealed", "Bounds", "ais", "ais_log_weights", "bdmc"]

WANTED = 0.65
"""Share of accepted moves that the step sizes are tuned to."""

Point = list[Tensor]


class Annealed(NamedTuple):
    """What annealing came to.

    Attributes:
        log_weights: ``[S, batch]`` in nats, float64: of each chain.
        acceptance: ``[batch]``, share of the moves that were accepted.
        step_size: ``[T - 1, batch]``, by temperature, in standard deviations of the start.
    """

    log_weights: Tensor
    acceptance: Tensor
    step_size: Tensor


class Bounds(NamedTuple):
    """Bounds on log p(x) of simulated data, ``[batch]`` each, in nats.

    Attributes:
        lower: By annealing from the start to the posterior; below log p(x) but for noise.
        upper: By annealing back from the latents that the data were drawn with; above but for noise.
        data: What was simulated.
    """

    lower: Tensor
    upper: Tensor
    data: Tensor

    @property
    def gap(self) -> Tensor:
        """Upper less lower, nats: the two estimates' errors together."""
        return self.upper - self.lower


def ais_log_weights(model: Program, guide: Program, *args: Any, **keywords: Any) -> Tensor:
    """The log-weights of :func:`ais` alone: ``[num_samples, batch]``, for the same reductions as any.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> x = oracle.sample(2)
        >>> ais_log_weights(oracle.model, oracle.guide, x, num_samples=4, num_temperatures=20).shape
        torch.Size([4, 2])
    """
    return ais(model, guide, *args, **keywords).log_weights


def ais(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 16,
    num_temperatures: int = 1000,
    num_steps: int = 5,
    schedule: str = "sigmoid",
    start: str = "guide",
    seed: int = 0,
) -> Annealed:
    r"""Annealed importance sampling: chains move from the guide, or the prior, to p(x, z).

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q(z_{t-1} \mid x)},
        \qquad z_0 \sim q, \quad z_t \sim K_{\beta_t}(\cdot \mid z_{t-1})

    with Hamiltonian transitions K, Metropolis-corrected, in coordinates without bounds, of every chain and
    datum at once. E[w] = p(x) whatever the transitions, so all reductions of importance weights apply.
    Step sizes are tuned for each datum and temperature in a pass of their own, whose draws are thrown
    away, and then stand still: tuning within the weighted pass would bias it.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), with the model's latent sites.
        args: Of both programs.
        num_samples: Chains per datum, S.
        num_temperatures: T; the error falls with it.
        num_steps: Leapfrog steps of a move.
        schedule: "sigmoid", slow at both ends, or "linear".
        start: "guide" or "prior"; the prior does without the guide's densities, and takes longer.
        seed: Of all noise.

    Returns:
        Log-weights, and what there is to see of the moves.

    Raises:
        ValueError: A discrete latent, which has no gradient, by name; as :func:`pyrovae.log_weights`.

    References:
        Neal, Annealed Importance Sampling, 2001. arXiv:physics/9803008; Wu et al., On the Quantitative
        Analysis of Decoder-Based Generative Models, 2017. arXiv:1611.04273

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> x = oracle.sample(2)
        >>> found = ais(oracle.model, oracle.guide, x, num_samples=8, num_temperatures=50)
        >>> error = found.log_weights.logsumexp(0) - torch.tensor(8.0).log() - oracle.log_evidence(x)
        >>> bool((error.abs() < 0.5).all())
        True
    """
    check_count("ais: num_samples", num_samples)
    check_count("ais: num_steps", num_steps)
    betas = _betas(num_temperatures, schedule)
    path = _path(model, guide, args, start, seed)
    with _moving(model, guide):
        with stream("ais, tuning", seed):
            steps = _tune(path, betas, num_samples, num_steps)
        with stream("ais", seed):
            return _anneal(path, path.draw(num_samples), betas, steps, num_steps)


def bdmc(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 16,
    num_temperatures: int = 1000,
    num_steps: int = 5,
    schedule: str = "sigmoid",
    start: str = "guide",
    site: str = "x",
    seed: int = 0,
) -> Bounds:
    r"""Bidirectional Monte Carlo: log p(x) of data drawn from the model, from below and from above.

    .. math:: (z^*, x) \sim p(x, z), \qquad \log \frac1S \sum_s w_s \;\lesssim\; \log p(x) \;\lesssim\;
        -\log \frac1S \sum_s \frac1{w'_s}

    with w as of :func:`ais`, and w' of chains that start at z*, an exact draw of the posterior, and are
    annealed back. The gap says how far annealing with these settings is off on data like the model's own,
    modes that the guide misses included.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Of both programs; the first stands for the data, whose number of rows is simulated.
        num_samples: Chains per datum, each way.
        num_temperatures: T.
        num_steps: Leapfrog steps of a move.
        schedule: "sigmoid" or "linear".
        start: "guide" or "prior".
        site: The model's site of the data.
        seed: Of all noise.

    Returns:
        The bounds, and the data.

    Raises:
        ValueError: As :func:`ais`; the model has no such site.

    References:
        Grosse et al., Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo, 2015.
        arXiv:1511.02543

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> bounds = bdmc(oracle.model, oracle.guide, torch.zeros(5, 3), num_temperatures=50)
        >>> bool((bounds.gap.abs() < 0.5).all())
        True
    """
    check_count("bdmc: num_samples", num_samples)
    check_count("bdmc: num_steps", num_steps)
    betas = _betas(num_temperatures, schedule)
    with mode(modules_of(model, guide), training=False):
        with stream("bdmc, data", seed), torch.no_grad():
            truth = poutine.trace(poutine.uncondition(model)).get_trace(*args)
        if site not in truth.nodes:
            raise ValueError(f"bdmc: the model has no site '{site}': name that of the data with site=")
        data: Any = truth.nodes[site]["value"]
    path = _path(model, guide, (data, *args[1:]), start, seed)
    with _moving(model, guide):
        with stream("ais, tuning", seed):
            steps = _tune(path, betas, num_samples, num_steps)
        with stream("ais", seed):
            forward = _anneal(path, path.draw(num_samples), betas, steps, num_steps)
        with stream("ais, back", seed):
            at_truth = path.at(truth, num_samples)
            back = _anneal(path, at_truth, betas.flip(0), steps.flip(0), num_steps)
    count = torch.tensor(float(num_samples), dtype=torch.float64)
    lower = forward.log_weights.logsumexp(0) - count.log()
    return Bounds(lower, count.log() - back.log_weights.logsumexp(0), data)


class _Path:
    """The densities that annealing goes between, as functions of points in coordinates without bounds."""

    def __init__(self, model: Program, guide: Program, args: Any, structure: Structure, start: str) -> None:
        self.model, self.guide, self.args, self.structure = model, guide, args, structure
        self.from_prior = start == "prior"
        with torch.no_grad():
            drawn = self._run(guide, None, 64)
            self.space: Coordinates = coordinates(self._latents(self._run(model, drawn, 64)), structure)
            spread = self.draw(64)
        self.scale = [point.std(0, keepdim=True).clamp(min=1e-6) for point in spread]

    def draw(self, num_samples: int) -> Point:
        """Where chains start."""
        with torch.no_grad():
            drawn = self._run(
                poutine.uncondition(self.model) if self.from_prior else self.guide, None, num_samples
            )
        return self.space.free(self._values(drawn))

    def at(self, truth: poutine.Trace, num_samples: int) -> Point:
        """Every chain at the latents of a run of the model."""
        free = self.space.free(self._values(truth))
        return [point.expand(num_samples, *point.shape[1:]).clone() for point in free]

    def ends(self, point: Point) -> tuple[Tensor, Tensor]:
        """Log densities of the start and of the target, ``[S, batch]`` each."""
        values, log_volume = self.space.bound(point)
        known = poutine.Trace()
        for name, value in values.items():
            known.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        num_samples = len(point[0])
        sites = list(sample_sites(self._run(self.model, known, num_samples)))
        log_prior = sum_by_datum([site for site in sites if not site["is_observed"]], self.structure)
        log_likelihood = sum_by_datum([site for site in sites if site["is_observed"]], self.structure)
        if self.from_prior:
            start = log_prior
        else:
            start = sum_by_datum(
                list(sample_sites(self._run(self.guide, known, num_samples))), self.structure
            )
        return start + log_volume, log_prior + log_likelihood + log_volume

    def _run(self, program: Program, known: poutine.Trace | None, num_samples: int) -> poutine.Trace:
        if known is not None:
            program = poutine.replay(program, trace=known)
        with pyro.plate("_chains", num_samples, dim=self.structure.draws_dim):
            return poutine.trace(program).get_trace(*self.args)

    def _values(self, trace: Any) -> dict[str, Tensor]:
        return {name: trace.nodes[name]["value"] for name in self.space.names}

    @staticmethod
    def _latents(trace: poutine.Trace) -> list[dict[str, Any]]:
        return [site for site in sample_sites(trace) if not site["is_observed"]]


def _path(model: Program, guide: Program, args: Any, start: str, seed: int) -> _Path:
    if start not in ("guide", "prior"):
        raise ValueError(f"ais: start must be 'guide' or 'prior', got '{start}'")
    with mode(modules_of(model, guide), training=False), plain_errors(), stream("ais, path", seed):
        return _Path(model, guide, args, inspect(model, guide, *args), start)


@contextmanager
def _moving(model: Program, guide: Program) -> Iterator[None]:
    """Without Pyro's validation: a move that runs out of a float's range is refused, not an error."""
    with mode(modules_of(model, guide), training=False), plain_errors(), pyro.validation_enabled(False):
        yield


def _betas(num_temperatures: int, schedule: str) -> Tensor:
    """From 0 to 1, ``[T + 1]``."""
    check_count("ais: num_temperatures", num_temperatures)
    if schedule not in ("sigmoid", "linear"):
        raise ValueError(f"ais: schedule must be 'sigmoid' or 'linear', got '{schedule}'")
    even = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    bent = (4 * (2 * even - 1)).sigmoid()
    return (bent - bent[0]) / (bent[-1] - bent[0])


def _tune(path: _Path, betas: Tensor, num_samples: int, num_steps: int) -> Tensor:
    """Step sizes by temperature and datum, from a pass whose weights are not used: ``[T - 1, batch]``."""
    return _anneal(path, path.draw(num_samples), betas, None, num_steps).step_size


def _anneal(path: _Path, point: Point, betas: Tensor, steps: Tensor | None, num_steps: int) -> Annealed:
    """Weigh and move by turns; step sizes are tuned on the way where none are given."""
    start, target = _values(path, point)
    log_weights, moves, used = torch.zeros_like(start), [], []
    log_step = torch.full_like(start[0], 0.25).log()
    for turn, (before, now) in enumerate(zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True)):
        # Weights that are -inf stay so; a start that has no density there cannot be left by the chain.
        log_weights = log_weights + (now - before) * (target - start)
        if turn == len(betas) - 2:
            break
        step = log_step.exp() if steps is None else steps[turn]
        used.append(step)
        point, start, target, accepted = _move(path, point, start, target, now, step, num_steps)
        moves.append(accepted.mean(0))
        if steps is None:
            log_step = (log_step + 0.3 * (accepted.mean(0) - WANTED)).clamp(-12, 3)
    acceptance = torch.stack(moves).mean(0) if moves else torch.ones_like(log_step)
    step_size = torch.stack(used) if used else log_step.new_zeros(0, len(log_step))
    return Annealed(log_weights, acceptance, step_size)


def _values(path: _Path, point: Point) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return path.ends(point)


def _slope(path: _Path, point: Point, beta: float) -> tuple[Point, Tensor, Tensor]:
    """The gradient of log pi_beta, and the two log densities."""
    point = [each.detach().requires_grad_() for each in point]
    with torch.enable_grad():
        start, target = path.ends(point)
        mixed = (1 - beta) * start + beta * target
        slope = torch.autograd.grad(mixed.sum(), point)
    return list(slope), start.detach(), target.detach()


def _move(
    path: _Path, point: Point, start: Tensor, target: Tensor, beta: float, step: Tensor, num_steps: int
) -> tuple[Point, Tensor, Tensor, Tensor]:
    """One Hamiltonian move of every chain, accepted or refused chain by chain."""
    space = path.space
    sizes = [space.spread(step[None], each) * scale for each, scale in zip(point, path.scale, strict=True)]
    momentum = [torch.randn_like(each) for each in point]
    kinetic = space.square(momentum)
    there = point
    slope, _, _ = _slope(path, there, beta)
    for _ in range(num_steps):
        half = [m + 0.5 * size * s for m, size, s in zip(momentum, sizes, slope, strict=True)]
        there = [z + size * m for z, size, m in zip(there, sizes, half, strict=True)]
        slope, new_start, new_target = _slope(path, there, beta)
        momentum = [m + 0.5 * size * s for m, size, s in zip(half, sizes, slope, strict=True)]
    gain = (1 - beta) * (new_start - start) + beta * (new_target - target)
    log_ratio = gain - 0.5 * (space.square(momentum) - kinetic)
    chance = log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
    accepted = torch.rand_like(chance) < chance
    kept = [torch.where(space.spread(accepted, old), new, old) for new, old in zip(there, point, strict=True)]
    start, target = torch.where(accepted, new_start, start), torch.where(accepted, new_target, target)
    return kept, start, target, chance
