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

from pyrovae.pareto import FEWEST_DRAWS, khat_threshold
from pyrovae.sources import what_is
from pyrovae.tables import precision_of, table, transformations

if TYPE_CHECKING:
    import xarray

__all__ = ["FIELDS", "Evaluation"]

FEWEST_TOLD = 5
"""Effective draws below which they do not tell their own error."""

MARKS = {"weights": "weights", "rows": "fingerprint", "computed in": "dtype"}
"""What two tables can be told by: hashes, and the conventions that they are in."""

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

    def worst(self, count: int = 10) -> Tensor:
        """Rows whose log p(x) is the least to be believed, the worst first: by k-hat, then by error.

        A k-hat of nan, of fewer draws than it needs, counts for nothing; one of inf, for the most.
        """
        order = self.standard_error.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)
        khat = self.khat[order].nan_to_num(nan=-torch.inf)
        return order[khat.argsort(descending=True, stable=True)][:count]

    def __str__(self) -> str:
        """The table: means with their two errors apart, the expected bias, and what to believe."""
        said = self.conventions
        what = [f"{said['dataset']} {said['split']}" if "dataset" in said else "data of unrecorded origin"]
        what += [f"{len(self):,} rows"]
        what += transformations(said)
        what += [self._spent(), str(said.get("method", "importance sampling"))]
        what += [f"{said['num_temperatures']:,} temperatures"] if "num_temperatures" in said else []
        what += precision_of(said)
        rows = {
            "log p(x)": (self.log_evidence, self.standard_error),
            "ELBO": (self.elbo, self.elbo_error),
            "  reconstruction E_q[log p(x|z)]": (self.reconstruction, self.reconstruction_error),
            "  KL(q(z|x) || p(z))": (self.kl, self.kl_error),
            "gap KL(q(z|x) || p(z|x))": (self.gap, None),
        }
        lines = [", ".join(what), *table(rows)]
        if self.num_samples > 1:
            lines.append(f"{'expected bias of log p(x)':<34}{self.bias.mean():>10.2g}")
        if "proposal" in said:
            chosen = f", chosen {said['chosen']}" if "chosen" in said else ""
            lines.append(f"proposal: {said['proposal']}{chosen}")
        lines.append(f"effective draws: median {self.ess.median():.0f}, least {self.ess.min():.1f}")
        untold = int((self.ess < FEWEST_TOLD).sum()) if self.num_samples > 1 else 0
        if untold:
            lines.append(
                f"Monte Carlo error: untold of {untold:,} rows of fewer than {FEWEST_TOLD} effective draws, "
                f"for which 1 nat is the most that it says"
            )
        if "target_se" in self.conventions:
            target = self.conventions["target_se"]
            missed = int((self.standard_error > target).sum())
            lines.append(f"standard error: {missed:,} rows above the target of {target:g} nats")
        lines.append(self._khat_line())
        marks = [f"{name} {said[key]}" for name, key in MARKS.items() if key in said]
        return "\n".join([*lines, *([", ".join(marks)] if marks else [])])

    def _spent(self) -> str:
        """How many draws there were."""
        most = int(self.draws.max())
        if most == self.num_samples:
            return f"K = {self.num_samples:,} draws"
        return f"K = {self.num_samples:,} to {most:,} draws, {self.draws.mean():,.0f} on average"

    def _khat_line(self) -> str:
        if self.num_samples < FEWEST_DRAWS:
            return f"k-hat: needs {FEWEST_DRAWS} draws or more"
        thresholds = torch.tensor([khat_threshold(int(draws)) for draws in self.draws])
        good, useless = int((self.khat < thresholds).sum()), int((self.khat > 1).sum())
        least, most = (f"{value:.2f}" for value in (thresholds.min(), thresholds.max()))
        return (
            f"k-hat: {good:,} rows reliable (below {least if least == most else f'{least} to {most}'}), "
            f"{len(self) - good - useless:,} "
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

    def to_arviz(self, model: Any = None, guide: Any = None, data: Any = None, **options: Any) -> Any:
        """These results as ArviZ's sample_stats; all its groups with the pair and the data they are of.

        A result holds no draws, so alone it gives no posterior. The options are those of
        :func:`pyrovae.interop.to_arviz`.
        """
        from pyrovae import interop

        missing = [argument is None for argument in (model, guide, data)]
        if all(missing) and not options:
            return interop.statistics_of(self)
        if any(missing):
            raise ValueError("to_arviz: draws need model, guide and data: pass all three, or nothing at all")
        return interop.to_arviz(model, guide, data, self, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the per-datum results as NetCDF; :meth:`load` reads them back.

        A line with the file's SHA-256 follows, which readers of NetCDF pass over: HDF5 takes a flipped byte
        for another number, or never comes back from it.
        """
        temporary = Path(f"{os.fspath(path)}.part")
        self.to_xarray().to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("r+b") as file:
            file.write(_seal(file.read()))
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


def _seal(content: bytes) -> bytes:
    return f"\nsha256 {sha256(content).hexdigest()}\n".encode()
