"""What is kept of a block's importance weights, however many draws there are, and how it is added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.weights import WeightSums, elbo, ess, log_evidence, pareto_khat, standard_error

__all__ = ["Moments"]


class Moments(NamedTuple):
    """Sums over draws of each row: of the weights, and of ELBO, reconstruction and KL with their squares.

    Attributes:
        sums: Of the weights.
        origin: ``[3, batch]``, about which the moments are taken: they lose no digits so.
        moments: ``[2, 3, batch]``, sums of the differences from it, and of their squares.
    """

    sums: WeightSums
    origin: Tensor
    moments: Tensor

    @classmethod
    def of(cls, pieces: Iterable[tuple[Tensor, Tensor]], most: int) -> Moments:
        """Of log-weights and log ratios q / p(z), ``[draws, batch]`` each, chunk by chunk.

        Args:
            pieces: The chunks, at least one.
            most: Draws that a row may come to have: it sets how many of the largest weights are kept.
        """
        found: Moments | None = None
        for weights, kl in pieces:
            values = torch.stack([weights, weights + kl, kl])  # ELBO, reconstruction, KL
            origin = values[:, 0].nan_to_num(neginf=0.0) if found is None else found.origin
            shifted = values - origin[:, None]
            moments = torch.stack([shifted.sum(1), shifted.square().sum(1)])
            chunk = cls(WeightSums.of(weights, most), origin, moments)
            found = chunk if found is None else found.join(chunk, most)
        assert found is not None, "no draws"
        return found

    def join(self, other: Moments, most: int) -> Moments:
        """The tally of both sets of draws."""
        first, second = other.moments
        shift, count = other.origin - self.origin, other.sums.num_samples
        moved = torch.stack([first + count * shift, second + 2 * shift * first + count * shift.square()])
        return Moments(self.sums.join(other.sums, most), self.origin, self.moments + moved)

    def row(self, index: int) -> Moments:
        """Of one row alone."""
        at = slice(index, index + 1)
        count, *tensors = self.sums
        sums = WeightSums(count, *(tensor[..., at] for tensor in tensors))
        return Moments(sums, self.origin[:, at], self.moments[..., at])

    def columns(self) -> dict[str, Tensor]:
        """Every column of a result: ``[batch]`` each."""
        count = self.sums.num_samples
        mean, mean_square = self.moments / count
        variance = (mean_square - mean.square()).clamp(min=0)
        error = (variance / (count - 1)).sqrt() if count > 1 else torch.full_like(mean, torch.nan)
        _, reconstruction, kl = mean + self.origin
        return {
            "log_evidence": log_evidence(self.sums),
            "standard_error": standard_error(self.sums),
            "elbo": elbo(self.sums),
            "elbo_error": error[0],
            "reconstruction": reconstruction,
            "reconstruction_error": error[1],
            "kl": kl,
            "kl_error": error[2],
            "ess": ess(self.sums),
            "khat": pareto_khat(self.sums),
            "draws": torch.full_like(kl, count),
        }
