"""ArviZ, its lines 0.23 and 1.x behind one adapter: to_arviz, to_elpd, and NetCDF that either line reads.

What differs between the lines is in the last three functions of this file and nowhere else.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import plain_errors
from pyrovae.core.random import stream
from pyrovae.data.rows import Data, conventions_of, fingerprint, num_rows
from pyrovae.evaluation.compare import _check_same
from pyrovae.evaluation.estimator import METHODS
from pyrovae.evaluation.evaluate import made_with
from pyrovae.evaluation.resampling import resample
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, look, tiles
from pyrovae.evaluation.weights import classify_khat, khat_threshold
from pyrovae.interop.groups import Column, Columns, columns_of, datasets, joined

if TYPE_CHECKING:
    import xarray

__all__ = [
    "read_netcdf",
    "to_arviz",
    "to_elpd",
    "write_netcdf",
]

LARGEST = 2**33
"""Bytes that the draws may fill."""

HELD_OUT = "held-out log p(x), importance-sampled: no LOO, and pareto_k is that of its weights"
SMALLEST_LOG = -700.0
"""Nats: below about this exp() underflows, and ArviZ's stacking takes it of each log p(x)."""


def to_arviz(
    model: Program,
    guide: Program,
    data: Data,
    result: Evaluation | None = None,
    *,
    num_samples: int = 1000,
    num_draws: int = 100,
    num_chains: int = 4,
    predictive: bool = True,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Any:
    r"""Draws of p(z | x) for each datum, and what is known about log p(x), as ArviZ has them.

    The posterior group is made by sampling-importance-resampling
    (:func:`pyrovae.evaluation.resampling.resample`): draws of the guide, not of a Markov chain. Each chain
    has draws of the guide of its own, so that ``arviz.rhat`` is above 1 where these were too few, and a chain
    repeats the same draws.

    ==================== ============================================= =======================
    posterior            each latent site                              chain, draw, datum, ...
    posterior_predictive each observed site, drawn anew                chain, draw, datum, ...
    log_likelihood       each observed site, log p(x | z), nats        chain, draw, datum
    sample_stats         log_weight, nats, before resampling           chain, proposal, datum
    sample_stats         resampling_khat, resampling_ess               chain, datum
    sample_stats         log_evidence, its error, khat, ... of result  datum
    observed_data        each observed site                            datum, ...
    constant_data        other arguments of the programs               datum, ...
    ==================== ============================================= =======================

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: As :func:`pyrovae.evaluate`; few rows, since each gets draws of x.
        result: What :func:`pyrovae.evaluate` said of these data; if not given, the draws made here say it.
        num_samples: Draws of the guide for each datum and chain.
        num_draws: Draws of the posterior for each datum and chain, taken of these.
        num_chains: Chains, independent of one another.
        predictive: Whether to draw x.
        dims: By site, names of the dims of one value; "z_dim_0" and so on if not given.
        coords: By dim, labels.
        seed: Of the draws.
        chunk_size: Draws that the model scores at once; another size draws x anew.
        device: Where modules and data go.

    Returns:
        An ``arviz.InferenceData`` with ArviZ 0.23, an ``xarray.DataTree`` with 1.x.

    Raises:
        ValueError: As :func:`pyrovae.log_weights`; the result is of other data; a datum has no weight; dims
            or coords that do not fit; the draws would fill more than 8 GiB.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 2))
        >>> tree = to_arviz(oracle.model, oracle.guide, oracle.sample(5), num_samples=50)
        >>> dict(tree["posterior"]["z"].sizes)
        {'chain': 4, 'draw': 100, 'datum': 5, 'z_dim_0': 2}
    """
    for name, count in (("num_samples", num_samples), ("num_draws", num_draws), ("num_chains", num_chains)):
        check_count(f"to_arviz: {name}", count)
    # The same seed gives the rows that the result is of, where a split draws them anew.
    rows_seed = seed if result is None else int(result.conventions.get("seed", seed))
    blocks: list[Columns] = []
    structure, rows, seen = None, 0, 0
    modules = modules_of(model, guide, device)
    with mode(modules, training=False), torch.no_grad():
        for tile in tiles(data, rows_seed, device=device):
            with plain_errors(tile.name):
                structure = structure or look(model, guide, tile)[0]
                tile = tile if structure.rows == ROWS_IN_A_TILE else tile.without_padding()
                chains = []
                for chain in range(num_chains):
                    with stream("to_arviz", seed, chain, tile.position):
                        drawn = resample(
                            model,
                            guide,
                            tile.arguments,
                            structure,
                            num_samples,
                            num_draws,
                            chunk_size,
                            predictive,
                        )
                    chains.append(drawn)
                    if tile.position == chain == 0:  # before there are too many
                        one = columns_of(chains, tile.arguments, tile.rows, dims or {})
                        _check_size(one, num_chains, num_rows(data) / tile.rows)
            blocks.append(columns_of(chains, tile.arguments, tile.rows, dims or {}))
            rows, seen = rows + tile.rows, fingerprint(tile.data(), seen)
    if result is not None:
        _check_is_of(result, rows, f"{seen:08x}")
    columns = {key: joined([block[key] for block in blocks]) for key in blocks[0]}
    said = {
        **conventions_of(data),
        "rows": rows,
        "fingerprint": f"{seen:08x}",
        "num_samples": num_samples * num_chains,  # those of all chains make log_evidence
        "method": METHODS["is"],
        "seed": seed,
        **made_with(modules, "float32"),
    }
    if result is not None:
        said = result.conventions
        columns |= {("sample_stats", name): Column(("datum",), getattr(result, name)) for name in FIELDS}
    attributes = {"num_samples": num_samples, "conventions": json.dumps(said), "seed": seed}
    return _assembled(datasets(columns, coords or {}, attributes))


def _check_size(columns: Columns, num_chains: int, times: float) -> None:
    """Refuse draws that would fill the memory, judged by those of one chain and block."""
    size = 0.0
    for dims, values in columns.values():
        size += times * values.numel() * values.element_size() * (num_chains if "chain" in dims else 1)
    if size > LARGEST:
        raise ValueError(
            f"to_arviz: the draws would fill {size / 2**30:.0f} GiB: pass fewer rows, such as "
            f"data[:100], fewer num_draws, or predictive=False"
        )


def _check_is_of(result: Evaluation, rows: int, seen: str) -> None:
    expected = result.conventions.get("fingerprint", seen)
    if len(result) != rows or expected != seen:
        raise ValueError(
            f"to_arviz: the result is of {len(result):,} rows, fingerprint {expected}, and the data are "
            f"{rows:,} rows, {seen}: pass the data that were evaluated, or no result"
        )


def statistics_of(result: Evaluation) -> Any:
    """What a result alone can say: the sample_stats group, per datum. It holds no draws, so no posterior."""
    return _assembled({"sample_stats": result.to_xarray()})


def to_elpd(result: Evaluation, *, relative_to: Evaluation | None = None) -> Any:
    r"""Held-out log p(x) per datum as ArviZ's ELPDData, for ``arviz.compare``, its weights and its figures.

    .. math:: \mathrm{elpd} = \sum_i \log \hat p(x_i), \qquad
        \mathrm{SE}^2 = n \operatorname{Var}_i \log \hat p(x_i)

    It is no leave-one-out estimate, whatever ArviZ's tables call it: the model was trained on other data.
    pareto_k is k-hat of the importance weights that log p(x) is of, p is nan. :func:`pyrovae.compare` keeps
    the test set's error apart from that of the draws; this is for what ArviZ has besides, such as stacking.

    Args:
        result: What :func:`pyrovae.evaluate` returned.
        relative_to: A result of the same data whose log p(x) is taken off each datum's. Differences and
            stacking weights stay as they are. Below -700 nats a datum stacking needs it, since ArviZ takes
            exp(log p(x)): give all models that are compared the same.

    Returns:
        An ``arviz.ELPDData``.

    Warns:
        UserWarning: A log p(x) whose exponential is zero.

    Raises:
        ValueError: ``relative_to`` is of other data or conventions.

    References:
        Yao et al., Using Stacking to Average Bayesian Predictive Distributions, 2018. arXiv:1704.02030

    Example:
        >>> from pyrovae import evaluate
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(100)
        >>> result = evaluate(oracle.model, oracle.guide, x, num_samples=30, progress=False)
        >>> bool(to_elpd(result)["se"] > 0)
        True
    """
    import xarray

    values, note = result.log_evidence, HELD_OUT
    if relative_to is not None:
        _check_same("relative_to", relative_to, "result", result)
        values, note = values - relative_to.log_evidence, f"{HELD_OUT}; relative to another model's"
    if bool((values < SMALLEST_LOG).any()):
        warnings.warn(
            f"to_elpd: log p(x) is below {SMALLEST_LOG:g} nats, where the exp() of arviz.compare's stacking "
            f"is zero and its weights are wrong: pass relative_to=, the same result for all models",
            stacklevel=2,
        )
    about = {"units": "nat", "long_name": note, "conventions": json.dumps(result.conventions)}
    pointwise = xarray.DataArray(values.numpy(), dims="datum", name="log_evidence", attrs=about)
    khat = xarray.DataArray(result.khat.numpy(), dims="datum", name="khat")
    classes = classify_khat(result.khat, result.draws)
    return _elpd(
        elpd=values.sum().item(),
        se=math.sqrt(len(values) * values.var(correction=0).item()),
        p=math.nan,
        n_samples=result.num_samples,
        n_data_points=len(values),
        warning=bool((classes.doubtful | classes.beyond).any()),
        elpd_i=pointwise,
        pareto_k=khat,
        scale="log",
        good_k=khat_threshold(result.num_samples),
    )


def write_netcdf(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write what :func:`to_arviz` returned, as NetCDF that both lines of ArviZ read."""
    temporary = f"{os.fspath(path)}.part"
    options = {"compress": False} if _is_old() else {}  # the large variables ask for it themselves
    tree.to_netcdf(temporary, engine="h5netcdf", **options)  # 1.x brings no engine of its own
    os.replace(temporary, path)


def read_netcdf(path: str | os.PathLike[str]) -> Any:
    """Read, into memory, a NetCDF file that either line of ArviZ wrote.

    Returns:
        An ``arviz.InferenceData`` with ArviZ 0.23, an ``xarray.DataTree`` with 1.x.
    """
    import xarray

    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        groups = {name: node.to_dataset(inherit=False).load() for name, node in tree.children.items()}
    return _assembled(groups)


def _assembled(groups: Mapping[str, xarray.Dataset]) -> Any:
    """The groups in the container of the line that is installed."""
    if _is_old():
        import arviz

        return arviz.InferenceData(None, False, **groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))


def _elpd(**values: Any) -> Any:
    """ELPDData of the line that is installed."""
    import arviz

    if _is_old():  # it looks for "elpd_loo" in the first place, and for no other
        names = {"elpd": "elpd_loo", "p": "p_loo", "elpd_i": "loo_i"}
        return arviz.stats.ELPDData(
            [*values.values(), HELD_OUT], [*(names.get(name, name) for name in values), "note"]
        )
    elpd = arviz.ELPDData(**values)
    elpd["note"] = HELD_OUT
    return elpd


def _is_old() -> bool:
    """Whether ArviZ is of the line 0.23; 1.x has the old names still, for its hints."""
    import arviz

    return arviz.__version__.startswith("0.")
