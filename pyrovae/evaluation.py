"""evaluate: log p(x) of every datum with its error, and the table that reports it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.batching import Data, batches, conventions_of, num_rows
from pyrovae.importance import weigh
from pyrovae.pareto import khat_threshold, pareto_khat
from pyrovae.programs import Program, inspect, mode, modules_of, plain_errors
from pyrovae.reductions import WeightSums, check_count, elbo, ess, log_evidence, standard_error
from pyrovae.streams import stream

if TYPE_CHECKING:
    import xarray

__all__ = ["Evaluation", "evaluate"]

ROWS_AT_ONCE = 64
"""Rows that share a stream of noise. Fixed, so that the noise depends on no memory setting."""

FIELDS = {
    "log_evidence": ("log p(x), importance-sampled", "nat"),
    "standard_error": ("Monte Carlo standard error of log_evidence", "nat"),
    "elbo": ("evidence lower bound", "nat"),
    "elbo_error": ("Monte Carlo standard error of elbo", "nat"),
    "kl": ("KL(q(z|x) || p(z))", "nat"),
    "kl_error": ("Monte Carlo standard error of kl", "nat"),
    "ess": ("effective sample size", "draws"),
    "khat": ("Pareto shape of the largest weights", "1"),
}


@dataclass(frozen=True)
class Evaluation:
    r"""What :func:`evaluate` found, per datum ``[n]`` in nats, float64 on the CPU.

    Attributes:
        log_evidence: The importance-sampled log p(x).
        standard_error: Its Monte Carlo standard error.
        elbo: E_q[log p(x, z) - log q(z | x)].
        elbo_error: Its Monte Carlo standard error.
        kl: KL(q(z | x) || p(z)), so that ``elbo + kl`` is E_q[log p(x | z)].
        kl_error: Its Monte Carlo standard error.
        ess: Effective sample size, in draws.
        khat: Pareto shape of the largest weights; see :func:`pyrovae.pareto_khat`.
        num_samples: Draws per datum, K.
        conventions: What the numbers are of: data set, split, binarisation, K, method, seed.
    """

    log_evidence: Tensor
    standard_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    kl: Tensor
    kl_error: Tensor
    ess: Tensor
    khat: Tensor
    num_samples: int
    conventions: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log_evidence)

    @property
    def gap(self) -> Tensor:
        r"""Log p(x) - ELBO, which is KL(q(z | x) || p(z | x)): ``[n]`` in nats."""
        return self.log_evidence - self.elbo

    @property
    def reconstruction(self) -> Tensor:
        """E_q[log p(x | z)]: ``[n]`` in nats."""
        return self.elbo + self.kl

    def __str__(self) -> str:
        """The table: means, and their two errors apart."""
        said = self.conventions
        what = [f"{said.get('dataset', 'data')} {said.get('split', '')}".strip()]
        what += [f"{len(self):,} rows"]
        what += [f"binarisation {said['binarisation']}"] if "binarisation" in said else []
        what += [f"K = {self.num_samples:,} draws", "importance sampling"]
        lines = [", ".join(what), f"{'nats per datum':<34}{'mean':>10}{'test set':>12}{'Monte Carlo':>14}"]
        rows = {
            "log p(x)": (self.log_evidence, self.standard_error),
            "ELBO": (self.elbo, self.elbo_error),
            "  reconstruction E_q[log p(x|z)]": (self.reconstruction, None),
            "  KL(q(z|x) || p(z))": (self.kl, self.kl_error),
            "gap KL(q(z|x) || p(z|x))": (self.gap, None),
        }
        for name, (values, errors) in rows.items():
            test_set = values.std().item() / math.sqrt(len(self)) if len(self) > 1 else math.nan
            monte_carlo = math.nan if errors is None else errors.norm().item() / len(self)
            lines.append(f"{name:<34}{values.mean():>10.3f}{_error(test_set):>12}{_error(monte_carlo):>14}")
        threshold = khat_threshold(self.num_samples)
        doubtful = int((~(self.khat < threshold)).sum())
        lines += [
            f"effective draws: median {self.ess.median():.0f}, least {self.ess.min():.1f}",
            f"k-hat: {doubtful} of {len(self):,} rows not below {threshold:.2f}"
            if self.num_samples >= 25
            else "k-hat: needs 25 draws or more",
        ]
        return "\n".join(lines)

    def to_xarray(self) -> xarray.Dataset:
        """The per-datum results as an xarray Dataset over ``datum``, with units and conventions."""
        import xarray

        variables = {
            name: ("datum", getattr(self, name).numpy(), {"long_name": what, "units": unit})
            for name, (what, unit) in FIELDS.items()
        }
        attributes = {"num_samples": self.num_samples, "conventions": json.dumps(self.conventions)}
        return xarray.Dataset(variables, {"datum": range(len(self))}, attributes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the per-datum results as NetCDF; :meth:`load` reads them back."""
        temporary = f"{os.fspath(path)}.part"
        self.to_xarray().to_netcdf(temporary, engine="h5netcdf")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what :meth:`save` wrote."""
        import xarray

        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            values = {name: torch.from_numpy(dataset[name].to_numpy().copy()) for name in FIELDS}
            said = json.loads(dataset.attrs["conventions"])
            return cls(**values, num_samples=int(dataset.attrs["num_samples"]), conventions=said)


def _error(value: float) -> str:
    return "" if math.isnan(value) else f"± {value:.3f}"


@torch.no_grad()
def evaluate(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    chunk_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    r"""Estimate log p(x) of every datum by importance sampling from the guide, with its error.

    .. math:: \log \hat p(x) = \log \frac1K \sum_s \frac{p(x, z_s)}{q(z_s \mid x)}, \qquad
        \log p(x) - \mathrm{ELBO} = KL(q(z \mid x) \,\|\, p(z \mid x))

    The noise of a datum is keyed by its position and the seed: it depends neither on the chunk
    size nor on what follows in the data. Memory is bounded whatever K. Modules are put in
    evaluation mode meanwhile.

    Args:
        model: Pyro program of p(x, z); ``vae.model`` or any callable.
        guide: Pyro program of q(z | x).
        data: A tensor ``[n, *event]``, a tuple of tensors (arguments of the programs), a Dataset
            or a DataLoader.
        num_samples: Draws per datum, K.
        chunk_size: Draws that the model scores at once; smaller needs less memory.
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
    modules = modules_of(model, guide, device)
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    with mode(modules, training=False), tqdm(total=num_rows(data), disable=not progress) as bar:
        bar.set_description("evaluate")
        for position, (rows, block) in enumerate(_blocks(data, device)):
            first = position * ROWS_AT_ONCE
            with plain_errors(f"data rows {first} to {first + rows - 1}"), stream(seed, position):
                found = _evaluate_block(model, guide, block, num_samples, chunk_size)
            for name, values in found.items():
                columns[name].append(values[:rows].cpu())
            mean = torch.cat(columns["log_evidence"]).mean()
            bar.set_postfix_str(f"log p(x) {mean:.2f}", refresh=False)
            bar.update(rows)
    conventions = {
        **conventions_of(data),
        "num_samples": num_samples,
        "method": "importance sampling",
        "seed": seed,
    }
    results = {name: torch.cat(values) for name, values in columns.items()}
    return Evaluation(**results, num_samples=num_samples, conventions=conventions)


def _blocks(data: Data, device: torch.device | str | None) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Blocks of exactly ROWS_AT_ONCE rows, the last filled up by repeating its last row."""
    if hasattr(data, "reseed"):
        data.reseed(0)
    waiting: list[tuple[Tensor, ...]] = []
    for batch in batches(data, ROWS_AT_ONCE, device=device):
        waiting.append(batch)
        while sum(len(rows[0]) for rows in waiting) >= ROWS_AT_ONCE:
            joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
            yield ROWS_AT_ONCE, tuple(tensor[:ROWS_AT_ONCE] for tensor in joined)
            waiting = [tuple(tensor[ROWS_AT_ONCE:] for tensor in joined)]
    joined = [torch.cat(tensors) for tensors in zip(*waiting, strict=True)]
    rows = len(joined[0])
    if rows:
        filler = torch.arange(ROWS_AT_ONCE).clamp(max=rows - 1)
        yield rows, tuple(tensor[filler.to(tensor.device)] for tensor in joined)


def _evaluate_block(
    model: Program, guide: Program, block: tuple[Tensor, ...], num_samples: int, chunk_size: int | None
) -> dict[str, Tensor]:
    """Every column of the result for one block of data."""
    sums: WeightSums | None = None
    moments = torch.zeros(2, 2, ROWS_AT_ONCE, dtype=torch.float64, device=block[0].device)
    structure = inspect(model, guide, *block)
    for weights, log_likelihood in weigh(model, guide, block, {}, structure, num_samples, chunk_size):
        chunk = WeightSums.of(weights, num_samples)
        sums = chunk if sums is None else sums.join(chunk, num_samples)
        averaged = torch.stack([weights, log_likelihood - weights])
        moments += torch.stack([averaged.sum(1), averaged.square().sum(1)])
    assert sums is not None
    mean, mean_square = moments / num_samples
    variance = (mean_square - mean.square()).clamp(min=0)
    error = (variance / (num_samples - 1)).sqrt() if num_samples > 1 else torch.full_like(mean, torch.nan)
    return {
        "log_evidence": log_evidence(sums),
        "standard_error": standard_error(sums),
        "elbo": elbo(sums),
        "elbo_error": error[0],
        "kl": mean[1],
        "kl_error": error[1],
        "ess": ess(sums),
        "khat": pareto_khat(sums),
    }
