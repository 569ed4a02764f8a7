r"""Importance weights of any (model, guide) pair, and every quantity that is a reduction of them.

.. math:: \log w_s = \log p(x, z_s) - \log q(z_s \mid x), \qquad z_s \sim q(z \mid x)

There is one estimator in this library, and this is it. The bound, log p(x), its error and the
diagnostics are functions of the tensor ``[num_samples, batch]``, found in
:mod:`pyrovae.evaluation.weights` and :mod:`pyrovae.evaluation.weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.context import caching, chunk_limit
from pyrovae.core.memory import fitting
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, check_precision, networks_in
from pyrovae.core.programs import Structure, inspect, sample_sites
from pyrovae.core.scoring import by_datum, expand_to_site, latents_of, sum_by_datum
from pyrovae.evaluation.scorer import Scorer, compiled_scorer
from pyrovae.evaluation.weights import WeightSums, elbo, ess, log_evidence, pareto_khat, standard_error

__all__ = [
    "WeightSums",
    "by_datum",
    "default_chunk_size",
    "elbo",
    "ess",
    "expand_to_site",
    "fitting_chunk_size",
    "log_evidence",
    "log_weights",
    "pareto_khat",
    "pass_size",
    "standard_error",
    "sum_by_datum",
    "weigh",
]

ROWS_IN_A_PASS = {"cpu": 2**13, "cuda": 2**19}
"""Draws times data that the guide makes in one pass. Fixed: the noise depends on no memory setting."""


def log_weights(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 1,
    chunk_size: int | None = None,
    compile: bool = False,
    precision: Precision = "float32",
    **kwargs: Any,
) -> Tensor:
    r"""Importance log-weights of a batch, one for each draw and datum.

    .. math:: \log w_s = \log p(x, z_s) - \log q(z_s \mid x), \quad z_s \sim q(z \mid x)

    Densities are unscaled (a plate's N/B and ``poutine.scale`` are left out), masks count, and
    gradients flow as the caller's grad mode has it.

    Args:
        model: Pyro program of p(x, z), any callable.
        guide: Pyro program of q(z | x), with the model's latent sites.
        args: Arguments of both programs; the data plate has one row per datum.
        num_samples: Draws per datum, S.
        chunk_size: Draws that the model scores at once. It bounds the memory and changes nothing
            else; 1 runs the model without a draws dimension, for networks that refuse one. Without
            gradients as many as half of the free memory holds, if not given, and no more than is fast.
        compile: Score draws by a compiled graph of the model, which takes some ten seconds to make and
            rounds otherwise; no gradients flow then.
        precision: Of the networks.
        kwargs: Keyword arguments of both programs.

    Returns:
        ``[S, batch]`` log-weights in nats, float64.

    Raises:
        ValueError: A latent site lies outside the data plate or is missing in the guide, a site
            has a batch shape its plates do not allow, or ``num_samples`` is below 1.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.randn(5, 2))
        >>> x = oracle.sample(3)
        >>> lw = log_weights(oracle.model, oracle.guide, x, num_samples=10)
        >>> lw.shape, torch.allclose(lw[0], oracle.log_evidence(x).double(), atol=1e-4)
        (torch.Size([10, 3]), True)
    """
    check_precision(precision)
    score = compiled_scorer(model, precision) if compile else Scorer(model, precision=precision)
    settled = torch.no_grad() if compile else nullcontext()
    with caching(), networks_in(precision), settled:
        structure = inspect(model, guide, *args, **kwargs)
        if chunk_size is None and not torch.is_grad_enabled():  # a graph keeps all draws in any case
            most = min(default_chunk_size(structure, args), num_samples)
            chunk_size = fitting_chunk_size(model, guide, args, kwargs, structure, most)
        pieces = weigh(score, guide, args, kwargs, structure, num_samples, chunk_size)
        return torch.cat([weights for weights, _ in pieces])


def weigh(
    model: Program | Scorer,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    structure: Structure,
    num_samples: int,
    chunk_size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw and weigh chunk by chunk: (log-weights, log q(z_s | x) - log p(z_s)), each ``[draws, batch]``.

    The mean of the second is KL(q || p(z)), and their sum is log p(x | z_s).
    """
    check_count("num_samples", num_samples)
    score = model if isinstance(model, Scorer) else Scorer(model)
    at_once = pass_size(structure, args)
    chunk_size = chunk_size if chunk_size is not None else default_chunk_size(structure, args)
    check_count("chunk_size", chunk_size)
    size = min(chunk_size, at_once, num_samples)
    for start in range(0, num_samples, at_once):
        num_draws = min(at_once, num_samples - start)
        with pyro.plate("_draws", num_draws, dim=structure.draws_dim):
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        log_q = sum_by_datum(list(sample_sites(drawn)), structure)
        for first in range(0, num_draws, chunk_size):
            rows = slice(first, min(first + chunk_size, num_draws))
            latents = latents_of(drawn, rows)
            log_likelihood, log_prior = score(
                latents, args, kwargs, structure, rows.stop - rows.start, size=size
            )
            log_ratio = (log_q[rows] if log_q.dim() else log_q) - log_prior
            yield log_likelihood - log_ratio, log_ratio


def default_chunk_size(structure: Structure, args: tuple[Any, ...]) -> int:
    """Draws of each datum that the model scores at once, where nobody asked for another number."""
    return min(chunk_limit.get() or pass_size(structure, args), pass_size(structure, args))


def fitting_chunk_size(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    structure: Structure,
    most: int,
) -> int:
    """Draws of each datum that half of the free memory holds at once, of ``most``: measured on a few."""
    score = Scorer(model)

    def compute(draws: int) -> None:
        with pyro.plate("_draws", draws, dim=structure.draws_dim):
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        score(latents_of(drawn, slice(draws)), args, kwargs, structure, draws)

    with torch.no_grad():
        return fitting(compute, most, _device(args))


def pass_size(
    structure: Structure, args: tuple[Any, ...], rows_at_once: dict[str, int] = ROWS_IN_A_PASS
) -> int:
    """Draws of each datum in a pass of so many rows, by the device that the data are on."""
    return max(rows_at_once.get(_device(args).type, rows_at_once["cpu"]) // structure.rows, 1)


def _device(args: tuple[Any, ...]) -> torch.device:
    """Of the first tensor among the arguments."""
    return next((each.device for each in args if isinstance(each, Tensor)), torch.device("cpu"))
