"""What is found of one tile of data: by draws, more where they are needed, or by annealed chains."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, networks_in
from pyrovae.core.programs import Structure, plain_errors, traces
from pyrovae.core.random import seed_of, stream
from pyrovae.evaluation.annealing import ais_log_weights
from pyrovae.evaluation.annealing_path import ROWS_AT_ONCE
from pyrovae.evaluation.importance import pass_size, weigh
from pyrovae.evaluation.moments import Moments
from pyrovae.evaluation.scorer import Scorer
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, Memory, Tile
from pyrovae.evaluation.weights import (
    WeightSums,
    ess,
    khat_threshold,
    log_evidence,
    pareto_khat,
    standard_error,
)

__all__ = ["Estimator"]

ROW_CHUNK = 1024
"""Draws of a single datum that a compiled graph scores at once."""


@dataclass
class Estimator:
    """How every tile is treated.

    Attributes:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), of which the ELBO is.
        proposal: The program that log p(x) is estimated with; the guide itself, or a better one.
        structure: Of the pair.
        num_samples: Draws of each datum, or chains.
        max_samples: Most draws of one datum.
        target_se: Standard error that draws are added for; None for as many for all.
        num_temperatures: Of annealing, which takes the place of draws; None without.
        seed: Of all noise.
        memory: How many draws are scored at once.
        score: The model's densities.
        precision: Of the networks.
    """

    model: Program
    guide: Program
    proposal: Program
    structure: Structure
    num_samples: int
    max_samples: int
    target_se: float | None
    num_temperatures: int | None
    seed: int
    memory: Memory
    score: Scorer
    precision: Precision

    def columns(self, tile: Tile) -> dict[str, Tensor]:
        """Every column of a result, for each row of data of a tile."""
        with plain_errors(tile.name), caching(), networks_in(self.precision), self.score.assume_unchanged():
            if self.score.compile:
                traces(self.model, self.guide, tile.arguments, {})  # a graph does not look at the data
            tally = self._drawn(self.guide, tile, "evaluate")
            found = tally.columns()
            if self.num_temperatures is not None:
                found |= self._annealed(tile)
            elif self.proposal is not self.guide:
                tally = self._drawn(self.proposal, tile, "evaluate by a proposal")
                found |= _of_weights(tally.sums)
            _check_no_nan(found["log_evidence"][: tile.rows], tile.first)
            if self.target_se is not None:
                for row in self._hard(tally):
                    if row < tile.rows:
                        more = self._more(tile, row, tally.row(row))
                        better = more.columns() if self.proposal is self.guide else _of_weights(more.sums)
                        for name, value in better.items():
                            found[name][row] = value[0]
        return {name: values[: tile.rows].cpu() for name, values in found.items()}

    def _drawn(self, program: Program, tile: Tile, purpose: str) -> Moments:
        """Of a tile's draws."""

        def compute(chunk_size: int | None) -> Moments:
            with stream(purpose, self.seed, tile.position):
                arguments, count = tile.arguments, self.num_samples
                drawn = weigh(self.score, program, arguments, {}, self.structure, count, chunk_size)
                return Moments.of(drawn, self.max_samples)

        return self.memory.run(compute, pass_size(self.structure, tile.arguments))

    def _annealed(self, tile: Tile) -> dict[str, Tensor]:
        """The columns that are reductions of weights, of annealed ones."""

        def compute(chunk_size: int | None) -> Tensor:
            return ais_log_weights(
                self.model,
                self.proposal,
                *tile.arguments,
                num_samples=self.num_samples,
                num_temperatures=self.num_temperatures,
                chunk_size=chunk_size if self.memory.halved else None,
                compile=self.score.compile,
                precision=self.precision,
                seed=seed_of("evaluate by ais", self.seed, tile.position),
            )

        at_once = pass_size(self.structure, tile.arguments, ROWS_AT_ONCE)
        chains = min(self.num_samples, at_once)
        return _of_weights(WeightSums.of(self.memory.run(compute, chains)))

    def _hard(self, tally: Moments) -> list[int]:
        """Rows whose error is above the target, or not to be believed."""
        assert self.target_se is not None
        error, khat = standard_error(tally.sums), pareto_khat(tally.sums)
        fine = (error <= self.target_se) & (khat < khat_threshold(tally.sums.num_samples))
        fine |= error <= 1e-3 * self.target_se  # a perfect guide's weights differ by rounding, without a tail
        return (~fine).nonzero()[:, 0].tolist()

    def _more(self, tile: Tile, row: int, tally: Moments) -> Moments:
        """Double a row's draws until its error is below the target, or there would be too many.

        The row is a tile of its own, so that its draws depend on no other; but for a guide whose rows are
        fixed, of which all are drawn and this one is kept.
        """
        alone = self.structure.rows == ROWS_IN_A_TILE
        arguments = tile.row(row) if alone else tile.arguments
        structure = self.structure._replace(rows=1) if alone else self.structure
        for turn in itertools.count():
            count = tally.sums.num_samples
            more = min(count, self.max_samples - count)
            if more < 1 or not self._hard(tally):
                return tally

            def compute(chunk_size: int | None, turn: int = turn, more: int = more) -> Moments:
                if chunk_size is not None and alone:
                    chunk_size *= ROWS_IN_A_TILE
                if self.score.compile:
                    chunk_size = min(
                        chunk_size or ROW_CHUNK, ROW_CHUNK
                    )  # one graph for every number of draws
                with stream("evaluate more", self.seed, tile.first + row, turn):
                    drawn = weigh(self.score, self.proposal, arguments, {}, structure, more, chunk_size)
                    return Moments.of(drawn, self.max_samples).row(0 if alone else row)

            draws = pass_size(structure, arguments)
            tally = tally.join(self.memory.run(compute, draws), self.max_samples)
        raise AssertionError


def _of_weights(sums: WeightSums) -> dict[str, Tensor]:
    """The columns that are reductions of the weights."""
    found = {
        "log_evidence": log_evidence(sums),
        "standard_error": standard_error(sums),
        "ess": ess(sums),
        "khat": pareto_khat(sums),
    }
    return {**found, "draws": found["ess"].new_full((len(found["ess"]),), float(sums.num_samples))}


def _check_no_nan(values: Tensor, first: int) -> None:
    if values.isnan().any():
        row = first + int(values.isnan().nonzero()[0])
        raise ValueError(
            f"data row {row}: its log-weights are NaN: look for NaN in the parameters, or for a density "
            f"that is infinite in the model and the guide alike"
        )
