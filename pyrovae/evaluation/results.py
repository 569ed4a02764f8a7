"""Evaluation: the results of evaluate per datum, and the table that reports them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.core.tables import lines, means, precision_of, transformations
from pyrovae.evaluation.weights import FEWEST_DRAWS, classify_khat, khat_labels, khat_threshold
from pyrovae.storage.files import what_is, write_file

if TYPE_CHECKING:
    import xarray

__all__ = ["FIELDS", "Evaluation", "table_head"]

FEWEST_TOLD = 5  # smallest effective sample size at which the standard error is meaningful
# Conventions that identify what was evaluated, by their name in the table.
MARKS = {"weights hash": "weights", "data hash": "fingerprint", "computed in": "dtype"}
ROWS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "  reconstruction E_q[log p(x|z)]",
    "kl": "  KL(q(z|x) || p(z))",
    "gap": "gap KL(q(z|x) || p(z|x))",
}
"""The table's means, and their names in it."""

# The last line of a file of results, absent from older files.
SEAL = re.compile(rb"\nsha256 [0-9a-f]{64}\n\Z")
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
    "draws": ("importance draws", "draws"),
}


@dataclass(frozen=True)
class Evaluation:
    r"""Results of :func:`pyrovae.evaluate` per datum: ``[n]`` each, in nats, float64 on the CPU.

    Attributes:
        log_evidence: Importance-sampling estimate of log p(x).
        standard_error: Monte Carlo standard error of ``log_evidence``.
        elbo: E_q[log p(x, z) - log q(z | x)].
        elbo_error: Monte Carlo standard error of ``elbo``.
        reconstruction: E_q[log p(x | z)], which is ``elbo + kl``.
        reconstruction_error: Monte Carlo standard error of ``reconstruction``.
        kl: KL(q(z | x) || p(z)).
        kl_error: Monte Carlo standard error of ``kl``.
        ess: Effective sample size, in draws.
        khat: Pareto shape of the largest weights, without unit; see :func:`pyrovae.pareto_khat`.
        draws: Number of importance draws.
        num_samples: Draws per datum, K; the fewest, where some data got more.
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
    draws: Tensor
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
        r"""Expected bias of log_evidence, -SE^2 / 2: ``[n]`` in nats."""
        return -self.standard_error.square() / 2

    @property
    def corrected(self) -> Tensor:
        r"""Log_evidence less its expected bias: ``[n]`` in nats, closer on average and no lower bound."""
        return self.log_evidence - self.bias

    @property
    def khat_threshold(self) -> Tensor:
        r"""The k-hat below which a datum's draws give a reliable mean: ``[n]``, larger for more draws."""
        return torch.tensor([khat_threshold(int(draws)) for draws in self.draws], dtype=self.khat.dtype)

    @property
    def reliable(self) -> Tensor:
        """Whether a datum's k-hat is below its threshold: ``[n]``, bool; False for a k-hat of nan.

        Example:
            >>> from pyrovae import evaluate
            >>> from pyrovae.testing import LinearGaussian
            >>> oracle = LinearGaussian(torch.ones(3, 1), widen=1.5)  # of bounded weights
            >>> x = oracle.sample(3)
            >>> evaluate(oracle.model, oracle.guide, x, num_samples=500, progress=False).reliable
            tensor([True, True, True])
        """
        return classify_khat(self.khat, self.draws).reliable

    def worst(self, count: int = 10) -> Tensor:
        """Rows with the least reliable log p(x), the worst first: by k-hat, then by error; nan comes last."""
        order = self.standard_error.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)
        khat = self.khat[order].nan_to_num(nan=-torch.inf)
        return order[khat.argsort(descending=True, stable=True)][:count]

    def summary(self) -> dict[str, Any]:
        """The numbers of the printed table, as ``pyrovae evaluate --json`` writes them.

        Returns:
            - ``rows``; ``num_samples``, K; ``draws`` per datum: ``least``, ``most``, ``mean``.
            - ``log_evidence``, ``elbo``, ``reconstruction``, ``kl`` and ``gap``, each in nats: ``mean`` with
              its standard errors ``test_set`` and ``monte_carlo``.
            - ``bias``: expected bias of the mean log p(x), in nats.
            - ``ess``: ``median`` and ``least``; ``untold``, rows with too few effective draws for an error.
            - ``khat``: rows ``reliable``, ``doubtful`` and ``beyond`` 1, where log p(x) is a lower bound;
              least and most of the ``thresholds`` below which it is reliable; None for fewer than 25 draws.
            - ``missed``: rows whose standard error is above the target; None without one.
            - ``conventions``: what the numbers are of.
        """
        target = self.conventions.get("target_se")
        columns = {
            "log_evidence": (self.log_evidence, self.standard_error),
            "elbo": (self.elbo, self.elbo_error),
            "reconstruction": (self.reconstruction, self.reconstruction_error),
            "kl": (self.kl, self.kl_error),
            "gap": (self.gap, None),
        }
        draws = {"least": self.num_samples, "most": int(self.draws.max()), "mean": self.draws.mean().item()}
        return {
            "rows": len(self),
            "num_samples": self.num_samples,
            "draws": draws,
            **means(columns),
            "bias": self.bias.mean().item(),
            "ess": {
                "median": self.ess.median().item(),
                "least": self.ess.min().item(),
                "untold": int((self.ess < FEWEST_TOLD).sum()) if self.num_samples > 1 else 0,
            },
            "khat": self._khats(),
            "missed": None if target is None else int((self.standard_error > target).sum()),
            "conventions": self.conventions,
        }

    def _khats(self) -> dict[str, Any] | None:
        if self.num_samples < FEWEST_DRAWS:
            return None
        classes, threshold = classify_khat(self.khat, self.draws), self.khat_threshold
        reliable, beyond = int(classes.reliable.sum()), int(classes.beyond.sum())
        return {
            "reliable": reliable,
            "doubtful": len(self) - reliable - beyond,
            "beyond": beyond,
            "thresholds": [threshold.min().item(), threshold.max().item()],
        }

    def __str__(self) -> str:
        """The table: means with their two errors apart, the expected bias, and how reliable they are."""
        return "\n".join(_table(self.summary()))

    def to_xarray(self) -> xarray.Dataset:
        """The per-datum results as an xarray Dataset over ``datum``, with units and conventions."""
        import xarray

        variables = {
            name: ("datum", getattr(self, name).numpy(), {"long_name": what, "units": unit})
            for name, (what, unit) in FIELDS.items()
        }
        attributes = {"num_samples": self.num_samples, "conventions": json.dumps(self.conventions)}
        return xarray.Dataset(variables, {"datum": range(len(self))}, attributes)

    def to_arviz(self, model: Any = None, guide: Any = None, data: Any = None, **options: Any) -> Any:
        """These results as ArviZ's sample_stats; with the pair and its data all of ArviZ's groups.

        The options are those of :func:`pyrovae.interop.to_arviz`.
        """
        import pyrovae

        missing = [argument is None for argument in (model, guide, data)]
        if all(missing) and not options:
            return pyrovae.interop.statistics_of(self)
        if any(missing):
            raise ValueError("to_arviz: draws need model, guide and data: pass all three, or nothing at all")
        return pyrovae.interop.to_arviz(model, guide, data, self, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results as NetCDF, followed by a line with the file's SHA-256, which HDF5 ignores."""
        temporary = Path(f"{os.fspath(path)}.part")
        self.to_xarray().to_netcdf(temporary, engine="h5netcdf")
        content = temporary.read_bytes()
        write_file(Path(path), content + _seal(content))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds no results.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there are no results")
        try:
            content = path.read_bytes()
            if (seal := SEAL.search(content)) and seal[0] != _seal(content[: seal.start()]):
                raise ValueError("its SHA-256 has changed since it was written")
            return cls._read(path)
        except Exception as error:  # h5py raises errors of many kinds for a damaged file
            reason = what_is(path) or f"holds no results that can be read ({' '.join(str(error).split())})"
            raise ValueError(f"{path} {reason}: evaluate again") from error

    @classmethod
    def _read(cls, path: Path) -> Evaluation:
        import xarray

        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            count = int(dataset.attrs["num_samples"])
            if "draws" not in dataset:  # an older file, where every datum has as many
                dataset = dataset.assign(draws=("datum", [float(count)] * dataset.sizes["datum"]))
            values = {name: torch.from_numpy(dataset[name].to_numpy().copy()) for name in FIELDS}
            conventions = json.loads(dataset.attrs["conventions"])
            return cls(**values, num_samples=count, conventions=conventions)


def _table(summary: dict[str, Any]) -> list[str]:
    """Lines of the printed table."""
    conventions, ess = summary["conventions"], summary["ess"]
    table = [_head(summary), *lines({label: summary[name] for name, label in ROWS.items()})]
    if summary["num_samples"] > 1:
        table.append(f"{'expected bias of log p(x)':<34}{summary['bias']:>10.2g}")
    if "proposal" in conventions:
        chosen = f", chosen {conventions['chosen']}" if "chosen" in conventions else ""
        table.append(f"proposal: {conventions['proposal']}{chosen}")
    table.append(f"effective sample size: median {ess['median']:.0f}, least {ess['least']:.1f}")
    if ess["untold"]:
        table.append(
            f"Monte Carlo error unreliable for {ess['untold']:,} rows (fewer than {FEWEST_TOLD} effective "
            f"draws; the stated error cannot exceed 1 nat)"
        )
    if summary["missed"] is not None:
        target = f"{conventions['target_se']:g} nats"
        table.append(f"standard error: {summary['missed']:,} rows above the target of {target}")
    table.append(f"Pareto k-hat: {_khat_counts(summary['khat'])}")
    marks = [f"{name} {conventions[key]}" for name, key in MARKS.items() if key in conventions]
    return [*table, *([", ".join(marks)] if marks else [])]


def _head(summary: dict[str, Any]) -> str:
    draws = summary["draws"]
    count = f"K = {draws['least']:,} draws"
    if draws["most"] != draws["least"]:
        count = f"K = {draws['least']:,} to {draws['most']:,} draws, {draws['mean']:,.0f} on average"
    return table_head(summary["conventions"], summary["rows"], count)


def table_head(conventions: dict[str, Any], rows: int | None, draws: str) -> str:
    """The first line of a table: the data, the number of draws and the method."""
    origin = "data of unrecorded origin"
    if "dataset" in conventions:
        origin = f"{conventions['dataset']} {conventions['split']}"
    temperatures = conventions.get("num_temperatures")
    return ", ".join(
        [
            origin,
            *([] if rows is None else [f"{rows:,} rows"]),
            *transformations(conventions),
            draws,
            str(conventions.get("method", "importance sampling")),
            *([] if temperatures is None else [f"{temperatures:,} temperatures"]),
            *precision_of(conventions),
        ]
    )


def _khat_counts(khat: dict[str, Any] | None) -> str:
    if khat is None:
        return f"needs {FEWEST_DRAWS} draws or more"
    labels = khat_labels(khat["thresholds"])
    return (
        f"{khat['reliable']:,} rows {labels['reliable']}, {khat['doubtful']:,} {labels['doubtful']}, "
        f"{khat['beyond']:,} {labels['beyond']}, where log p(x) is only a lower bound"
    )


def _seal(content: bytes) -> bytes:
    return f"\nsha256 {sha256(content).hexdigest()}\n".encode()
