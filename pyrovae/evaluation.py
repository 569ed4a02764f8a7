"""evaluate: log p(x) of every datum with its error, and the table that reports it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from pyrovae.batching import Data, batches, conventions_of, num_rows
from pyrovae.importance import weigh
from pyrovae.pareto import FEWEST_DRAWS, khat_threshold, pareto_khat
from pyrovae.programs import Program, Structure, inspect, mode, modules_of, plain_errors
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
    "reconstruction": ("E_q[log p(x|z)]", "nat"),
    "reconstruction_error": ("Monte Carlo standard error of reconstruction", "nat"),
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
        reconstruction: E_q[log p(x | z)], which is ``elbo + kl``.
        reconstruction_error: Its Monte Carlo standard error.
        kl: KL(q(z | x) || p(z)).
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
    reconstruction: Tensor
    reconstruction_error: Tensor
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
    def bias(self) -> Tensor:
        r"""What log_evidence falls short of log p(x) by, in expectation: -SE^2 / 2, ``[n]`` in nats."""
        return -self.standard_error.square() / 2

    def __str__(self) -> str:
        """The table: means with their two errors apart, the expected bias, and what to believe."""
        said = self.conventions
        what = [f"{said['dataset']} {said['split']}" if "dataset" in said else "data of unrecorded origin"]
        what += [f"{len(self):,} rows"]
        what += [f"binarisation {said['binarisation']}"] if "binarisation" in said else []
        what += [f"{said['dequantisation']} dequantisation"] if "dequantisation" in said else []
        what += [f"K = {self.num_samples:,} draws", "importance sampling"]
        lines = [", ".join(what), f"{'nats per datum':<34}{'mean':>10}{'test set':>12}{'Monte Carlo':>14}"]
        rows = {
            "log p(x)": (self.log_evidence, self.standard_error),
            "ELBO": (self.elbo, self.elbo_error),
            "  reconstruction E_q[log p(x|z)]": (self.reconstruction, self.reconstruction_error),
            "  KL(q(z|x) || p(z))": (self.kl, self.kl_error),
            "gap KL(q(z|x) || p(z|x))": (self.gap, None),
        }
        for name, (values, errors) in rows.items():
            test_set, monte_carlo = _errors(values, errors)
            lines.append(f"{name:<34}{values.mean():>10.3f}{_shown(test_set):>12}{_shown(monte_carlo):>14}")
        if self.num_samples > 1:
            lines.append(f"{'expected bias of log p(x)':<34}{self.bias.mean():>10.2g}")
        lines.append(f"effective draws: median {self.ess.median():.0f}, least {self.ess.min():.1f}")
        return "\n".join([*lines, self._khat_line()])

    def _khat_line(self) -> str:
        if self.num_samples < FEWEST_DRAWS:
            return f"k-hat: needs {FEWEST_DRAWS} draws or more"
        threshold = khat_threshold(self.num_samples)
        good, useless = int((self.khat < threshold).sum()), int((self.khat > 1).sum())
        return (
            f"k-hat: {good:,} rows reliable (below {threshold:.2f}), {len(self) - good - useless:,} "
            f"doubtful, {useless:,} beyond their draws (above 1): there log p(x) is a lower bound"
        )

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


def _errors(values: Tensor, errors: Tensor | None) -> tuple[float, float]:
    """Standard errors of a mean: from the choice of data, and from the draws; nan where unknown."""
    n = len(values)
    monte_carlo = math.nan if errors is None else errors.norm().item() / n
    if n == 1:
        return math.nan, monte_carlo
    # The spread of estimates is that of the data plus that of the draws.
    drawn = 0.0 if errors is None or errors.isnan().any() else errors.square().mean().item()
    return math.sqrt(max(values.var().item() - drawn, 0.0) / n), monte_carlo


def _shown(error: float) -> str:
    if math.isnan(error):
        return ""
    return f"± {error:.3f}" if error >= 0.001 or error == 0 else f"± {error:.0e}"


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

    The noise of a datum is keyed by its position and the seed, in blocks of 64 rows: it depends
    neither on the chunk size nor on the data that follow, unless there are fewer than 64 rows in
    all. Memory is bounded whatever K. Modules are put in evaluation mode meanwhile.

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
        structure, fingerprint = None, 0
        for position, (rows, block) in enumerate(_blocks(data, seed, device)):
            first = position * ROWS_AT_ONCE
            with plain_errors(f"data rows {first} to {first + rows - 1}"), stream("evaluate", seed, position):
                structure = structure or inspect(model, guide, *block)
                found = _evaluate_block(model, guide, block, structure, num_samples, chunk_size)
            _check_no_nan(found["log_evidence"][:rows], first)
            for tensor in block:
                fingerprint = crc32(tensor[:rows].cpu().contiguous().numpy().tobytes(), fingerprint)
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
        "method": "importance sampling",
        "seed": seed,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
    }
    return Evaluation(**results, num_samples=num_samples, conventions=conventions)


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


def _evaluate_block(
    model: Program,
    guide: Program,
    block: tuple[Tensor, ...],
    structure: Structure,
    num_samples: int,
    chunk_size: int | None,
) -> dict[str, Tensor]:
    """Every column of the result for one block of data."""
    sums: WeightSums | None = None
    moments = torch.zeros(2, 3, len(block[0]), dtype=torch.float64, device=block[0].device)
    for weights, kl in weigh(model, guide, block, {}, structure, num_samples, chunk_size):
        chunk = WeightSums.of(weights, num_samples)
        averaged = torch.stack([weights, weights + kl, kl])  # ELBO, reconstruction, KL
        if sums is None:  # moments about the first draw lose no digits
            origin = averaged[:, :1].nan_to_num(neginf=0.0)
        sums = chunk if sums is None else sums.join(chunk, num_samples)
        shifted = averaged - origin
        moments += torch.stack([shifted.sum(1), shifted.square().sum(1)])
    assert sums is not None
    mean, mean_square = moments / num_samples
    variance = (mean_square - mean.square()).clamp(min=0)
    error = (variance / (num_samples - 1)).sqrt() if num_samples > 1 else torch.full_like(mean, torch.nan)
    _, reconstruction, kl = mean + origin[:, 0]
    return {
        "log_evidence": log_evidence(sums),
        "standard_error": standard_error(sums),
        "elbo": elbo(sums),
        "elbo_error": error[0],
        "reconstruction": reconstruction,
        "reconstruction_error": error[1],
        "kl": kl,
        "kl_error": error[2],
        "ess": ess(sums),
        "khat": pareto_khat(sums),
    }
