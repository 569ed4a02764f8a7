"""Latent sites of a pair as points in unconstrained coordinates, chains first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyrovae.core.programs import Site, Structure
from pyrovae.core.scoring import by_datum, expand_to_site
from pyrovae.core.wrap import family_of, support_of

__all__ = ["Coordinates", "coordinates"]

# Distributions over angles: on the reals, which some name as their support, they do not integrate.
CIRCULAR = ("VonMises", "VonMises3D", "ProjectedNormal", "SineBivariateVonMises", "SineSkewed")


class Coordinates(NamedTuple):
    """Maps between the values of latent sites and unconstrained points, one tensor per site."""

    names: list[str]
    transforms: list[Any]  # from points to values
    structure: Structure

    def free(self, values: dict[str, Tensor]) -> list[Tensor]:
        """The points of values; a draws dimension is added where there is none."""
        points = []
        for name, transform in zip(self.names, self.transforms, strict=True):
            point = transform.inv(values[name])
            missing = -self.structure.draws_dim + transform.domain.event_dim - point.dim()
            points.append(point[(None,) * missing])
        return points

    def bound(self, points: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The values of points, and the log Jacobian determinant of the maps, ``[S, batch]``."""
        values, log_volume = {}, torch.zeros((), dtype=torch.float64)
        for name, transform, point in zip(self.names, self.transforms, points, strict=True):
            values[name] = value = transform(point)
            log_volume = log_volume + by_datum(transform.log_abs_det_jacobian(point, value), self.structure)
        return values, log_volume

    def square(self, points: list[Tensor]) -> Tensor:
        """Squared lengths of points, ``[S, batch]``."""
        total = torch.zeros((), dtype=torch.float64)
        for transform, point in zip(self.transforms, points, strict=True):
            event_dim = transform.domain.event_dim
            square = point.square().flatten(-event_dim).sum(-1) if event_dim else point.square()
            total = total + by_datum(square, self.structure)
        return total

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Values ``[S or 1, batch]`` in the dimensions of a point."""
        values = values.to(like.dtype) if values.is_floating_point() else values
        return expand_to_site(values, self.structure, like.dim() + self.structure.draws_dim)


def coordinates(sites: list[Site], again: list[Site], structure: Structure) -> Coordinates:
    """Coordinates of latent sites, given in two runs, between which supports may not change.

    Raises:
        ValueError: A discrete site, or one whose support has no coordinates, by name.
    """
    transforms = []
    for site in sites:
        support, family = support_of(site["fn"]), family_of(site["fn"])
        prefix, mend = f"site '{site['name']}': {family} is", "use importance sampling from the guide"
        if support is not None and support.is_discrete:
            raise ValueError(
                f"{prefix} discrete, and annealing and adapted proposals move in coordinates: {mend}, or sum "
                f"over the site"
            )
        if family in CIRCULAR:
            raise ValueError(
                f"{prefix} over a circle, which has no coordinates to anneal or adapt in: {mend}"
            )
        try:
            transforms.append(biject_to(support if support is not None else constraints.real))
        except NotImplementedError as error:
            raise ValueError(
                f"{prefix} over a set without coordinates to anneal or adapt in: {mend}"
            ) from error
    for site, before in zip(sites, again, strict=True):
        _check_fixed(site["name"], support_of(site["fn"]), support_of(before["fn"]))
    return Coordinates([site["name"] for site in sites], transforms, structure)


def _check_fixed(name: str, support: Any, again: Any) -> None:
    """Refuse a support that depends on other latents, whose coordinates would be those of one draw."""
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
