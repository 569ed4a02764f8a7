"""Evaluation: what evaluate found, per datum, and the table that reports it."""

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
from pyrovae.evaluation.weights import FEWEST_DRAWS, khat_threshold
from pyrovae.storage.files import what_is

if TYPE_CHECKING:
    import xarray

__all__ = ["FIELDS", "Evaluation"]

FEWEST_TOLD = 5
"""Effective draws below which they do not tell their own error."""

MARKS = {"weights": "weights", "rows": "fingerprint", "computed in": "dtype"}
"""What two tables can be told by: hashes, and the conventions that they are in."""

ROWS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "  reconstruction E_q[log p(x|z)]",
    "kl": "  KL(q(z|x) || p(z))",
    "gap": "gap KL(q(z|x) || p(z|x))",
}
"""The table's means, and what it calls them."""

SEAL = re.compile(rb"\nsha256 [0-9a-f]{64}\n\Z")
"""The last line of a file of results; older ones have none."""

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
    r"""What :func:`pyrovae.evaluate` found, per datum ``[n]`` in nats, float64 on the CPU.

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
        draws: Importance draws that the datum got.
        num_samples: Draws per datum, K; the fewest, where some got more.
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
        r"""What log_evidence falls short of log p(x) by, in expectation: -SE^2 / 2, ``[n]`` in nats."""
        return -self.standard_error.square() / 2

    @property
    def corrected(self) -> Tensor:
        r"""Log_evidence less its expected bias, ``[n]`` in nats: nearer on average, and no lower bound."""
        return self.log_evidence - self.bias

    @property
    def khat_threshold(self) -> Tensor:
        r"""The k-hat below which each datum's draws give a reliable mean: ``[n]``; the more, the laxer."""
        return torch.tensor([khat_threshold(int(draws)) for draws in self.draws], dtype=self.khat.dtype)

    @property
    def reliable(self) -> Tensor:
        """Whether a datum's k-hat is below its threshold: ``[n]``, bool; never where it is nan.

        Example:
            >>> from pyrovae import evaluate
            >>> from pyrovae.testing import LinearGaussian
            >>> oracle = LinearGaussian(torch.ones(3, 1), widen=1.5)
            >>> x = oracle.sample(3)  # of weights that are bounded
            >>> evaluate(oracle.model, oracle.guide, x, num_samples=500, progress=False).reliable
            tensor([True, True, True])
        """
        return self.khat < self.khat_threshold

    def worst(self, count: int = 10) -> Tensor:
        """Rows whose log p(x) is the least to be believed, the worst first: by k-hat, then by error.

        A k-hat of nan, of fewer draws than it needs, counts for nothing; one of inf, for the most.
        """
        order = self.standard_error.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)
        khat = self.khat[order].nan_to_num(nan=-torch.inf)
        return order[khat.argsort(descending=True, stable=True)][:count]

    def summary(self) -> dict[str, Any]:
        """The numbers of the table, as ``print`` writes them and ``pyrovae evaluate --json`` does.

        Returns:
            - ``rows``; ``num_samples``, K; ``draws`` per datum: ``least``, ``most``, ``mean``.
            - ``log_evidence``, ``elbo``, ``reconstruction``, ``kl`` and ``gap``, each in nats:
              ``mean`` with its standard errors ``test_set`` and ``monte_carlo``.
            - ``bias``: what the mean log p(x) is expected to fall short by, nats.
            - ``ess``: ``median`` and ``least``; ``untold``, rows of so few that their error is not known.
            - ``khat``: rows ``reliable``, ``doubtful`` and ``beyond`` (above 1, where log p(x) is a lower
              bound), and the ``thresholds``, least and most, below which it is reliable; None of fewer draws
              than it needs.
            - ``missed``: rows whose standard error is above the target; None where there was none.
            - ``conventions``: what all of it is of.
        """
        return {
            "rows": len(self),
            "num_samples": self.num_samples,
            "draws": {
                "least": self.num_samples,
                "most": int(self.draws.max()),
                "mean": self.draws.mean().item(),
            },
            **means(
                {
                    "log_evidence": (self.log_evidence, self.standard_error),
                    "elbo": (self.elbo, self.elbo_error),
                    "reconstruction": (self.reconstruction, self.reconstruction_error),
                    "kl": (self.kl, self.kl_error),
                    "gap": (self.gap, None),
                }
            ),
            "bias": self.bias.mean().item(),
            "ess": {
                "median": self.ess.median().item(),
                "least": self.ess.min().item(),
                "untold": int((self.ess < FEWEST_TOLD).sum()) if self.num_samples > 1 else 0,
            },
            "khat": self._khats(),
            "missed": int((self.standard_error > self.conventions["target_se"]).sum())
            if "target_se" in self.conventions
            else None,
            "conventions": self.conventions,
        }

    def __str__(self) -> str:
        """The table: means with their two errors apart, the expected bias, and what to believe."""
        said, found = self.conventions, self.summary()
        what = [f"{said['dataset']} {said['split']}" if "dataset" in said else "data of unrecorded origin"]
        what += [f"{len(self):,} rows"]
        what += transformations(said)
        what += [_spent(found["draws"]), str(said.get("method", "importance sampling"))]
        what += [f"{said['num_temperatures']:,} temperatures"] if "num_temperatures" in said else []
        what += precision_of(said)
        told = [", ".join(what), *lines({label: found[name] for name, label in ROWS.items()})]
        if self.num_samples > 1:
            told.append(f"{'expected bias of log p(x)':<34}{found['bias']:>10.2g}")
        if "proposal" in said:
            chosen = f", chosen {said['chosen']}" if "chosen" in said else ""
            told.append(f"proposal: {said['proposal']}{chosen}")
        ess = found["ess"]
        told.append(f"effective draws: median {ess['median']:.0f}, least {ess['least']:.1f}")
        if ess["untold"]:
            told.append(
                f"Monte Carlo error: untold of {ess['untold']:,} rows of fewer than {FEWEST_TOLD} effective "
                f"draws, for which 1 nat is the most that it says"
            )
        if found["missed"] is not None:
            told.append(
                f"standard error: {found['missed']:,} rows above the target of {said['target_se']:g} nats"
            )
        told.append(_khat_line(found["khat"]))
        marks = [f"{name} {said[key]}" for name, key in MARKS.items() if key in said]
        return "\n".join([*told, *([", ".join(marks)] if marks else [])])

    def _khats(self) -> dict[str, Any] | None:
        if self.num_samples < FEWEST_DRAWS:
            return None
        good, useless = int(self.reliable.sum()), int((self.khat > 1).sum())
        return {
            "reliable": good,
            "doubtful": len(self) - good - useless,
            "beyond": useless,
            "thresholds": [self.khat_threshold.min().item(), self.khat_threshold.max().item()],
        }

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
        """These results as ArviZ's sample_stats; all its groups with the pair and the data they are of.

        A result holds no draws, so alone it gives no posterior. The options are those of
        :func:`pyrovae.interop.to_arviz`.
        """
        import pyrovae

        missing = [argument is None for argument in (model, guide, data)]
        if all(missing) and not options:
            return pyrovae.interop.statistics_of(self)
        if any(missing):
            raise ValueError("to_arviz: draws need model, guide and data: pass all three, or nothing at all")
        return pyrovae.interop.to_arviz(model, guide, data, self, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the per-datum results as NetCDF; :meth:`load` reads them back.

        A line with the file's SHA-256 follows, which readers of NetCDF pass over: HDF5 takes a flipped byte
        for another number, or never comes back from it.
        """
        temporary = Path(f"{os.fspath(path)}.part")
        self.to_xarray().to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("r+b") as file:
            file.write(_seal(file.read()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there are no results")
        try:
            content = path.read_bytes()
            if (found := SEAL.search(content)) and found[0] != _seal(content[: found.start()]):
                raise ValueError("its SHA-256 is another than when it was written")
            return cls._read(path)
        except Exception as error:  # h5py raises what it likes of a damaged file
            reason = what_is(path) or f"holds no results that can be read ({' '.join(str(error).split())})"
            raise ValueError(f"{path} {reason}: evaluate again") from error

    @classmethod
    def _read(cls, path: Path) -> Evaluation:
        import xarray

        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            count = int(dataset.attrs["num_samples"])
            if "draws" not in dataset:  # written when every datum had as many
                dataset = dataset.assign(draws=("datum", [float(count)] * dataset.sizes["datum"]))
            values = {name: torch.from_numpy(dataset[name].to_numpy().copy()) for name in FIELDS}
            said = json.loads(dataset.attrs["conventions"])
            return cls(**values, num_samples=count, conventions=said)


def _spent(draws: dict[str, Any]) -> str:
    """How many draws there were."""
    if draws["most"] == draws["least"]:
        return f"K = {draws['least']:,} draws"
    return f"K = {draws['least']:,} to {draws['most']:,} draws, {draws['mean']:,.0f} on average"


def _khat_line(found: dict[str, Any] | None) -> str:
    if found is None:
        return f"k-hat: needs {FEWEST_DRAWS} draws or more"
    least, most = (f"{value:.2f}" for value in found["thresholds"])
    below = least if least == most else f"{least} to {most}"
    return (
        f"k-hat: {found['reliable']:,} rows reliable (below {below}), {found['doubtful']:,} doubtful, "
        f"{found['beyond']:,} beyond their draws (above 1): there log p(x) is a lower bound"
    )


def _seal(content: bytes) -> bytes:
    return f"\nsha256 {sha256(content).hexdigest()}\n".encode()
