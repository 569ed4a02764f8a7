"""evaluate: log p(x) of every datum with its error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.core import distributed
from pyrovae.core.checks import check_count
from pyrovae.core.context import caching
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.precision import Precision
from pyrovae.core.progress import progress_bar
from pyrovae.core.random import stream
from pyrovae.data.rows import Data, conventions_of, fingerprint, num_rows
from pyrovae.evaluation.estimator import Estimator, Settings
from pyrovae.evaluation.importance import log_weights
from pyrovae.evaluation.ledger import ResumeLog
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, Tile, tiles
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import hash_of

__all__ = ["evaluate", "made_with"]


@torch.no_grad()
def evaluate(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    method: str = "is",
    proposal: str | Program | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    target_se: float | None = None,
    max_samples: int | None = None,
    num_temperatures: int = 1000,
    resume: str | os.PathLike[str] | None = None,
    compile: bool = False,
    precision: Precision = "float32",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    r"""Estimate log p(x) of every datum by importance sampling from the guide, with its error.

    .. math:: \log \hat p(x) = \log \frac1K \sum_s \frac{p(x, z_s)}{q(z_s \mid x)}, \qquad
        \log p(x) - \mathrm{ELBO} = KL(q(z \mid x) \,\|\, p(z \mid x))

    A datum's result depends on the seed and on its place in the data, not on ``batch_size``, the other data
    or the number of processes (:func:`pyrovae.distributed.join`): data are computed in tiles of 64 rows, each
    with its own noise. ``proposal`` and ``method`` change the draws behind log p(x), its error, effective
    sample size and k-hat; the ELBO and its parts are always of K draws from the guide. ``target_se`` doubles
    the draws of a datum until its error is below the target and its k-hat is reliable. Stopping by the draws
    themselves adds a bias, below the stated error unless the guide visits a mode less than once in a
    hundred draws.

    Args:
        model: Pyro program of p(x, z), such as ``vae.model``; any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of such tensors (the programs' arguments), a Dataset or a
            DataLoader.
        num_samples: Draws per datum, K, or chains, of which 16 are many.
        method: "is", importance sampling, or "ais", :func:`pyrovae.evaluation.annealing.ais`.
        proposal: Program to draw from in place of the guide, or the name of one in
            :mod:`pyrovae.proposals`; "auto" tries these on 64 rows and records its choice.
        batch_size: Rows fetched from the data at once.
        chunk_size: Draws scored at once, by default what memory holds; it changes the last bits of float32.
        target_se: Standard error, in nats, that every datum is to reach; all get K draws if not given.
        max_samples: Most draws of one datum with ``target_se``; 64 K if not given.
        num_temperatures: Number of annealing temperatures.
        resume: File of finished tiles, from which an interrupted evaluation continues.
        compile: Whether to score draws by a compiled graph, which changes the last bits.
        precision: Precision of the networks' layers: "float32", "bfloat16" or, on a GPU, "tf32".
        seed: Seed of the noise.
        device: Device that modules and data are moved to.
        progress: Whether to show a progress bar on standard error.

    Returns:
        Results per datum; printed, a table that keeps the test-set error and the Monte Carlo error apart.

    Raises:
        ValueError: No rows; NaN in the data; a file to resume from that belongs to another evaluation; any
            error of :func:`pyrovae.log_weights`.
        OSError: Another process uses the file to resume from.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(5)
        >>> result = evaluate(oracle.model, oracle.guide, x, num_samples=50, progress=False)
        >>> torch.allclose(result.log_evidence, oracle.log_evidence(x).double(), atol=1e-4)
        True
    """
    settings = Settings(
        num_samples, method, target_se, max_samples, num_temperatures, chunk_size, compile, precision, seed
    )
    with distributed.collective():
        settings.check()
        check_count("batch_size", 1 if batch_size is None else batch_size)
        modules = _modules_of(model, guide, proposal, device)
    conventions = settings.conventions() | made_with(modules, precision)
    rows = num_rows(data)
    distributed.check_same_settings("evaluate", {**conventions, "rows": rows, "kept": resume is not None})
    with _locked(resume), mode(modules, training=False):
        every = tiles(data, seed, batch_size=batch_size, device=device)
        with distributed.collective():
            first = next(every)
            estimator = Estimator.prepare(model, guide, proposal, data, first, settings)
        conventions |= estimator.conventions()
        distributed.check_same_settings("evaluate", conventions)
        log = None if resume is None else _resume_log(resume, estimator, conventions)
        columns, crc = _evaluate_tiles(estimator, chain([first], every), log, rows, progress)
    origin = {**conventions_of(data), "rows": len(columns["elbo"]), "fingerprint": f"{crc:08x}"}
    return Evaluation(**columns, num_samples=num_samples, conventions=origin | conventions)


def _modules_of(
    model: Program, guide: Program, proposal: str | Program | None, device: torch.device | str | None
) -> list[nn.Module]:
    """The programs' modules, moved to the device; refused where their parameters are sharded."""
    modules = modules_of(model, guide, device)
    distributed.refuse_sharded("evaluate", modules)
    distributed.warn_without_group("evaluate")
    if proposal is None or isinstance(proposal, str):
        return modules
    return modules + modules_of(proposal, proposal, device)


@contextmanager
def _locked(resume: str | os.PathLike[str] | None) -> Iterator[None]:
    """Hold the lock of the file to resume from, in the first process."""
    with ExitStack() as stack:
        with distributed.collective():
            if resume is not None and distributed.is_first():
                stack.enter_context(locked(Path(f"{resume}.lock"), passing=True))
        yield


def _resume_log(
    resume: str | os.PathLike[str], estimator: Estimator, conventions: dict[str, Any]
) -> ResumeLog:
    """The log of finished tiles; programs without parameters are recognised by weights of two draws."""
    model, program = estimator.model, estimator.proposal.program
    with stream("evaluate, a probe"), caching():
        weights = log_weights(model, program, *estimator.first.arguments, num_samples=2)
    probed = conventions | {"first weights": f"{weights.sum():.10g}"}
    return distributed.from_first(lambda: ResumeLog(resume, probed))


def _evaluate_tiles(
    estimator: Estimator, every: Iterable[Tile], log: ResumeLog | None, rows: int, progress: bool
) -> tuple[dict[str, Tensor], int]:
    """The columns of all tiles in order, shared among the processes, and the data's checksum."""
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    checksum, main = 0, distributed.is_first()
    if estimator.structure.rows < ROWS_IN_A_TILE:
        every = (tile.without_padding() for tile in every)
    known = (lambda _: None) if log is None else log.find
    with progress_bar(rows, "evaluate", show=progress and main) as bar:
        for tile, result, new in distributed.scatter_work(every, known, estimator.columns):
            if new and log is not None and main:
                log.add(tile, result)
            for name, values in result.items():
                columns[name].append(values)
            checksum = fingerprint(tile.data(), checksum)
            mean = torch.cat(columns["log_evidence"]).mean()
            bar.set_postfix_str(f"log p(x) {mean:.2f}", refresh=False)
            bar.update(tile.rows)
    return {name: torch.cat(values) for name, values in columns.items()}, checksum


def made_with(modules: list[nn.Module], precision: Precision) -> dict[str, str]:
    """Precision, version of torch and hash of the weights, as a result records them."""
    return {
        "precision": precision,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
        "weights": hash_of(modules),
    }
