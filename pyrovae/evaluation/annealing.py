r"""Annealed importance sampling of any pair with continuous latents, and bidirectional Monte Carlo.

.. math:: \pi_\beta(z) \propto q(z \mid x)^{1 - \beta} \, p(x, z)^\beta, \qquad
    0 = \beta_0 < \dots < \beta_T = 1
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.context import caching
from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, networks_in
from pyrovae.core.random import stream
from pyrovae.evaluation.annealing_path import (
    Annealed,
    anneal,
    compiled_slopes,
    moving,
    path_between,
    tune,
)
from pyrovae.evaluation.simulation import simulate
from pyrovae.evaluation.weights import log_evidence, standard_error

__all__ = ["Annealed", "Bounds", "ais", "ais_log_weights", "bdmc"]


class Bounds(NamedTuple):
    """Bounds on log p(x) of simulated data, ``[batch]`` each, in nats.

    Attributes:
        lower: Lower bound, by annealing from the start to the posterior.
        upper: Upper bound, by annealing back from the latents that the data were drawn with.
        data: Simulated data.
        lower_error: Monte Carlo standard error of the lower bound.
        upper_error: Monte Carlo standard error of the upper bound.
    """

    lower: Tensor
    upper: Tensor
    data: Tensor
    lower_error: Tensor
    upper_error: Tensor

    @property
    def gap(self) -> Tensor:
        """Upper less lower bound, in nats."""
        return self.upper - self.lower


def ais_log_weights(model: Program, guide: Program, *args: Any, **keywords: Any) -> Tensor:
    """The log-weights of :func:`pyrovae.evaluation.annealing.ais`: ``[num_samples, batch]`` in nats.

    The arguments are the same, and every reduction of importance weights applies.

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> x = oracle.sample(2)
        >>> ais_log_weights(oracle.model, oracle.guide, x, num_samples=4, num_temperatures=20).shape
        torch.Size([4, 2])
    """
    return ais(model, guide, *args, **keywords).log_weights


def ais(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 16,
    num_temperatures: int = 1000,
    num_steps: int = 5,
    schedule: str = "sigmoid",
    start: str = "guide",
    chunk_size: int | None = None,
    compile: bool = False,
    precision: Precision = "float32",
    seed: int = 0,
) -> Annealed:
    r"""Annealed importance sampling: chains move from the guide, or the prior, to p(x, z).

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q(z_{t-1} \mid x)},
        \qquad z_0 \sim q, \quad z_t \sim K_{\beta_t}(\cdot \mid z_{t-1})

    with Metropolis-corrected Hamiltonian transitions K in unconstrained coordinates. E[w] = p(x) for any
    transitions, so all reductions of importance weights apply. Step sizes are tuned for each datum and
    temperature in a separate pass, whose draws are discarded: tuning within the weighted pass would bias it.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), with the model's latent sites.
        args: Arguments of both programs.
        num_samples: Chains per datum, S.
        num_temperatures: Number of temperatures, T; the error falls with it.
        num_steps: Leapfrog steps of a move.
        schedule: "sigmoid", slow at both ends, or "linear".
        start: "guide" or "prior"; the prior needs no density of the guide, and more temperatures.
        chunk_size: Chains that the model scores at once, at most the usual pass of 1,024 chains times data
            on the CPU and 16,384 on a GPU. Another size may change which moves are accepted, by rounding.
        compile: Whether to take gradients by compiled graphs, which take some ten seconds to make.
        precision: Precision of the networks' layers.
        seed: Seed of the noise.

    Returns:
        Log-weights, acceptance rates and step sizes.

    Raises:
        ValueError: A discrete latent, by name; any error of :func:`pyrovae.log_weights`.

    References:
        Neal, Annealed Importance Sampling, 2001. arXiv:physics/9803008; Wu et al., On the Quantitative
        Analysis of Decoder-Based Generative Models, 2017. arXiv:1611.04273

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> x = oracle.sample(2)
        >>> found = ais(oracle.model, oracle.guide, x, num_samples=8, num_temperatures=50)
        >>> error = found.log_weights.logsumexp(0) - torch.tensor(8.0).log() - oracle.log_evidence(x)
        >>> bool((error.abs() < 0.5).all())
        True
    """
    check_count("ais: num_samples", num_samples)
    check_count("ais: num_steps", num_steps)
    betas = _temperatures(num_temperatures, schedule)
    slopes = compiled_slopes(model, guide, start, precision) if compile else None
    path = path_between(model, guide, args, start, seed, chunk_size, slopes, precision)
    with moving(model, guide), caching(), networks_in(precision):
        steps = tune(path, betas, num_samples, num_steps, seed)
        with stream("ais", seed):
            return anneal(path, path.draw(num_samples), betas, steps, num_steps)


def bdmc(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 16,
    num_temperatures: int = 1000,
    num_steps: int = 5,
    schedule: str = "sigmoid",
    start: str = "guide",
    site: str = "x",
    chunk_size: int | None = None,
    compile: bool = False,
    precision: Precision = "float32",
    seed: int = 0,
) -> Bounds:
    r"""Bidirectional Monte Carlo: log p(x) of data drawn from the model, from below and from above.

    .. math:: (z^*, x) \sim p(x, z), \qquad \log \frac1S \sum_s w_s \;\lesssim\; \log p(x) \;\lesssim\;
        -\log \frac1S \sum_s \frac1{w'_s}

    with w the weights of :func:`~pyrovae.evaluation.annealing.ais`, and w' those of chains that start at z*,
    an exact draw of the posterior, and are annealed back. The gap is the error of annealing with these
    settings on simulated data, modes that the guide misses included.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Arguments of both programs; the first has as many rows as are to be simulated.
        num_samples: Chains per datum, each way.
        num_temperatures: Number of temperatures, T.
        num_steps: Leapfrog steps of a move.
        schedule: "sigmoid" or "linear".
        start: "guide" or "prior".
        site: The model's site of the data.
        chunk_size: Chains that the model scores at once.
        compile: Whether to take gradients by compiled graphs.
        precision: Precision of the networks' layers.
        seed: Seed of the noise.

    Returns:
        The bounds, their errors and the simulated data.

    Raises:
        ValueError: The model has no such site; any error of :func:`pyrovae.evaluation.annealing.ais`.

    References:
        Grosse et al., Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo, 2015.
        arXiv:1511.02543

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=3.0)
        >>> bounds = bdmc(oracle.model, oracle.guide, torch.zeros(5, 3), num_temperatures=50)
        >>> bool((bounds.gap.abs() < 0.5).all())
        True
    """
    check_count("bdmc: num_samples", num_samples)
    check_count("bdmc: num_steps", num_steps)
    betas = _temperatures(num_temperatures, schedule)
    truth, args = simulate(model, *args, site=site, caller="bdmc", key=(seed,))
    slopes = compiled_slopes(model, guide, start, precision) if compile else None
    path = path_between(model, guide, args, start, seed, chunk_size, slopes, precision)
    with moving(model, guide), caching(), networks_in(precision):
        steps = tune(path, betas, num_samples, num_steps, seed)
        with stream("ais", seed):
            forward = anneal(path, path.draw(num_samples), betas, steps, num_steps)
        with stream("ais, back", seed):
            at_truth = path.at(truth, num_samples)
            back = anneal(path, at_truth, betas.flip(0), steps.flip(0), num_steps)
    lower, upper = (log_evidence(each.log_weights) for each in (forward, back))
    errors = (standard_error(each.log_weights) for each in (forward, back))
    return Bounds(lower, -upper, args[0], *errors)


def _temperatures(num_temperatures: int, schedule: str) -> Tensor:
    """Inverse temperatures from 0 to 1, ``[T + 1]``."""
    check_count("ais: num_temperatures", num_temperatures)
    if schedule not in ("sigmoid", "linear"):
        raise ValueError(f"ais: schedule must be 'sigmoid' or 'linear', got '{schedule}'")
    even = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    bent = (4 * (2 * even - 1)).sigmoid()
    return (bent - bent[0]) / (bent[-1] - bent[0])
