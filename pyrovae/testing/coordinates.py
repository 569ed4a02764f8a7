"""A distribution as a density over real vectors, one for each cell of its batch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import MaskedDistribution
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import Independent, biject_to, constraints
from torch.nn.functional import normalize, pad

from pyrovae.core.wrap import support_of

__all__ = ["Draws", "VectorDensity", "base_of"]

AT_ONCE = 512  # draws: a mixture makes each of every component


class Draws(NamedTuple):
    """Points ``[count, cells, width]`` and their log densities ``[count, cells]``."""

    points: Tensor
    log_density: Tensor

    def halves(self) -> tuple[Draws, Draws]:
        """The first half of the draws, and the second."""
        half = len(self.points) // 2
        return Draws(*(values[:half] for values in self)), Draws(*(values[half:] for values in self))


def base_of(distribution: Any) -> Any:
    """The distribution without masks and wrappers; of independent elements, that of each element."""
    if isinstance(distribution, ZukoToPyro):
        return base_of(distribution.dist)
    elements = isinstance(distribution, Independent) and type(distribution).log_prob is Independent.log_prob
    if elements or isinstance(distribution, MaskedDistribution):
        return base_of(distribution.base_dist)
    return distribution


class VectorDensity:
    """A distribution with its batch flattened to ``cells``, and each value to ``width`` real numbers.

    Bounded values are mapped to real vectors, and the density is that of the vectors. Points and log
    densities are float64; the distribution works in its own precision.
    """

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution
        self.batch_shape = torch.Size(distribution.batch_shape)
        self.event_shape = torch.Size(distribution.event_shape)
        self.cells = self.batch_shape.numel()
        support: Any = support_of(distribution)
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        self.support = support
        known = support is not None
        self.discrete = bool(support.is_discrete if known else distribution.has_enumerate_support)
        examples = self._values(64)
        self.example = examples[0]
        self.map: Any = None if self.discrete else _map_to(self._range(examples), examples)
        # A map of single numbers keeps their shape; it may have bounds for each cell besides.
        self.shape = self.event_shape
        if self.map is not None and self.map.domain.event_dim > 0:
            self.shape = self.map.inverse_shape(self.event_shape)
        self.width = math.prod(self.shape)

    def sample(self, count: int) -> Draws:
        """So many draws and their log densities."""
        values = self._values(count)
        points = values.double() if self.map is None else self.map.inv(values.double())
        log_density = self._log_prob(values) + self._log_volume(points)
        return Draws(points.reshape(count, self.cells, self.width), log_density)

    def log_prob(self, points: Tensor) -> Tensor:
        """Log densities of points; -inf outside the support, where values round to others, and for nan."""
        points = points.reshape(len(points), *self.batch_shape, *self.shape)
        values = (points if self.map is None else self.map(points)).to(self.example.dtype)
        good = self._is_good(points, values)
        values = torch.where(good.reshape(*good.shape, *[1] * len(self.event_shape)), values, self.example)
        log_density = self._log_prob(values) + self._log_volume(points)
        good = good.reshape(log_density.shape) & ~log_density.isnan()
        return log_density.masked_fill(~good, -math.inf)

    def enumerated(self) -> Tensor | None:
        """Every value, ``[values, 1 or cells, width]``; None if the distribution does not list them."""
        try:
            values = self.distribution.enumerate_support(expand=False)
        except (NotImplementedError, ValueError):  # it cannot, or there are too many
            return None
        return values.double().reshape(len(values), -1, self.width)

    def _values(self, count: int) -> Tensor:
        draw = self.distribution.rsample if self.distribution.has_rsample else self.distribution.sample
        with torch.no_grad():
            sizes = torch.arange(count).split(AT_ONCE)
            values = torch.cat([draw(torch.Size([len(size)])) for size in sizes])
        expected = (count, *self.batch_shape, *self.event_shape)
        if values.shape != expected:
            raise ValueError(
                f"sample(({count},)) gives shape {tuple(values.shape)}, expected {expected}, its sample, "
                f"batch and event shape: draw self._extended_shape(sample_shape)"
            )
        return values

    def _range(self, examples: Tensor) -> Any:
        """The support, or one turn if the density is that of an angle, which repeats over all reals."""
        if isinstance(self.support, type(constraints.real)):
            here, there = self._log_prob(examples), self._log_prob(examples + 2 * math.pi)
            if here.std() > 0 and torch.allclose(here, there, rtol=1e-3, atol=1e-3):
                return constraints.interval(-math.pi, math.pi)
        return self.support

    def _log_prob(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            log_prob = torch.cat([self.distribution.log_prob(part) for part in values.split(AT_ONCE)])
        expected = (len(values), *self.batch_shape)
        if log_prob.shape != expected:
            raise ValueError(
                f"log_prob of values {tuple(values.shape)} has shape {tuple(log_prob.shape)}, expected "
                f"{expected}: sum over the event dims and no others"
            )
        return log_prob.double().reshape(len(values), self.cells)

    def _log_volume(self, points: Tensor) -> Tensor:
        """Log of the Jacobian determinant of the map, ``[count, cells]``."""
        if self.map is None:
            return points.new_zeros(())
        log_volume = self.map.log_abs_det_jacobian(points, self.map(points))
        return log_volume.reshape(len(points), self.cells, -1).sum(-1)

    def _is_good(self, points: Tensor, values: Tensor) -> Tensor:
        """Where a value in the distribution's precision still stands for its point, ``[count, *batch]``."""
        outer = points.shape[: points.dim() - len(self.shape)]
        if self.map is not None:
            moved = (self.map.inv(values.double()) - points).abs()
            return (moved <= 0.1 + 1e-3 * points.abs()).reshape(*outer, -1).all(-1)
        known = self.support is not None and not self.shape
        return self.support.check(values) if known else points.new_ones(outer, dtype=torch.bool)


def _map_to(support: Any, examples: Tensor) -> Any:
    """A map from real vectors to the support."""
    if isinstance(support, type(pyro_constraints.sphere)) and examples.shape[-1] > 1:
        return _Stereographic(examples.mean(0).double())
    if isinstance(support, type(constraints.simplex)):
        return _LogRatio()
    try:
        return biject_to(constraints.real if support is None else support)
    except NotImplementedError:
        if support.event_dim:
            raise
    if not support.check(examples.new_tensor(-0.5)).all():  # a constraint of one's own, over numbers
        above = support.check(examples.new_tensor(1.5)).all()
        return biject_to(constraints.positive if above else constraints.unit_interval)
    return biject_to(constraints.real)


class _VectorMap:
    """A map from real vectors to vectors of one number more."""

    domain = constraints.real_vector

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] - 1])


class _LogRatio(_VectorMap):
    r"""Real vectors to proportions, by log ratios to the last one: small proportions keep their digits.

    .. math:: z = \mathrm{softmax}(u, 0), \qquad dz = \prod_{i=1}^d z_i \, du
    """

    def __call__(self, u: Tensor) -> Tensor:
        return pad(u, (0, 1)).softmax(-1)

    def inv(self, z: Tensor) -> Tensor:
        return z[..., :-1].log() - z[..., -1:].log()

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return pad(u, (0, 1)).log_softmax(-1).sum(-1)


class _Stereographic(_VectorMap):
    r"""Stereographic projection: real vectors to the sphere of one dimension more, u = 0 to ``direction``.

    .. math:: z = \Big(\frac{1 - |u|^2}{1 + |u|^2}, \frac{2 u}{1 + |u|^2}\Big), \qquad
        dz = \Big(\frac{2}{1 + |u|^2}\Big)^{d - 1} du
    """

    def __init__(self, direction: Tensor) -> None:
        pole = torch.zeros_like(direction)
        pole[..., 0] = 1
        self.mirror = normalize(pole - normalize(direction, dim=-1), dim=-1)

    def __call__(self, u: Tensor) -> Tensor:
        square = u.square().sum(-1, keepdim=True)
        return self._reflect(torch.cat([1 - square, 2 * u], -1) / (1 + square))

    def inv(self, z: Tensor) -> Tensor:
        z = self._reflect(z)
        return z[..., 1:] / (1 + z[..., :1])

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return u.shape[-1] * (math.log(2) - u.square().sum(-1).log1p())

    def _reflect(self, z: Tensor) -> Tensor:
        return z - 2 * (self.mirror * z).sum(-1, keepdim=True) * self.mirror
