r"""Importance weights of any (model, guide) pair: ``[num_samples, batch]``.

.. math:: \log w_s = \log p(x, z_s) - \log q(z_s \mid x), \qquad z_s \sim q(z \mid x)

The bound, log p(x), its error and the diagnostics are reductions of them, in
:mod:`pyrovae.evaluation.weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.context import caching, chunk_limit
from pyrovae.core.memory import fitting
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, check_precision, networks_in
from pyrovae.core.programs import Structure, inspect, sample_sites
from pyrovae.core.scoring import latents_of, sum_by_datum, trace_draws
from pyrovae.evaluation.scorer import Scorer, compiled_scorer

__all__ = ["default_chunk_size", "fitting_chunk_size", "log_weights", "pass_size", "weigh"]

# Draws times data in one pass of the guide. Fixed, so that the noise depends on no memory setting.
ROWS_IN_A_PASS = {"cpu": 2**13, "cuda": 2**19}


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

    Scales (a plate's N/B and ``poutine.scale``) are left out and masks are applied. Gradients flow if the
    caller's grad mode is on.

    Args:
        model: Pyro program of p(x, z), any callable.
        guide: Pyro program of q(z | x), with the model's latent sites.
        args: Arguments of both programs; the data plate has one row per datum.
        num_samples: Draws per datum, S.
        chunk_size: Draws that the model scores at once, which bounds the memory; 1 runs the model without a
            draws dimension. Without gradients the default is what half of the free memory holds.
        compile: Whether to score draws by a compiled graph of the model, without gradients. It takes some
            ten seconds to make and changes the last bits.
        precision: Precision of the networks' layers.
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
    with caching(), networks_in(precision), torch.no_grad() if compile else nullcontext():
        structure = inspect(model, guide, *args, **kwargs)
        if chunk_size is None and not torch.is_grad_enabled():  # autograd keeps all draws in any case
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
        drawn = trace_draws(guide, num_draws, structure, args, kwargs)
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
    """Draws of each datum that the model scores at once by default."""
    most = pass_size(structure, args)
    return min(chunk_limit.get() or most, most)


def fitting_chunk_size(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    structure: Structure,
    most: int,
) -> int:
    """Draws of each datum, up to ``most``, that half of the free memory holds, measured on a few."""
    score = Scorer(model)

    def compute(draws: int) -> None:
        drawn = trace_draws(guide, draws, structure, args, kwargs)
        score(latents_of(drawn, slice(draws)), args, kwargs, structure, draws)

    with torch.no_grad():
        return fitting(compute, most, _device(args))


def pass_size(
    structure: Structure, args: tuple[Any, ...], rows_at_once: dict[str, int] = ROWS_IN_A_PASS
) -> int:
    """Draws of each datum in one pass, by the number of rows that the data's device takes at once."""
    return max(rows_at_once.get(_device(args).type, rows_at_once["cpu"]) // structure.rows, 1)


def _device(args: tuple[Any, ...]) -> torch.device:
    """The device of the first tensor among the arguments."""
    return next((each.device for each in args if isinstance(each, Tensor)), torch.device("cpu"))
