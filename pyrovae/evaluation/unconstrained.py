"""Latent sites of a pair as points in coordinates without bounds, chains first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyrovae.core.programs import Site, Structure
from pyrovae.core.scoring import by_datum, expand_to_site
from pyrovae.core.wrap import family_of, support_of

__all__ = ["Coordinates", "coordinates"]

CIRCULAR = ("VonMises", "VonMises3D", "ProjectedNormal", "SineBivariateVonMises", "SineSkewed")
"""Over angles, whatever support they name: of all reals their density has no integral."""


class Coordinates(NamedTuple):
    """Maps between the values of latent sites and points without bounds, a tensor for each site.

    Attributes:
        names: The sites.
        transforms: To values from points.
        structure: Of the pair.
    """

    names: list[str]
    transforms: list[Any]
    structure: Structure

    def free(self, values: dict[str, Tensor]) -> list[Tensor]:
        """Points of values; what has no draws dim gets one."""
        points = []
        for name, transform in zip(self.names, self.transforms, strict=True):
            point = transform.inv(values[name])
            missing = -self.structure.draws_dim + transform.domain.event_dim - point.dim()
            points.append(point[(None,) * missing])
        return points

    def bound(self, points: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Values of points, and the log volume that the maps give them, ``[S, batch]``."""
        values, log_volume = {}, torch.zeros((), dtype=torch.float64)
        for name, transform, point in zip(self.names, self.transforms, points, strict=True):
            values[name] = value = transform(point)
            log_volume = log_volume + by_datum(transform.log_abs_det_jacobian(point, value), self.structure)
        return values, log_volume

    def square(self, points: list[Tensor]) -> Tensor:
        """Their squared lengths, ``[S, batch]``."""
        total = torch.zeros((), dtype=torch.float64)
        for transform, point in zip(self.transforms, points, strict=True):
            event_dim = transform.domain.event_dim
            square = point.square()
            total = total + by_datum(
                square.flatten(-event_dim).sum(-1) if event_dim else square, self.structure
            )
        return total

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Values ``[S or 1, batch]`` in the dims that a point has."""
        values = values.to(like.dtype) if values.is_floating_point() else values
        return expand_to_site(values, self.structure, like.dim() + self.structure.draws_dim)


def coordinates(sites: list[Site], again: list[Site], structure: Structure) -> Coordinates:
    """Of the model's latent sites, of two runs, between which supports may not change.

    Raises:
        ValueError: A discrete site, or one on a set that torch has no coordinates for, by name.
    """
    transforms = []
    for site in sites:
        support = support_of(site["fn"])
        if support is not None and support.is_discrete:
            raise ValueError(
                f"site '{site['name']}': {family_of(site['fn'])} is discrete, and annealing and adapted "
                f"proposals move in coordinates: use importance sampling from the guide, or sum over the site"
            )
        if family_of(site["fn"]) in CIRCULAR:
            raise ValueError(
                f"site '{site['name']}': {family_of(site['fn'])} is over a circle, which has no coordinates "
                f"to anneal or adapt in: use importance sampling from the guide"
            )
        try:
            transforms.append(biject_to(support if support is not None else constraints.real))
        except NotImplementedError as error:
            raise ValueError(
                f"site '{site['name']}': {family_of(site['fn'])} is over a set without coordinates to "
                f"anneal or adapt in: use importance sampling from the guide"
            ) from error
    for site, before in zip(sites, again, strict=True):
        _check_fixed(site["name"], support_of(site["fn"]), support_of(before["fn"]))
    return Coordinates([site["name"] for site in sites], transforms, structure)


def _check_fixed(name: str, support: Any, again: Any) -> None:
    """Refuse a support that depends on other latents: its coordinates would be those of one draw."""
    waiting = [(support, again)]
    while waiting:
        one, other = waiting.pop()
        for key, value in getattr(one, "__dict__", {}).items():
            there = getattr(other, key, None)
            if isinstance(value, constraints.Constraint):
                waiting.append((value, there))
            elif isinstance(value, Tensor) and not (isinstance(there, Tensor) and torch.equal(value, there)):
                raise ValueError(
                    f"site '{name}': its support depends on other latents, and annealing and adapted "
                    f"proposals need coordinates that stand still: use importance sampling from the guide"
                )
