"""Draws and results for ArviZ. Its lines 0.23 and 1.x differ in the last three functions of this file."""

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
from pyrovae.evaluation.resampling import Resampled, resample
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, look, tiles
from pyrovae.evaluation.weights import classify_khat, khat_threshold
from pyrovae.interop.groups import Column, Columns, columns_of, datasets

if TYPE_CHECKING:
    import xarray

LARGEST = 2**33
"""Bytes that the draws may fill."""

HELD_OUT = "held-out log p(x), importance-sampled: no LOO, and pareto_k is that of its weights"
SMALLEST_LOG = -700.0
"""Nats below which exp() underflows; ArviZ's stacking takes the exponential of each log p(x)."""


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
    r"""Draws of p(z | x) for each datum, and what is known about log p(x), in the groups of ArviZ.

    The posterior comes from sampling-importance-resampling (:func:`pyrovae.evaluation.resampling.resample`)
    of draws of the guide, not from a Markov chain. The draws of each chain are its own, so that
    ``arviz.rhat`` is above 1 where they were too few and a chain repeats the same ones.

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
        data: Data as of :func:`pyrovae.evaluate`; few rows, since x is drawn for each.
        result: Result of :func:`pyrovae.evaluate` for these data; by default that of the draws made here.
        num_samples: Draws of the guide for each datum and chain.
        num_draws: Draws of the posterior for each datum and chain, taken from them.
        num_chains: Number of independent chains.
        predictive: Whether to draw x.
        dims: By site, names of the dims of one value; "z_dim_0" and so on by default.
        coords: By dim, labels.
        seed: Seed of the draws.
        chunk_size: Draws that the model scores at once; x drawn depends on it.
        device: Device of modules and data.

    Returns:
        An ``arviz.InferenceData`` with ArviZ 0.23, an ``xarray.DataTree`` with 1.x.

    Raises:
        ValueError: Errors of :func:`pyrovae.log_weights`; a result of other data; a datum without weight;
            dims or coords that do not fit; draws of more than 8 GiB.

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 2))
        >>> tree = to_arviz(oracle.model, oracle.guide, oracle.sample(5), num_samples=50)
        >>> dict(tree["posterior"]["z"].sizes)
        {'chain': 4, 'draw': 100, 'datum': 5, 'z_dim_0': 2}
    """
    for name, count in (("num_samples", num_samples), ("num_draws", num_draws), ("num_chains", num_chains)):
        check_count(f"to_arviz: {name}", count)
    # The result's seed gives its rows again, where a split draws them anew.
    rows_seed = seed if result is None else int(result.conventions.get("seed", seed))
    settings = num_samples, num_draws, chunk_size, predictive
    blocks: list[Columns] = []
    structure, rows, seen = None, 0, 0
    modules = modules_of(model, guide, device)
    with mode(modules, training=False), torch.no_grad():
        for tile in tiles(data, rows_seed, device=device):
            chains: list[Resampled] = []
            with plain_errors(tile.name):
                structure = structure or look(model, guide, tile)[0]
                tile = tile if structure.rows == ROWS_IN_A_TILE else tile.without_padding()
                for chain in range(num_chains):
                    with stream("to_arviz", seed, chain, tile.position):
                        chains.append(resample(model, guide, tile.arguments, structure, *settings))
                    if tile.position == chain == 0:  # before there are too many
                        one = columns_of(chains, tile.arguments, tile.rows, dims or {})
                        _check_size(one, num_chains, num_rows(data) / tile.rows)
            blocks.append(columns_of(chains, tile.arguments, tile.rows, dims or {}))
            rows, seen = rows + tile.rows, fingerprint(tile.data(), seen)
    columns = {key: Column.joined([block[key] for block in blocks]) for key in blocks[0]}
    if result is None:
        conventions = conventions_of(data) | {"rows": rows, "fingerprint": f"{seen:08x}"}
        # The draws of all chains make log_evidence.
        conventions |= {"num_samples": num_samples * num_chains, "method": METHODS["is"], "seed": seed}
        conventions |= made_with(modules, "float32")
    else:
        _check_is_of(result, rows, f"{seen:08x}")
        conventions = result.conventions
        columns |= {("sample_stats", name): Column(("datum",), getattr(result, name)) for name in FIELDS}
    attributes = {"num_samples": num_samples, "conventions": json.dumps(conventions), "seed": seed}
    return _container(datasets(columns, coords or {}, attributes))


def _check_size(columns: Columns, num_chains: int, times: float) -> None:
    """Refuse draws that would fill the memory, judged by those of one chain and block."""
    size = sum(
        times * values.nbytes * (num_chains if "chain" in dims else 1) for dims, values in columns.values()
    )
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
    """The sample_stats group of a result, per datum: it has no draws, so there is no posterior."""
    return _container({"sample_stats": result.to_xarray()})


def to_elpd(result: Evaluation, *, relative_to: Evaluation | None = None) -> Any:
    r"""Held-out log p(x) per datum as ArviZ's ELPDData, for ``arviz.compare`` and its figures.

    .. math:: \mathrm{elpd} = \sum_i \log \hat p(x_i), \qquad
        \mathrm{SE}^2 = n \operatorname{Var}_i \log \hat p(x_i)

    This is no leave-one-out estimate, whatever ArviZ's tables call it: the model was trained on other data.
    pareto_k is k-hat of the importance weights of log p(x), and p is nan. :func:`pyrovae.compare` separates
    the error of the test set from that of the draws.

    Args:
        result: Result of :func:`pyrovae.evaluate`.
        relative_to: Result of the same data whose log p(x) is subtracted from each datum's. Differences and
            stacking weights do not change. Stacking takes exp(log p(x)), so below -700 nats a datum it needs
            this, the same for all models.

    Returns:
        An ``arviz.ELPDData``.

    Warns:
        UserWarning: The exponential of a log p(x) is zero.

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
    attributes = {"units": "nat", "long_name": note, "conventions": json.dumps(result.conventions)}
    classes = classify_khat(result.khat, result.draws)
    return _elpd(
        elpd=values.sum().item(),
        se=math.sqrt(len(values) * values.var(correction=0).item()),
        p=math.nan,
        n_samples=result.num_samples,
        n_data_points=len(values),
        warning=bool((classes.doubtful | classes.beyond).any()),
        elpd_i=xarray.DataArray(values.numpy(), dims="datum", name="log_evidence", attrs=attributes),
        pareto_k=xarray.DataArray(result.khat.numpy(), dims="datum", name="khat"),
        scale="log",
        good_k=khat_threshold(result.num_samples),
    )


def write_netcdf(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write the groups of :func:`to_arviz` as NetCDF that both lines of ArviZ read."""
    temporary = f"{os.fspath(path)}.part"
    options = {"compress": False} if _is_old() else {}  # large variables have their own setting
    tree.to_netcdf(temporary, engine="h5netcdf", **options)  # 1.x depends on no engine
    os.replace(temporary, path)


def read_netcdf(path: str | os.PathLike[str]) -> Any:
    """Read a NetCDF file of either line of ArviZ into memory, as :func:`to_arviz` returns it."""
    import xarray

    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        groups = {name: node.to_dataset(inherit=False).load() for name, node in tree.children.items()}
    return _container(groups)


def _container(groups: Mapping[str, xarray.Dataset]) -> Any:
    """The groups in the container of the installed line."""
    if _is_old():
        import arviz

        return arviz.InferenceData(None, False, **groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))


def _elpd(**values: Any) -> Any:
    """ELPDData of the installed line."""
    import arviz

    if _is_old():  # it knows the names of leave-one-out alone
        names = {"elpd": "elpd_loo", "p": "p_loo", "elpd_i": "loo_i"}
        return arviz.stats.ELPDData(
            [*values.values(), HELD_OUT], [*(names.get(name, name) for name in values), "note"]
        )
    elpd = arviz.ELPDData(**values)
    elpd["note"] = HELD_OUT
    return elpd


def _is_old() -> bool:
    """Whether ArviZ is of the line 0.23: the version tells, since 1.x keeps the old names for its hints."""
    import arviz

    return arviz.__version__.startswith("0.")
