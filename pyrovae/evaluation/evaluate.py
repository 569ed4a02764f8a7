"""evaluate: log p(x) of every datum with its error."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from pyrovae.core import distributed
from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.context import caching
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.precision import Precision, check_precision, networks_in
from pyrovae.core.programs import plain_errors
from pyrovae.core.progress import progress_bar
from pyrovae.core.random import stream
from pyrovae.data.rows import Data, conventions_of, fingerprint, num_rows
from pyrovae.evaluation.estimator import Estimator
from pyrovae.evaluation.importance import log_weights
from pyrovae.evaluation.ledger import ResumeLog
from pyrovae.evaluation.proposals import TRIED, Proposal, choose
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.scorer import Scorer, compiled_scorer
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, Memory, Tile, look, spaced, tiles
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import hash_of

__all__ = ["METHODS", "evaluate", "made_with", "proposal_for"]

FEWEST_TO_STOP = 100
"""Draws before anything is decided by them."""

METHODS = {"is": "importance sampling", "ais": "annealed importance sampling"}


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

    The answer for a datum is the same to the last bit whatever the batch size, the other data and what was
    computed before: it is computed in tiles of 64 rows, the last one filled up, and the noise of a tile is
    keyed by its place in the data and the seed. (Where a guide draws by rejection, as a Gamma or a Dirichlet
    does on the CPU, rows of a tile share what they use of its stream.) Another chunk size changes the last
    bits of float32, and of annealed chains nothing. Memory is bounded whatever K: a chunk has as many draws
    as are fast, or, with a warning, as half of the free memory holds, by what a few take; where it runs out
    all the same, the chunk is halved, with another. Modules are put in evaluation mode meanwhile.

    In a process group of torch.distributed (:func:`pyrovae.distributed.join`) every process calls it alike:
    the tiles are dealt to the processes, all of them get the whole answer, which is that of one process to
    the last bit (with as many threads each), and the first one writes. A file to resume from goes on with any
    number.

    With ``target_se`` the draws go where they are needed. A datum whose standard error is above it, or
    whose k-hat is not reliable, gets as many draws again as it has, until both are good or ``max_samples``
    are spent; all its draws count, each once. Each round's weights average to p(x), given all that was
    drawn before; but a rule that stops by the draws themselves is not quite unbiased, since draws that
    miss the largest weights look good early. What it adds is below the stated error where the first K draws
    tell whether there are such weights: a few hundred do for any guide with a mode wherever the posterior
    has one. A mode that the guide visits once in a hundred draws is beyond them.

    With ``proposal`` log p(x), its error, effective draws and k-hat are of draws of a better density than
    the guide, see :mod:`pyrovae.proposals`; with ``method="ais"``, of K annealed chains,
    :func:`pyrovae.evaluation.annealing.ais`. The ELBO and its parts are of K draws of the guide as ever.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (arguments of the programs), a Dataset
            or a DataLoader.
        num_samples: Draws per datum, K, or chains.
        method: "is", importance sampling, or "ais", annealed importance sampling; 16 chains are many.
            Chains are those of whole tiles of 64 rows, whatever rows there are, since a pass of another shape
            rounds otherwise: of a few data :func:`pyrovae.ais_log_weights` takes no more than there are.
        proposal: "auto", which tries all on the first tile and says what it chose and why; "adapted",
            "refined", "widened" or "defensive"; or a program, called as the guide is. The guide if not given.
        batch_size: Rows that are fetched from the data at once.
        chunk_size: Draws that the model scores at once, in place of as many as fit. Chains go through passes
            of a size of their own, since a rounding decides whether a move is accepted; where memory does not
            hold one, there is a warning.
        target_se: Standard error, in nats, that every datum is to reach; all get K draws if not given.
        max_samples: Most draws for one datum then; 64 K if not given.
        num_temperatures: Of annealing.
        resume: File of what is finished, for long evaluations: a killed one goes on where it was.
        compile: Score draws by a compiled graph of the model: it takes some ten seconds to make, and rounds
            otherwise in the last bits.
        precision: "bfloat16" multiplies so in the networks' layers, and "tf32" on a GPU: another model, by
            a little.
        seed: Of the noise.
        device: Where modules and data go; where they are if not given.
        progress: Show a progress bar on standard error; where that is no terminal, a line now and then.

    Returns:
        Per-datum results; printed, a table with the test-set error and the Monte Carlo error apart.

    Raises:
        ValueError: As :func:`pyrovae.log_weights`; no rows; NaN in the data (its row is named); a file
            to resume from that is of something else.
        OSError: Another process is at work with that file.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(5)
        >>> result = evaluate(oracle.model, oracle.guide, x, num_samples=50, progress=False)
        >>> torch.allclose(result.log_evidence, oracle.log_evidence(x).double(), atol=1e-4)
        True
    """
    with distributed.collective():
        check_count("num_samples", num_samples)
        for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
            check_count(name, 1 if value is None else value)
        max_samples = _most(num_samples, target_se, max_samples)
        _check_method(method, target_se)
        check_precision(precision)
        modules = modules_of(model, guide, device)
        distributed.refuse_sharded("evaluate", modules)
        distributed.tell_of_no_group("evaluate")
        if proposal is not None and not isinstance(proposal, str):
            modules += modules_of(proposal, proposal, device)
    said = {
        "num_samples": num_samples,
        "method": METHODS[method],
        **({"num_temperatures": num_temperatures} if method == "ais" else {}),
        **({} if target_se is None else {"target_se": target_se, "max_samples": max_samples}),
        "seed": seed,
        **({"compiled": True} if compile else {}),
        **made_with(modules, precision),
    }
    distributed.check_same_settings("evaluate", {**said, "rows": num_rows(data), "kept": resume is not None})
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    seen, memory, mine = 0, Memory(chunk_size), distributed.is_first()
    lock = nullcontext() if resume is None or not mine else locked(Path(f"{resume}.lock"), passing=True)
    with ExitStack() as stack:
        with distributed.collective():
            stack.enter_context(lock)
        stack.enter_context(mode(modules, training=False))
        bar = stack.enter_context(progress_bar(num_rows(data), "evaluate", show=progress and mine))
        every = tiles(data, seed, batch_size=batch_size, device=device)
        with distributed.collective():
            tile = next(every)
            with plain_errors(tile.name), networks_in(precision):
                structure, first = look(model, guide, tile)
                memory.fit(model, guide, structure, first, num_samples)
                chosen = proposal_for(model, guide, proposal, data, first, seed, method, memory)
        said |= chosen.said | ({} if structure.measure is None else {"measure": structure.measure})
        distributed.check_same_settings("evaluate", said)
        ledger = None
        if resume is not None:
            probed = said | _probe(model, chosen.program, first)
            ledger = distributed.from_first(lambda: ResumeLog(resume, probed))
        estimator = Estimator(
            model,
            guide,
            chosen.program,
            structure,
            num_samples,
            max_samples,
            target_se,
            num_temperatures if method == "ais" else None,
            seed,
            memory,
            compiled_scorer(model, precision) if compile else Scorer(model, precision=precision),
            precision,
        )
        bare = structure.rows < ROWS_IN_A_TILE
        every = (each.bare() if bare else each for each in chain([tile], every))
        known = (lambda _: None) if ledger is None else ledger.find
        for tile, found, new in distributed.scatter_work(every, known, estimator.columns):
            if new and ledger is not None and mine:
                ledger.add(tile, found)
            for name, values in found.items():
                columns[name].append(values)
            seen = fingerprint(tile.data(), seen)
            mean = torch.cat(columns["log_evidence"]).mean()
            bar.set_postfix_str(f"log p(x) {mean:.2f}", refresh=False)
            bar.update(tile.rows)
    results = {name: torch.cat(values) for name, values in columns.items()}
    conventions = {
        **conventions_of(data),
        "rows": len(results["elbo"]),
        "fingerprint": f"{seen:08x}",
        **said,
    }
    return Evaluation(**results, num_samples=num_samples, conventions=conventions)


def proposal_for(
    model: Program,
    guide: Program,
    proposal: str | Program | None,
    data: Data,
    first: Tile,
    seed: int,
    method: str,
    memory: Memory,
) -> Proposal:
    """The proposal, tried on rows from all over the data where there is a choice."""
    some: tuple[Tensor, ...] = first.arguments
    if proposal == "auto" and len(some[0]) == ROWS_IN_A_TILE:
        some = spaced(data, ROWS_IN_A_TILE, seed, device=some[0].device)[1]
    return memory.run(
        lambda _: choose(model, guide, proposal, some, seed, to_start_from=method == "ais"), TRIED
    )


def _probe(model: Program, program: Program, first: Tile) -> dict[str, str]:
    """What programs that hold no parameters are known by again: weights of a few draws."""
    with stream("evaluate, a probe"), caching():
        weights = log_weights(model, program, *first.arguments, num_samples=2)
    return {"first weights": f"{weights.sum():.10g}"}


def made_with(modules: list[nn.Module], precision: Precision) -> dict[str, str]:
    """What numbers were computed in, by what, and with which weights."""
    return {
        "precision": precision,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
        "weights": hash_of(modules),
    }


def _check_method(method: str, target_se: float | None) -> None:
    if method not in METHODS or (method == "ais" and target_se is not None):
        raise ValueError(
            f"evaluate: method '{method}'"
            + (" takes no target_se" if method in METHODS else " is not known")
            + ": use 'is', importance sampling, or 'ais', annealed"
        )


def _most(num_samples: int, target_se: float | None, max_samples: int | None) -> int:
    """The most draws that a datum may come to have."""
    if target_se is None:
        if max_samples is not None:
            raise ValueError(
                "evaluate: max_samples limits what target_se asks for: pass target_se, or num_samples"
            )
        return num_samples
    check_positive("evaluate: target_se", target_se)
    if num_samples < FEWEST_TO_STOP:
        raise ValueError(
            f"evaluate: target_se needs num_samples of {FEWEST_TO_STOP} or more, got {num_samples}"
        )
    if max_samples is not None and max_samples < num_samples:
        raise ValueError(f"evaluate: max_samples is {max_samples:,}, below num_samples, {num_samples:,}")
    return 64 * num_samples if max_samples is None else max_samples
