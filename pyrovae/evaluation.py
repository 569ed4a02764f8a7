"""evaluate: log p(x) of every datum with its error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from pyrovae.annealing import ais_log_weights
from pyrovae.batching import Data, batches, conventions_of, num_rows
from pyrovae.importance import weigh
from pyrovae.parameters import check_positive
from pyrovae.pareto import FEWEST_DRAWS, khat_threshold, pareto_khat
from pyrovae.programs import Program, Structure, inspect, mode, modules_of, plain_errors
from pyrovae.reductions import check_count, ess, log_evidence, standard_error
from pyrovae.results import FIELDS, Evaluation
from pyrovae.streams import seed_of, stream
from pyrovae.tally import Tally

__all__ = ["evaluate"]

METHODS = {"is": "importance sampling", "ais": "annealed importance sampling"}

ROWS_AT_ONCE = 64
"""Rows that share a stream of noise. Fixed, so that the noise depends on no memory setting."""


@torch.no_grad()
def evaluate(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    method: str = "is",
    chunk_size: int | None = None,
    target_se: float | None = None,
    max_samples: int | None = None,
    num_temperatures: int = 1000,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    r"""Estimate log p(x) of every datum by importance sampling from the guide, with its error.

    .. math:: \log \hat p(x) = \log \frac1K \sum_s \frac{p(x, z_s)}{q(z_s \mid x)}, \qquad
        \log p(x) - \mathrm{ELBO} = KL(q(z \mid x) \,\|\, p(z \mid x))

    The noise of a datum is keyed by its position and the seed, in blocks of 64 rows: it depends
    neither on the chunk size nor on the data that follow, unless there are fewer than 64 rows in
    all. Memory is bounded whatever K. Modules are put in evaluation mode meanwhile.

    With ``target_se`` the draws go where they are needed. A datum whose standard error is above it, or
    whose k-hat is not reliable, gets as many draws again as it has, until both are good or ``max_samples``
    are spent; all its draws count, each once. A rule that stops by the draws themselves is not quite
    unbiased, since draws that miss the largest weights look good early: what it adds to the downward bias
    of any log of a mean is below the stated error.

    With ``method="ais"`` log p(x), its error, effective draws and k-hat are those of K annealed chains,
    :func:`pyrovae.annealing.ais`; the ELBO and its parts are of K draws of the guide as ever.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (arguments of the programs), a Dataset
            or a DataLoader.
        num_samples: Draws per datum, K, or chains.
        method: "is", importance sampling, or "ais", annealed importance sampling; 16 chains are many.
        chunk_size: Draws that the model scores at once; smaller needs less memory.
        target_se: Standard error, in nats, that every datum is to reach; all get K draws if not given.
        max_samples: Most draws for one datum then; 64 K if not given.
        num_temperatures: Of annealing.
        seed: Of the noise.
        device: Where modules and data go; where they are if not given.
        progress: Show a progress bar on standard error.

    Returns:
        Per-datum results; printed, a table with the test-set error and the Monte Carlo error apart.

    Raises:
        ValueError: As :func:`pyrovae.log_weights`; no rows; NaN in the data (its row is named).

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(5)
        >>> result = evaluate(oracle.model, oracle.guide, x, num_samples=50, progress=False)
        >>> torch.allclose(result.log_evidence, oracle.log_evidence(x).double(), atol=1e-4)
        True
    """
    check_count("num_samples", num_samples)
    check_count("chunk_size", 1 if chunk_size is None else chunk_size)
    max_samples = _most(num_samples, target_se, max_samples)
    if method not in METHODS or (method == "ais" and target_se is not None):
        raise ValueError(
            f"evaluate: method '{method}'"
            + (" takes no target_se" if method in METHODS else " is not known")
            + ": use 'is', importance sampling, or 'ais', annealed"
        )
    modules = modules_of(model, guide, device)
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    with mode(modules, training=False), tqdm(total=num_rows(data), disable=not progress) as bar:
        bar.set_description("evaluate")
        structure, fingerprint = None, 0
        for position, (rows, block) in enumerate(_blocks(data, seed, device)):
            first = position * ROWS_AT_ONCE
            with plain_errors(f"data rows {first} to {first + rows - 1}"), stream("evaluate", seed, position):
                structure = structure or inspect(model, guide, *block)
                drawn = weigh(model, guide, block, {}, structure, num_samples, chunk_size)
                tally = Tally.of(drawn, max_samples)
                found = tally.columns()
                if method == "ais":
                    key = seed_of("evaluate by ais", seed, position)
                    found |= _annealed(model, guide, block, num_samples, num_temperatures, key)
            _check_no_nan(found["log_evidence"][:rows], first)
            if target_se is not None:
                for row in (row for row in _hard(tally, target_se) if row < rows):
                    data_of_row = tuple(tensor[row : row + 1] for tensor in block)
                    more = _more_draws(
                        model,
                        guide,
                        data_of_row,
                        structure,
                        tally.row(row),
                        target_se,
                        max_samples,
                        chunk_size,
                        (seed, first + row),
                    )
                    for name, value in more.columns().items():
                        found[name][row] = value[0]
            for tensor in block:
                seen = tensor[:rows].detach().cpu().contiguous().view(torch.uint8)  # numpy lacks bfloat16
                fingerprint = crc32(seen.numpy().tobytes(), fingerprint)
            for name, values in found.items():
                columns[name].append(values[:rows].cpu())
            mean = torch.cat(columns["log_evidence"]).mean()
            bar.set_postfix_str(f"log p(x) {mean:.2f}", refresh=False)
            bar.update(rows)
    results = {name: torch.cat(values) for name, values in columns.items()}
    conventions = {
        **conventions_of(data),
        "rows": len(results["elbo"]),
        "fingerprint": f"{fingerprint:08x}",
        "num_samples": num_samples,
        "method": METHODS[method],
        **({"num_temperatures": num_temperatures} if method == "ais" else {}),
        **({} if target_se is None else {"target_se": target_se, "max_samples": max_samples}),
        "seed": seed,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
    }
    return Evaluation(**results, num_samples=num_samples, conventions=conventions)


def _most(num_samples: int, target_se: float | None, max_samples: int | None) -> int:
    """The most draws that a datum may come to have."""
    if target_se is None:
        if max_samples is not None:
            raise ValueError(
                "evaluate: max_samples limits what target_se asks for: pass target_se, or num_samples"
            )
        return num_samples
    check_positive("evaluate: target_se", target_se)
    if num_samples < FEWEST_DRAWS:
        raise ValueError(
            f"evaluate: target_se needs num_samples of {FEWEST_DRAWS} or more, got {num_samples}"
        )
    if max_samples is not None and max_samples < num_samples:
        raise ValueError(f"evaluate: max_samples is {max_samples:,}, below num_samples, {num_samples:,}")
    return 64 * num_samples if max_samples is None else max_samples


def _annealed(
    model: Program,
    guide: Program,
    block: tuple[Tensor, ...],
    num_samples: int,
    num_temperatures: int,
    key: int,
) -> dict[str, Tensor]:
    """The columns that are reductions of weights, of annealed ones."""
    weights = ais_log_weights(
        model, guide, *block, num_samples=num_samples, num_temperatures=num_temperatures, seed=key
    )
    columns = {
        "log_evidence": log_evidence,
        "standard_error": standard_error,
        "ess": ess,
        "khat": pareto_khat,
    }
    return {name: reduction(weights) for name, reduction in columns.items()}


def _check_no_nan(values: Tensor, first: int) -> None:
    if values.isnan().any():
        row = first + int(values.isnan().nonzero()[0])
        raise ValueError(
            f"data row {row}: its log-weights are NaN: look for NaN in the parameters, or for a density "
            f"that is infinite in the model and the guide alike"
        )


def _blocks(
    data: Data, seed: int, device: torch.device | str | None
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Blocks of ROWS_AT_ONCE rows, a later and ragged one filled up by repeating its last row."""
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        raise ValueError("evaluate: the DataLoader shuffles, so no result would belong to a known row")
    waiting: list[tuple[Tensor, ...]] = []
    filled = False
    for batch in batches(data, ROWS_AT_ONCE, "evaluate", seed, device=device):
        waiting.append(batch)
        while sum(len(rows[0]) for rows in waiting) > ROWS_AT_ONCE:
            joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
            yield ROWS_AT_ONCE, tuple(tensor[:ROWS_AT_ONCE] for tensor in joined)
            waiting = [tuple(tensor[ROWS_AT_ONCE:] for tensor in joined)]
            filled = True
    joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
    rows = len(joined[0])
    filler = torch.arange(ROWS_AT_ONCE if filled else rows).clamp(max=rows - 1)
    yield rows, tuple(tensor[filler.to(tensor.device)] for tensor in joined)


def _hard(tally: Tally, target_se: float) -> list[int]:
    """Rows whose error is above the target, or not to be believed."""
    error, khat = standard_error(tally.sums), pareto_khat(tally.sums)
    fine = (error <= target_se) & (khat < khat_threshold(tally.sums.num_samples))
    fine |= error <= 1e-3 * target_se  # a perfect guide's weights differ by rounding, which has no tail
    return (~fine).nonzero()[:, 0].tolist()


def _more_draws(
    model: Program,
    guide: Program,
    row: tuple[Tensor, ...],
    structure: Structure,
    tally: Tally,
    target_se: float,
    max_samples: int,
    chunk_size: int | None,
    key: tuple[int, int],
) -> Tally:
    """Double a row's draws until its error is below the target, or there would be too many.

    The row fills a block of its own, copied, so that its draws depend on no other row.
    """
    tile = tuple(tensor.expand(ROWS_AT_ONCE, *tensor.shape[1:]).contiguous() for tensor in row)
    for turn in itertools.count():
        count = tally.sums.num_samples
        rounds = min(max(count // ROWS_AT_ONCE, 1), (max_samples - count) // ROWS_AT_ONCE)
        if rounds < 1 or not _hard(tally, target_se):
            return tally
        with stream("evaluate more", *key, turn):
            drawn = weigh(model, guide, tile, {}, structure, rounds, chunk_size)
            pieces = ((weights.reshape(-1, 1), kl.reshape(-1, 1)) for weights, kl in drawn)
            tally = tally.join(Tally.of(pieces, max_samples), max_samples)
    raise AssertionError
