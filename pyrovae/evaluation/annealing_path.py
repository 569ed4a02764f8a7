"""What annealing is made of: the path between two densities, and moves that leave its points alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform

from pyrovae.core.checks import check_count
from pyrovae.core.context import captured
from pyrovae.core.memory import fitting
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.precision import Precision
from pyrovae.core.programs import Site, Structure, inspect, plain_errors, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.scoring import Latents, filled, run_on, sum_by_datum
from pyrovae.evaluation.importance import pass_size
from pyrovae.evaluation.scorer import Scorer
from pyrovae.evaluation.unconstrained import Coordinates, coordinates

if TYPE_CHECKING:
    pass

__all__ = [
    "Annealed",
    "Path",
    "Slopes",
    "anneal",
    "compiled_slopes",
    "moving",
    "path_between",
    "temperatures",
    "tune",
]

WANTED = 0.65
"""Share of accepted moves that the step sizes are tuned to."""

TUNING_CHAINS = 4
"""Chains that are enough to tune by."""

ROWS_AT_ONCE = {"cpu": 2**10, "cuda": 2**14}
"""Chains times data of a pass. Fixed, as long as they fit: a rounding decides whether a move is accepted."""

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


class Path:
    """The densities that annealing goes between, as functions of points in coordinates without bounds."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: Any,
        structure: Structure,
        *,
        chunk_size: int,
        start: str = "guide",
        plate: str = "_chains",
        slopes: Slopes | None = None,
    ) -> None:
        self.plate, self.score, self.slopes = plate, Scorer(model), slopes
        self.model, self.guide, self.args, self.structure = model, guide, args, structure
        self.from_prior, self.chunk_size, self.usual = start == "prior", chunk_size, chunk_size
        with torch.no_grad():
            latents, again = (self._latents(self._run(model, self._run(guide, None, 1), 1)) for _ in "ab")
            self.space: Coordinates = coordinates(latents, again, structure)
            spread = self.draw(64)
        self.frames = {site["name"]: self._within(site) for site in latents}
        self.scale = [point.std(0, keepdim=True).clamp(min=1e-6) for point in spread]

    def draw(self, num_samples: int) -> Point:
        """Where chains start."""
        with torch.no_grad():
            drawn = self._run(self.model if self.from_prior else self.guide, None, num_samples)
        return self.space.free(self._values(drawn))

    def at(self, truth: poutine.Trace, num_samples: int) -> Point:
        """Every chain at the latents of a run of the model."""
        free = self.space.free(self._values(truth))
        return [point.expand(num_samples, *point.shape[1:]).clone() for point in free]

    def by_chunks(self, function: Callable[[Point], Sequence[Tensor]], point: Point) -> list[Tensor]:
        """What a function gives of each chain, of some at a time, and of as many each time.

        Numbers depend in their last bits on the shape of the pass they were computed in: the last chunk is
        filled up to the size of the others.
        """
        chains = len(point[0])
        if chains <= self.chunk_size:
            return [each.contiguous() for each in function(point)]
        if self.chunk_size < self.usual:
            warnings.warn(
                f"ais: {self.chunk_size} chains are moved at once, as memory holds, where {self.usual} are "
                f"usual: rounding decides which moves are accepted, so with more memory some would be others",
                stacklevel=2,
            )
            self.usual = self.chunk_size
        found = []
        for start in range(0, chains, self.chunk_size):
            chunk = [each[start : start + self.chunk_size] for each in point]
            found.append(function([filled(each, self.chunk_size) for each in chunk]))
        return [torch.cat(each)[:chains] for each in zip(*found, strict=True)]

    def ends(self, point: Point, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Log densities of the start and of the target, ``[S, batch]`` each."""
        latents, log_volume = self._known(point)
        draws = len(point[0])
        log_likelihood, log_prior = self.score(latents, args, {}, self.structure, draws, plate=self.plate)
        start = log_prior
        if not self.from_prior:
            sites = run_on(self.guide, latents, args, {}, self.structure, draws, self.plate)
            start = sum_by_datum(sites, self.structure)
        return start + log_volume, log_prior + log_likelihood + log_volume

    def between(self, point: Point, beta: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of log pi_beta over chains and data, and the two ends."""
        start, target = self.ends(point, args)
        return ((1 - beta) * start + beta * target).sum(), start, target

    def target(self, point: Point) -> Tensor:
        """Log density of the target alone, ``[S, batch]``."""
        latents, log_volume = self._known(point)
        log_likelihood, log_prior = self.score(
            latents, self.args, {}, self.structure, len(point[0]), size=self.chunk_size, plate=self.plate
        )
        return log_prior + log_likelihood + log_volume

    def fitting(self, most: int) -> int:
        """Chains that half of the free memory holds at once, with what gradients need, of ``most``."""
        device = self.scale[0].device
        beta = torch.tensor(0.5, dtype=torch.float64, device=device)

        def compute(chains: int) -> None:
            leaves = [each.requires_grad_() for each in self.draw(chains)]
            with torch.enable_grad():
                torch.autograd.grad(self.between(leaves, beta, self.args)[0], leaves)

        return fitting(compute, most, device)

    def _known(self, point: Point) -> tuple[Latents, Tensor]:
        """The values at a point, and the log volume of the map to them."""
        values, log_volume = self.space.bound(point)
        return {name: (value, {}) for name, value in values.items()}, log_volume

    def _run(self, program: Program, known: poutine.Trace | None, num_samples: int) -> poutine.Trace:
        if known is not None:
            program = poutine.replay(program, trace=known)
        with pyro.plate(self.plate, num_samples, dim=self.structure.draws_dim):
            return poutine.trace(program).get_trace(*self.args)

    def _values(self, trace: Any) -> dict[str, Tensor]:
        return {name: trace.nodes[name]["value"] for name in self.space.names}

    def _within(self, site: Site) -> list[Any]:
        """The plates that a site is in, but for the data's and the chains'."""
        outer = (self.structure.dim, self.structure.draws_dim)
        return [f for f in site["cond_indep_stack"] if f.vectorized and f.dim not in outer]

    @staticmethod
    def _latents(trace: poutine.Trace) -> list[dict[str, Any]]:
        return [site for site in sample_sites(trace) if not site["is_observed"]]


def _check_no_auxiliary(drawn: poutine.Trace) -> None:
    for site in sample_sites(drawn):
        if site["infer"].get("is_auxiliary"):
            raise ValueError(
                f"site '{site['name']}' of the guide is auxiliary, so that its latents have no density to "
                f"anneal from: start from another guide, or with start='prior'"
            )


def path_between(
    model: Program,
    guide: Program,
    args: Any,
    start: str,
    seed: int,
    chunk_size: int | None = None,
    slopes: Slopes | None = None,
) -> Path:
    """The path from the guide, or the prior, to p(x, z), of a pair that was looked at first."""
    check_count("ais: chunk_size", 1 if chunk_size is None else chunk_size)
    if start not in ("guide", "prior"):
        raise ValueError(f"ais: start must be 'guide' or 'prior', got '{start}'")
    with mode(modules_of(model, guide), training=False), plain_errors(), stream("ais, path", seed):
        structure = inspect(model, guide, *args)
        at_once = pass_size(structure, args, ROWS_AT_ONCE)
        path = Path(model, guide, args, structure, chunk_size=at_once, start=start, slopes=slopes)
        path.chunk_size = path.fitting(at_once) if chunk_size is None else min(chunk_size, at_once)
        path.usual = at_once if chunk_size is None else path.chunk_size
        if start == "guide":
            _check_no_auxiliary(poutine.trace(guide).get_trace(*args))
    return path


@contextmanager
def moving(model: Program, guide: Program) -> Iterator[None]:
    """Without Pyro's validation: a move that runs out of a float's range is refused, not an error."""
    with mode(modules_of(model, guide), training=False), plain_errors(), pyro.validation_enabled(False):
        yield


def temperatures(num_temperatures: int, schedule: str) -> Tensor:
    """From 0 to 1, ``[T + 1]``."""
    check_count("ais: num_temperatures", num_temperatures)
    if schedule not in ("sigmoid", "linear"):
        raise ValueError(f"ais: schedule must be 'sigmoid' or 'linear', got '{schedule}'")
    even = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    bent = (4 * (2 * even - 1)).sigmoid()
    return (bent - bent[0]) / (bent[-1] - bent[0])


def tune(path: Path, betas: Tensor, num_samples: int, num_steps: int) -> Tensor:
    """Step sizes by temperature and datum, from a pass whose weights are not used: ``[T - 1, batch]``."""
    return anneal(path, path.draw(min(num_samples, TUNING_CHAINS)), betas, None, num_steps).step_size


def anneal(path: Path, point: Point, betas: Tensor, steps: Tensor | None, num_steps: int) -> Annealed:
    """Weigh and move by turns; step sizes are tuned on the way where none are given."""
    _, start, target = _slope(path, point, 0.0)
    log_weights, moves, used = torch.zeros_like(start), [], []
    log_step = torch.full_like(start[0], 0.25).log()
    for turn, (before, now) in enumerate(zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True)):
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


def _slope(path: Path, point: Point, beta: float) -> tuple[Point, Tensor, Tensor]:
    """The gradient of log pi_beta, and the two log densities."""
    at = torch.tensor(beta, dtype=torch.float64, device=point[0].device)

    def of_chunk(chunk: Point) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in chunk]
        if path.slopes is not None:
            found = path.slopes(path, leaves, at)
            if found is not None:
                return found
        with torch.enable_grad():
            total, start, target = path.between(leaves, at, path.args)
            slope = torch.autograd.grad(total, leaves)
        return [*slope, start.detach(), target.detach()]

    *slope, start, target = path.by_chunks(of_chunk, point)
    return slope, start, target


def _move(
    path: Path, point: Point, start: Tensor, target: Tensor, beta: float, step: Tensor, num_steps: int
) -> tuple[Point, Tensor, Tensor, Tensor]:
    """One Hamiltonian move of every chain, accepted or refused chain by chain."""
    space = path.space
    sizes = [space.spread(step[None], each) * scale for each, scale in zip(point, path.scale, strict=True)]
    # Contiguous: which number is whose depends on how it lies in memory.
    momentum = [torch.randn_like(each, memory_format=torch.contiguous_format) for each in point]
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
    accepted = torch.rand_like(chance, memory_format=torch.contiguous_format) < chance
    kept = [torch.where(space.spread(accepted, old), new, old) for new, old in zip(there, point, strict=True)]
    start, target = torch.where(accepted, new_start, start), torch.where(accepted, new_target, target)
    return kept, start, target, chance


class Slopes:
    """The gradient of log pi_beta by a graph that serves every temperature and every tile of the data.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        precision: Of the networks.
    """

    def __init__(self, model: Program, guide: Program, precision: Precision) -> None:
        from pyrovae.compiler.graphs import Graphs  # which the objectives import, and they the densities here

        self.graphs = Graphs(self._between, (model, guide), None, precision=precision, parameters=False)
        self._path: Path | None = None

    def __call__(self, path: Path, point: list[Tensor], beta: Tensor) -> list[Tensor] | None:
        """Gradients of the point's tensors and the densities of the two ends; None where no graph can be."""
        looked, self._path = self._path is path, path
        result = self.graphs.run((point, beta, path.args), {}, gradients=True, check=not looked)
        if result is None:
            return None
        return [*(each for each in result.gradients if each is not None), *result.more]

    def _between(self, point: list[Tensor], beta: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        assert self._path is not None
        for name, transform in zip(self._path.space.names, self._path.space.transforms, strict=True):
            if captured.get() and _has_tensors(transform):
                from pyrovae.core.context import NotCapturableError

                raise NotCapturableError(f"the bounds of site '{name}' are tensors, and may follow the data")
        return self._path.between(point, beta, args)


def _has_tensors(transform: Any) -> bool:
    """Whether a map, or what it is made of, has more to it than its kind."""
    parts = [part for name, part in vars(transform).items() if name != "_inv"]  # which points back
    parts += [each for part in parts if isinstance(part, list) for each in part]
    return any(
        isinstance(part, Tensor) or (isinstance(part, Transform) and _has_tensors(part)) for part in parts
    )


@lru_cache(maxsize=4)
def compiled_slopes(model: Program, guide: Program, start: str, precision: Precision) -> Slopes:
    """Those of a pair, kept until four others were asked for: making graphs takes seconds."""
    return Slopes(model, guide, precision)
