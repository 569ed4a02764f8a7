"""Estimate every column of a result for one tile of data, by draws or by annealed chains."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, check_precision, networks_in
from pyrovae.core.programs import Structure, plain_errors, traces
from pyrovae.core.random import seed_of, stream
from pyrovae.data.rows import Data
from pyrovae.evaluation.annealing import ais_log_weights
from pyrovae.evaluation.annealing_path import ROWS_AT_ONCE
from pyrovae.evaluation.importance import pass_size, weigh
from pyrovae.evaluation.moments import Moments, weight_columns
from pyrovae.evaluation.proposals import TRIED, Proposal, choose
from pyrovae.evaluation.scorer import Scorer, compiled_scorer
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, Memory, Tile, look, spaced
from pyrovae.evaluation.weights import WeightSums, classify_khat, pareto_khat, standard_error

__all__ = ["FEWEST_TO_STOP", "METHODS", "Estimator", "Settings"]

METHODS = {"is": "importance sampling", "ais": "annealed importance sampling"}

FEWEST_TO_STOP = 100  # fewest draws from which it is decided whether a datum needs more
ROW_CHUNK = 1024  # draws of a single datum that a compiled graph scores at once


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`pyrovae.evaluate` that the result depends on, and the chunk size."""

    num_samples: int
    method: str = "is"
    target_se: float | None = None
    max_samples: int | None = None
    num_temperatures: int = 1000
    chunk_size: int | None = None
    compile: bool = False
    precision: Precision = "float32"
    seed: int = 0

    def check(self) -> None:
        """Raise a ValueError where settings are out of range or contradict one another."""
        count, most = self.num_samples, self.max_samples
        check_count("num_samples", count)
        check_count("chunk_size", 1 if self.chunk_size is None else self.chunk_size)
        if self.target_se is None and most is not None:
            raise ValueError(
                "evaluate: max_samples limits what target_se asks for: pass target_se, or num_samples"
            )
        if self.target_se is not None:
            check_positive("evaluate: target_se", self.target_se)
            if count < FEWEST_TO_STOP:
                needed = f"num_samples of {FEWEST_TO_STOP} or more"
                raise ValueError(f"evaluate: target_se needs {needed}, got {count}")
            if most is not None and most < count:
                raise ValueError(f"evaluate: max_samples is {most:,}, below num_samples, {count:,}")
        if self.method not in METHODS or (self.method == "ais" and self.target_se is not None):
            reason = "takes no target_se" if self.method in METHODS else "is not known"
            raise ValueError(
                f"evaluate: method '{self.method}' {reason}: use 'is', importance sampling, or 'ais', "
                f"annealed"
            )
        check_precision(self.precision)

    @property
    def most(self) -> int:
        """Most draws that one datum may get."""
        if self.target_se is None:
            return self.num_samples
        return 64 * self.num_samples if self.max_samples is None else self.max_samples

    def conventions(self) -> dict[str, Any]:
        """The settings as a result records them."""
        annealed, targeted = self.method == "ais", self.target_se is not None
        return {
            "num_samples": self.num_samples,
            "method": METHODS[self.method],
            **({"num_temperatures": self.num_temperatures} if annealed else {}),
            **({"target_se": self.target_se, "max_samples": self.most} if targeted else {}),
            "seed": self.seed,
            **({"compiled": True} if self.compile else {}),
        }


@dataclass
class Estimator:
    """How every tile is evaluated."""

    model: Program
    guide: Program  # whose ELBO is estimated
    proposal: Proposal  # that log p(x) is estimated with
    structure: Structure
    first: Tile  # that the pair was inspected on
    memory: Memory
    score: Scorer
    settings: Settings

    @classmethod
    def prepare(
        cls,
        model: Program,
        guide: Program,
        proposal: str | Program | None,
        data: Data,
        first: Tile,
        settings: Settings,
    ) -> Estimator:
        """Inspect the pair on a first tile, measure what memory holds, and choose the proposal.

        An "auto" proposal is tried on rows from all over the data, where these fill a tile.
        """
        with plain_errors(first.name), networks_in(settings.precision):
            structure, first = look(model, guide, first)
            memory = Memory(settings.chunk_size)
            memory.fit(model, guide, structure, first, settings.num_samples)
            some: tuple[Tensor, ...] = first.arguments
            if proposal == "auto" and len(some[0]) == ROWS_IN_A_TILE:
                some = spaced(data, ROWS_IN_A_TILE, settings.seed, device=some[0].device)[1]
            annealed = settings.method == "ais"
            chosen = memory.run(
                lambda _: choose(model, guide, proposal, some, settings.seed, to_start_from=annealed), TRIED
            )
        compiled, precision = settings.compile, settings.precision
        score = compiled_scorer(model, precision) if compiled else Scorer(model, precision=precision)
        return cls(model, guide, chosen, structure, first, memory, score, settings)

    def conventions(self) -> dict[str, Any]:
        """What a result records of the proposal and of the pair."""
        measure = {} if self.structure.measure is None else {"measure": self.structure.measure}
        return self.proposal.conventions | measure

    def columns(self, tile: Tile) -> dict[str, Tensor]:
        """Every column of a result, for each row of data of a tile."""
        precision = networks_in(self.settings.precision)
        with plain_errors(tile.name), caching(), precision, self.score.assume_unchanged():
            if self.score.compile:
                traces(self.model, self.guide, tile.arguments, {})  # a graph does not check the data
            moments = self._drawn(self.guide, tile, "evaluate")
            columns = moments.columns()
            if self.settings.method == "ais":
                columns |= weight_columns(self._annealed(tile))
            elif self.proposal.program is not self.guide:
                moments = self._drawn(self.proposal.program, tile, "evaluate by a proposal")
                columns |= weight_columns(moments.sums)
            _check_no_nan(columns["log_evidence"][: tile.rows], tile.first)
            if self.settings.target_se is not None:
                self._refine(columns, moments, tile)
        return {name: values[: tile.rows].cpu() for name, values in columns.items()}

    def _drawn(self, program: Program, tile: Tile, purpose: str) -> Moments:
        """Moments of a tile's draws from a program."""
        count, most = self.settings.num_samples, self.settings.most

        def compute(chunk_size: int | None) -> Moments:
            with stream(purpose, self.settings.seed, tile.position):
                drawn = weigh(self.score, program, tile.arguments, {}, self.structure, count, chunk_size)
                return Moments.of(drawn, most)

        return self.memory.run(compute, pass_size(self.structure, tile.arguments))

    def _annealed(self, tile: Tile) -> WeightSums:
        """Weights of a tile's annealed chains."""
        settings = self.settings

        def compute(chunk_size: int | None) -> Tensor:
            return ais_log_weights(
                self.model,
                self.proposal.program,
                *tile.arguments,
                num_samples=settings.num_samples,
                num_temperatures=settings.num_temperatures,
                chunk_size=chunk_size if self.memory.halved else None,
                compile=settings.compile,
                precision=settings.precision,
                seed=seed_of("evaluate by ais", settings.seed, tile.position),
            )

        at_once = pass_size(self.structure, tile.arguments, ROWS_AT_ONCE)
        return WeightSums.of(self.memory.run(compute, min(settings.num_samples, at_once)))

    def _refine(self, columns: dict[str, Tensor], moments: Moments, tile: Tile) -> None:
        """Replace, in place, the columns of the rows that need more draws."""
        for row in self._unconverged_rows(moments):
            if row < tile.rows:
                more = self._draw_until(tile, row, moments.row(row))
                own = self.proposal.program is self.guide
                for name, value in (more.columns() if own else weight_columns(more.sums)).items():
                    columns[name][row] = value[0]

    def _unconverged_rows(self, moments: Moments) -> list[int]:
        """Rows whose error is above the target, or whose k-hat is not reliable."""
        target = self.settings.target_se
        assert target is not None
        error, khat = standard_error(moments.sums), pareto_khat(moments.sums)
        fine = (error <= target) & classify_khat(khat, moments.sums.num_samples).reliable
        fine |= error <= 1e-3 * target  # a perfect guide's weights differ by rounding, without a tail
        return (~fine).nonzero()[:, 0].tolist()

    def _draw_until(self, tile: Tile, row: int, moments: Moments) -> Moments:
        """Double a row's draws until it has converged, or has the most draws allowed.

        The row is a tile of its own, so that its draws depend on no other row. Where a guide's rows are
        fixed, all rows are drawn and this one is kept.
        """
        alone, most = self.structure.rows == ROWS_IN_A_TILE, self.settings.most
        arguments = tile.row(row) if alone else tile.arguments
        structure = self.structure._replace(rows=1) if alone else self.structure
        for turn in itertools.count():
            count = moments.sums.num_samples
            more = min(count, most - count)
            if more < 1 or not self._unconverged_rows(moments):
                break

            def compute(chunk_size: int | None, turn: int = turn, more: int = more) -> Moments:
                if chunk_size is not None and alone:
                    chunk_size *= ROWS_IN_A_TILE
                if self.score.compile:  # one graph for every number of draws
                    chunk_size = min(chunk_size or ROW_CHUNK, ROW_CHUNK)
                program = self.proposal.program
                with stream("evaluate more", self.settings.seed, tile.first + row, turn):
                    drawn = weigh(self.score, program, arguments, {}, structure, more, chunk_size)
                    return Moments.of(drawn, most).row(0 if alone else row)

            moments = moments.join(self.memory.run(compute, pass_size(structure, arguments)), most)
        return moments


def _check_no_nan(values: Tensor, first: int) -> None:
    if values.isnan().any():
        row = first + int(values.isnan().nonzero()[0])
        raise ValueError(
            f"data row {row}: its log-weights are NaN: look for NaN in the parameters, or for a density "
            f"that is infinite in the model and the guide alike"
        )
