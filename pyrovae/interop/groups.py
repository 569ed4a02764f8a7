"""Draws and weights as labelled arrays with units, in the groups of ArviZ's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.core import __version__
from pyrovae.evaluation.moments import Moments
from pyrovae.evaluation.resampling import Resampled
from pyrovae.evaluation.results import FIELDS
from pyrovae.evaluation.weights import ess, pareto_khat

if TYPE_CHECKING:
    import xarray

GROUPS = {
    "posterior": ("latents", "draws of p(z | x)", "1"),
    "posterior_predictive": ("predictive", "draws of p(x | z)", "1"),
    "log_likelihood": ("log_likelihood", "log p(x | z)", "nat"),
}
"""Groups with chains and draws: the field of Resampled, its description and its unit."""

STATISTICS = {
    "log_weight": ("log p(x, z) - log q(z | x) of the guide's draws", "nat"),
    "resampling_khat": ("k-hat of the weights by which this chain was resampled", "1"),
    "resampling_ess": ("effective number of the draws from which this chain was resampled", "draws"),
    **FIELDS,
}
OTHERS = {"observed_data": ("data", "1"), "constant_data": ("argument of model and guide", "1")}

NOTES = {
    "posterior": (
        "sampling-importance-resampling: for each datum and chain, draws of the guide, resampled with "
        "replacement by their Pareto-smoothed weights; from p(z | x) where resampling_khat and "
        "resampling_ess are good, a few repeated draws where they are not"
    ),
    "log_likelihood": (
        "at draws of p(z | x), which depend on x: arviz.loo of it is the unreliable harmonic mean estimate; "
        "log p(x) is log_evidence in sample_stats"
    ),
}

WORTH_PACKING = 2**16
"""Bytes above which a variable is compressed in files: compression itself takes some thousand."""


class Column(NamedTuple):
    """A variable: the names of its dims, and its values."""

    dims: tuple[str, ...]
    values: Tensor

    @staticmethod
    def joined(parts: list[Column]) -> Column:
        """Blocks of data, one after the other."""
        dims = parts[0].dims
        return Column(dims, torch.cat([part.values for part in parts], dims.index("datum")))


Columns = dict[tuple[str, str], Column]
"""Variables by group and name."""


def columns_of(
    chains: list[Resampled], block: tuple[Tensor, ...], rows: int, names: Mapping[str, Sequence[str]]
) -> Columns:
    """The variables of a block of data, whose first ``rows`` rows count; ``names`` are dims by site."""
    found: Columns = {}
    for group, (field, _, _) in GROUPS.items():
        for name, (values, plates) in getattr(chains[0], field).items():
            dims = ("chain", "draw", "datum", *plates)
            values = torch.stack([getattr(chain, field)[name].values for chain in chains])
            found[group, name] = Column(dims + _event_dims(name, values.dim() - len(dims), names), values)
    for name, (values, plates) in chains[0].observed.items():
        dims = ("datum", *plates)
        event = _event_dims(name, values.dim() - 1 - len(dims), names)
        found["observed_data", name] = Column(dims + event, values[0])
    data = [values[0] for values, _ in chains[0].observed.values()]
    for place, argument in enumerate(block):
        if not any(argument.shape == values.shape and torch.equal(argument, values) for values in data):
            name = f"argument_{place}"
            dims = ("datum", *_event_dims(name, argument.dim() - 1, names))
            found["constant_data", name] = Column(dims, argument)
    weights = torch.stack([chain.log_weights for chain in chains])
    found["sample_stats", "log_weight"] = Column(("chain", "proposal", "datum"), weights)
    for name, reduction in (("resampling_khat", pareto_khat), ("resampling_ess", ess)):
        values = torch.stack([reduction(chain.log_weights) for chain in chains])
        found["sample_stats", name] = Column(("chain", "datum"), values)
    moments = Moments.of(((chain.log_weights, chain.log_ratio) for chain in chains), weights[..., 0].numel())
    found |= {("sample_stats", name): Column(("datum",), each) for name, each in moments.columns().items()}
    return {
        key: Column(dims, values.narrow(dims.index("datum"), 0, rows).cpu())
        for key, (dims, values) in found.items()
    }


def _event_dims(site: str, count: int, names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    given = tuple(names.get(site, (f"{site}_dim_{i}" for i in range(count))))
    if len(given) != count:
        raise ValueError(f"to_arviz: dims of '{site}' are {given}, and one value has {count} dims")
    return given


def datasets(
    columns: Columns, coords: Mapping[str, Sequence[Any]], attributes: Mapping[str, Any]
) -> dict[str, xarray.Dataset]:
    """A Dataset of each group, with labels, units and attributes."""
    import xarray

    unknown = set(coords) - {dim for dims, _ in columns.values() for dim in dims}
    if unknown:
        raise ValueError(f"to_arviz: coords of '{min(unknown)}', which is no dim: name it in dims=")
    groups: dict[str, xarray.Dataset] = {}
    for group in dict.fromkeys(group for group, _ in columns):
        variables: dict[str, Any] = {}
        labels: dict[str, Any] = {}
        for (of, name), (dims, values) in columns.items():
            if of != group:
                continue
            description, unit = _described(group, name)
            array = (values.float() if values.dtype in (torch.bfloat16, torch.half) else values).numpy()
            packed = {"zlib": True} if array.nbytes > WORTH_PACKING else {}
            variables[name] = (dims, array, {"long_name": description, "units": unit}, packed)
            labels |= {dim: coords.get(dim, range(n)) for dim, n in zip(dims, array.shape, strict=True)}
        made = {"inference_library": "pyrovae", "inference_library_version": __version__}
        note = {"note": NOTES[group]} if group in NOTES else {}
        groups[group] = xarray.Dataset(variables, labels, {**made, **attributes, **note})
    return groups


def _described(group: str, name: str) -> tuple[str, str]:
    """Description and unit of a variable."""
    if group == "sample_stats":
        return STATISTICS[name]
    return GROUPS[group][1:] if group in GROUPS else OTHERS[group]
