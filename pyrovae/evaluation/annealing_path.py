"""The annealing path, and the HMC transitions that leave each intermediate density invariant."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform

from pyrovae.core.checks import check_count
from pyrovae.core.context import NotCapturableError, captured
from pyrovae.core.memory import fitting
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.precision import Precision, check_precision, networks_in
from pyrovae.core.programs import Site, Structure, inspect, plain_errors, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.scoring import Latents, filled, run_on, sum_by_datum, trace_draws
from pyrovae.evaluation.importance import pass_size
from pyrovae.evaluation.scorer import Scorer
from pyrovae.evaluation.unconstrained import Coordinates, coordinates

__all__ = [
    "Annealed",
    "Path",
    "Slopes",
    "anneal",
    "auxiliary_site",
    "compiled_slopes",
    "moving",
    "path_between",
    "tune",
]

WANTED = 0.65  # acceptance rate that the step sizes are tuned to
TUNING_CHAINS = 4  # chains that step sizes are tuned on
# Chains times data in one pass. Fixed where they fit: a rounding can decide whether a move is accepted.
ROWS_AT_ONCE = {"cpu": 2**10, "cuda": 2**14}

Point = list[Tensor]


class Annealed(NamedTuple):
    """Result of annealing.

    Attributes:
        log_weights: Log-weight of each chain, ``[S, batch]`` in nats, float64.
        acceptance: Share of accepted moves, ``[batch]``.
        step_size: Step size by temperature, ``[T - 1, batch]``, in standard deviations of the start.
    """

    log_weights: Tensor
    acceptance: Tensor
    step_size: Tensor


class Path:
    """The start and target densities as functions of points in unconstrained coordinates."""

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
            latents, again = (self._latents() for _ in range(2))
            self.space: Coordinates = coordinates(latents, again, structure)
            spread = self.draw(64)
        outer = structure.dim, structure.draws_dim
        self.frames = {
            site["name"]: [f for f in site["cond_indep_stack"] if f.vectorized and f.dim not in outer]
            for site in latents
        }
        self.scale = [point.std(0, keepdim=True).clamp(min=1e-6) for point in spread]

    def draw(self, num_samples: int) -> Point:
        """Starting points of chains."""
        with torch.no_grad():
            drawn = self._run(self.model if self.from_prior else self.guide, num_samples)
        return self._free(drawn)

    def at(self, truth: poutine.Trace, num_samples: int) -> Point:
        """The latents of a run of the model, as the point of every chain."""
        return [point.expand(num_samples, *point.shape[1:]).clone() for point in self._free(truth)]

    def by_chunks(self, function: Callable[[Point], Sequence[Tensor]], point: Point) -> list[Tensor]:
        """A function's values at all chains, some at a time; the last chunk is padded to the others' size.

        A pass of another shape would round otherwise.
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
        results = []
        for start in range(0, chains, self.chunk_size):
            chunk = [each[start : start + self.chunk_size] for each in point]
            results.append(function([filled(each, self.chunk_size) for each in chunk]))
        return [torch.cat(each)[:chains] for each in zip(*results, strict=True)]

    def ends(self, point: Point, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Log densities of the start and of the target, ``[S, batch]`` each."""
        latents, log_prior, log_volume, target = self._scored(point, args)
        if self.from_prior:
            return log_prior + log_volume, target
        sites = run_on(self.guide, latents, args, {}, self.structure, len(point[0]), self.plate)
        return sum_by_datum(sites, self.structure) + log_volume, target

    def between(self, point: Point, beta: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of log pi_beta over chains and data, and the two ends."""
        start, target = self.ends(point, args)
        return ((1 - beta) * start + beta * target).sum(), start, target

    def target(self, point: Point) -> Tensor:
        """Log density of the target alone, ``[S, batch]``."""
        return self._scored(point, self.args, self.chunk_size)[-1]

    def fitting(self, most: int) -> int:
        """Chains, up to ``most``, that half of the free memory holds, gradients included."""
        device = self.scale[0].device
        beta = torch.tensor(0.5, dtype=torch.float64, device=device)

        def compute(chains: int) -> None:
            leaves = [each.requires_grad_() for each in self.draw(chains)]
            with torch.enable_grad():
                torch.autograd.grad(self.between(leaves, beta, self.args)[0], leaves)

        return fitting(compute, most, device)

    def _scored(
        self, point: Point, args: tuple[Any, ...], size: int | None = None
    ) -> tuple[Latents, Tensor, Tensor, Tensor]:
        """Values at a point, their log prior, the log volume of the map to them, and the target."""
        values, log_volume = self.space.bound(point)
        latents: Latents = {name: (value, {}) for name, value in values.items()}
        draws = len(point[0])
        log_likelihood, log_prior = self.score(
            latents, args, {}, self.structure, draws, size=size, plate=self.plate
        )
        return latents, log_prior, log_volume, log_prior + log_likelihood + log_volume

    def _run(self, program: Program, chains: int, known: poutine.Trace | None = None) -> poutine.Trace:
        return trace_draws(program, chains, self.structure, self.args, known=known, plate=self.plate)

    def _latents(self) -> list[Site]:
        """The model's latent sites, of a run on a draw of the guide."""
        trace = self._run(self.model, 1, self._run(self.guide, 1))
        return [site for site in sample_sites(trace) if not site["is_observed"]]

    def _free(self, trace: Any) -> Point:
        return self.space.free({name: trace.nodes[name]["value"] for name in self.space.names})


def auxiliary_site(program: Program, args: tuple[Any, ...]) -> str | None:
    """The name of a program's auxiliary site, whose latents have no density of their own."""
    sites = sample_sites(poutine.trace(program).get_trace(*args))
    return next((site["name"] for site in sites if site["infer"].get("is_auxiliary")), None)


def path_between(
    model: Program,
    guide: Program,
    args: Any,
    start: str,
    seed: int,
    chunk_size: int | None = None,
    slopes: Slopes | None = None,
    precision: Precision = "float32",
) -> Path:
    """The path from the guide, or the prior, to p(x, z), after an inspection of the pair."""
    check_count("ais: chunk_size", 1 if chunk_size is None else chunk_size)
    if start not in ("guide", "prior"):
        raise ValueError(f"ais: start must be 'guide' or 'prior', got '{start}'")
    check_precision(precision)
    still = mode(modules_of(model, guide), training=False)
    with networks_in(precision), still, plain_errors(), stream("ais, path", seed):
        structure = inspect(model, guide, *args)
        at_once = pass_size(structure, args, ROWS_AT_ONCE)
        path = Path(model, guide, args, structure, chunk_size=at_once, start=start, slopes=slopes)
        path.chunk_size = path.fitting(at_once) if chunk_size is None else min(chunk_size, at_once)
        path.usual = at_once if chunk_size is None else path.chunk_size
        auxiliary = auxiliary_site(guide, args) if start == "guide" else None
    if auxiliary is not None:
        raise ValueError(
            f"site '{auxiliary}' of the guide is auxiliary, so that its latents have no density to anneal "
            f"from: start from another guide, or with start='prior'"
        )
    return path


@contextmanager
def moving(model: Program, guide: Program) -> Iterator[None]:
    """Switch Pyro's validation off, so that a move that overflows is rejected and raises no error."""
    with mode(modules_of(model, guide), training=False), plain_errors(), pyro.validation_enabled(False):
        yield


def tune(path: Path, betas: Tensor, num_samples: int, num_steps: int, seed: int) -> Tensor:
    """Step sizes by temperature and datum, ``[T - 1, batch]``, from a pass whose weights are discarded."""
    with stream("ais, tuning", seed):
        return anneal(path, path.draw(min(num_samples, TUNING_CHAINS)), betas, None, num_steps).step_size


def anneal(path: Path, point: Point, betas: Tensor, steps: Tensor | None, num_steps: int) -> Annealed:
    """Weigh and move the chains at each temperature, tuning the step sizes where none are given."""
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
            result = path.slopes(path, leaves, at)
            if result is not None:
                return result
        with torch.enable_grad():
            total, start, target = path.between(leaves, at, path.args)
            slope = torch.autograd.grad(total, leaves)
        return [*slope, start.detach(), target.detach()]

    *slope, start, target = path.by_chunks(of_chunk, point)
    return slope, start, target


def _move(
    path: Path, point: Point, start: Tensor, target: Tensor, beta: float, step: Tensor, num_steps: int
) -> tuple[Point, Tensor, Tensor, Tensor]:
    """One HMC transition of every chain: points, densities of start and target, acceptance probability."""
    space = path.space
    sizes = [space.spread(step[None], each) * scale for each, scale in zip(point, path.scale, strict=True)]
    # Contiguous, since the order of random numbers follows the memory layout.
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
    """The gradient of log pi_beta by one compiled graph for all temperatures and tiles."""

    def __init__(self, model: Program, guide: Program, precision: Precision) -> None:
        from pyrovae.compiler.graphs import Graphs  # loads torch's compiler

        self.graphs = Graphs(self._between, (model, guide), None, precision=precision, parameters=False)
        self._path: Path | None = None

    def __call__(self, path: Path, point: list[Tensor], beta: Tensor) -> list[Tensor] | None:
        """Gradients of the point's tensors and the densities of the two ends; None without a graph."""
        looked, self._path = self._path is path, path
        result = self.graphs.run((point, beta, path.args), {}, gradients=True, check=not looked)
        if result is None:
            return None
        return [*(each for each in result.gradients if each is not None), *result.more]

    def _between(self, point: list[Tensor], beta: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        assert self._path is not None
        for name, transform in zip(self._path.space.names, self._path.space.transforms, strict=True):
            if captured.get() and _has_tensors(transform):
                raise NotCapturableError(f"the bounds of site '{name}' are tensors, and may follow the data")
        return self._path.between(point, beta, args)


def _has_tensors(transform: Any) -> bool:
    """Whether a transform, or one of its parts, holds a tensor."""
    parts = [part for name, part in vars(transform).items() if name != "_inv"]  # which points back
    parts += [each for part in parts if isinstance(part, list) for each in part]
    return any(
        isinstance(part, Tensor) or (isinstance(part, Transform) and _has_tensors(part)) for part in parts
    )


@lru_cache(maxsize=4)
def compiled_slopes(model: Program, guide: Program, start: str, precision: Precision) -> Slopes:
    """The compiled gradients of a pair, cached since a graph takes seconds to make."""
    return Slopes(model, guide, precision)
