r"""Adaptive importance sampling: a proposal fitted to each datum by rounds of weighted draws."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import identity_transform

from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.context import cached
from pyrovae.core.modules import Program
from pyrovae.core.programs import Structure, inspect
from pyrovae.core.random import stream
from pyrovae.evaluation.annealing_path import Path, Point, moving
from pyrovae.evaluation.importance import default_chunk_size
from pyrovae.evaluation.weights import ess
from pyrovae.models.distributions import MultivariateStudentT

__all__ = ["Adapted"]

ENOUGH = 0.25  # effective share of a round's draws at which a datum's fit stops
LEAST = 3  # effective draws per coordinate that tempering aims at
FORGET = 0.7  # weight of a round's draws in the next round


class Adapted(nn.Module):
    r"""A guide of heavy tails and full covariance, fitted to p(z | x) by rounds of weighted draws.

    .. math:: q_0 = t_\nu(m_0, S_0), \qquad z_s \sim q_r, \quad
        w_s \propto \Big( \frac{p(x, z_s)}{q_r(z_s)} \Big)^{\tau_r}, \qquad
        m_{r+1} = \sum_s w_s z_s, \quad S_{r+1} = \sum_s w_s (z_s - m) (z_s - m)^\top

    The first m and S are of draws of the guide. Matching moments makes KL(p || q) small, so that q covers the
    posterior. The tempering tau is as near to 1 as leaves three effective draws per coordinate. All latent
    sites are fitted together, in unconstrained coordinates. The fit depends on the data and the seed only,
    and its draws are discarded, so weights of q's draws average to p(x). A mode far from the guide's draws
    stays unseen; :func:`pyrovae.certify` looks for one. The rounds cost a few thousand draws of each datum,
    which can fit some 30 coordinates. There is nothing to train.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), where the fit starts; latents continuous.
        rounds: Most rounds; a datum stops earlier when its draws are good enough.
        num_samples: Draws of a round; by default 30 per coordinate, and at least 300.
        df: Degrees of freedom of the tails, nu.
        seed: Seed of the rounds' draws.

    Raises:
        ValueError: A discrete latent, by name; any error of :func:`pyrovae.log_weights`.

    References:
        Cappe et al., Adaptive Importance Sampling in General Mixture Classes, 2008. arXiv:0710.4242;
        Koblents and Miguez, A Population Monte Carlo Scheme with Transformed Weights, 2015, for the
        tempering. arXiv:1208.5600

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 2), shift=1.0, widen=0.5)
        >>> guides = oracle.guide, Adapted(oracle.model, oracle.guide)
        >>> x = oracle.sample(4)
        >>> plain, fitted = (pv.log_weights(oracle.model, q, x, num_samples=400) for q in guides)
        >>> bool((pv.ess(fitted) > 5 * pv.ess(plain)).all())
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *,
        rounds: int = 20,
        num_samples: int | None = None,
        df: float = 8.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("Adapted: rounds", rounds)
        check_count("Adapted: num_samples", 1 if num_samples is None else num_samples)
        check_positive("Adapted: df", df)
        self._pair = model, guide  # in a tuple, so that they are no submodules
        self.rounds, self.num_samples, self.df, self.seed = rounds, num_samples, df, seed

    def forward(self, *args: Any) -> None:
        """Draw every latent of the pair."""
        path, structure, q = cached(self, args, lambda: self._fit(args))
        with pyro.plate(structure.plate, structure.rows, dim=structure.dim):
            if _is_plain(path):
                pyro.sample(path.space.names[0], q)
                return
            drawn = pyro.sample("_adapted", q, infer={"is_auxiliary": True})
            _set(path, drawn, structure.draws_dim)

    @torch.no_grad()
    def _fit(self, args: tuple[Any, ...]) -> tuple[Path, Structure, MultivariateStudentT]:
        """The path, the pair's structure, and the fitted density of all latents together."""
        model, guide = self._pair
        with pyro.poutine.block(), moving(model, guide), stream("adapt", self.seed):
            structure = inspect(model, guide, *args)
            # This runs inside a plate of draws, so its own draws go one dim further left.
            inner = structure._replace(draws_dim=structure.draws_dim - 1)
            at_once = default_chunk_size(inner, args)
            path = Path(model, guide, args, inner, chunk_size=at_once, plate="_adapting")
            loc, tril = (each.to(path.scale[0]) for each in fit(path, self.rounds, self.num_samples, self.df))
        shape = (len(loc), *[1] * (-structure.dim - 1))
        q = MultivariateStudentT(self.df, loc.reshape(*shape, -1), tril.reshape(*shape, *tril.shape[1:]))
        return path, structure, q


def fit(path: Path, rounds: int, num_samples: int | None, df: float) -> tuple[Tensor, Tensor]:
    """Location ``[rows, d]`` and scale ``[rows, d, d]`` of a Student t for each datum, float64."""
    width = sum(scale.numel() for scale in path.scale) // path.structure.rows
    num_samples = max(30 * width, 300) if num_samples is None else num_samples
    start = _flat(path, path.draw(num_samples)).double()
    loc, scale_tril = start.mean(0), start.std(0).clamp(min=1e-6).diag_embed()
    least = min(LEAST * width, num_samples / 4)
    count, first, second = 0.0 * loc[:, :1, None], 0.0 * loc, 0.0 * scale_tril
    going = torch.ones(len(loc), dtype=torch.bool, device=loc.device)
    for _ in range(rounds):
        q = MultivariateStudentT(df, loc, scale_tril, validate_args=False)
        z = q.sample((num_samples,))
        log_weights = _target(path, z) - q.log_prob(z)
        log_weights = log_weights.nan_to_num(nan=-torch.inf, posinf=-torch.inf)
        tau = _temper(log_weights, least)
        usable = log_weights.isfinite().any(0)
        weights = (tau * log_weights).where(usable, 0.0).softmax(0)
        size = 1 / weights.square().sum(0)[:, None, None]
        mean = (weights[..., None] * z).sum(0)
        spread = torch.einsum("sb,sbi,sbj->bij", weights, z - mean, z - mean)
        keep = (FORGET * tau)[:, None, None]  # little of rounds that were far off
        count = keep * count + size
        first = keep[..., 0] * first + size[..., 0] * mean
        second = keep * second + size * (spread + mean[:, :, None] * mean[:, None])
        new_loc = first / count[..., 0]
        covariance = second / count - new_loc[:, :, None] * new_loc[:, None]
        share = width / (width + count)
        covariance = (1 - share) * covariance + share * covariance.diagonal(dim1=-2, dim2=-1).diag_embed()
        tril, failed = torch.linalg.cholesky_ex(covariance)
        moved = going & usable & (failed == 0)
        loc = torch.where(moved[:, None], new_loc, loc)
        scale_tril = torch.where(moved[:, None, None], tril, scale_tril)
        going = going & ~((tau == 1) & (ess(log_weights) > ENOUGH * num_samples))
        if not going.any():
            break
    return loc, scale_tril


def _temper(log_weights: Tensor, least: float) -> Tensor:
    """The largest tau in (0, 1] that leaves ``least`` effective draws of each datum, by bisection."""
    low, high = torch.full_like(log_weights[0], 1e-6), torch.ones_like(log_weights[0])
    fine = ess(log_weights) >= least
    for _ in range(20):
        middle = (low + high) / 2
        enough = ess(middle * log_weights) >= least
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(fine, torch.ones_like(low), low)


def _target(path: Path, z: Tensor) -> Tensor:
    """Log density of the target in unconstrained coordinates, ``[draws, rows]``, by chunks of draws."""
    return path.by_chunks(lambda chunk: (path.target(chunk),), _points(path, z))[0]


def _flat(path: Path, points: Point) -> Tensor:
    """Points of all sites side by side: ``[draws, rows, d]``."""
    place = path.structure.dim - path.structure.draws_dim
    moved = [point.movedim(place, 1) for point in points]
    return torch.cat([point.reshape(*point.shape[:2], -1) for point in moved], -1)


def _points(path: Path, flat: Tensor) -> Point:
    """The inverse of :func:`_flat`."""
    place, points, start = path.structure.dim - path.structure.draws_dim, [], 0
    for scale in path.scale:
        shape = scale.movedim(place, 1).shape[2:]
        part = flat[..., start : start + shape.numel()].to(scale.dtype)
        points.append(part.reshape(*flat.shape[:2], *shape).movedim(1, place))
        start += shape.numel()
    return points


def _is_plain(path: Path) -> bool:
    """Whether the only latent is a real vector, which needs no transform."""
    if len(path.space.names) > 1 or path.frames[path.space.names[0]]:
        return False
    (transform,) = path.space.transforms
    return (
        transform.domain.event_dim == 1 and getattr(transform, "base_transform", None) == identity_transform
    )


def _set(path: Path, drawn: Tensor, draws_dim: int) -> None:
    """Sample every latent as a function of the draw, ``[..., rows, 1 for each inner plate, d]``."""
    missing = -draws_dim - (drawn.dim() - 1)
    rows = drawn[(None,) * missing].movedim(path.structure.dim - 1, 1).flatten(2)
    points = [point[:, 0] for point in _points(path, rows)]  # without the dim of the fit's draws
    space = path.space
    for name, transform, point in zip(space.names, space.transforms, points, strict=True):
        frames = path.frames[name]
        if missing:  # outside a plate of draws: no dims left of the site's own plates
            depth = max(-path.structure.dim, *(-frame.dim for frame in frames), 1)
            point = point.flatten(0, point.dim() - transform.domain.event_dim - depth)
        value = transform(point)
        log_density = -transform.log_abs_det_jacobian(point, value)
        with ExitStack() as stack:
            for frame in frames:
                stack.enter_context(pyro.plate(frame.name, frame.size, dim=frame.dim))
            pyro.sample(name, dist.Delta(value, log_density, transform.codomain.event_dim))
