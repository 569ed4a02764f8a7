"""Mergeable running sums of importance weights and ELBO terms, and the columns of a result made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.weights import WeightSums, elbo, ess, log_evidence, pareto_khat, standard_error

__all__ = ["Moments", "weight_columns"]


class Moments(NamedTuple):
    """Mergeable running sums of a batch's importance weights, and of its ELBO, reconstruction and KL."""

    sums: WeightSums
    origin: Tensor  # [3, batch], subtracted first so that no digits are lost
    moments: Tensor  # [2, 3, batch], sums of the differences from it and of their squares

    @classmethod
    def of(cls, pieces: Iterable[tuple[Tensor, Tensor]], most: int) -> Moments:
        """Moments of chunks of log-weights and log ratios q / p(z), ``[draws, batch]`` each.

        ``most`` is the largest number of draws that a row may get: it sets how long a tail is kept.
        """
        result: Moments | None = None
        for weights, kl in pieces:
            values = torch.stack([weights, weights + kl, kl])  # ELBO, reconstruction, KL
            origin = values[:, 0].nan_to_num(neginf=0.0) if result is None else result.origin
            shifted = values - origin[:, None]
            moments = torch.stack([shifted.sum(1), shifted.square().sum(1)])
            chunk = cls(WeightSums.of(weights, most), origin, moments)
            result = chunk if result is None else result.join(chunk, most)
        assert result is not None, "no draws"
        return result

    def join(self, other: Moments, most: int) -> Moments:
        """The moments of both sets of draws."""
        first, second = other.moments
        shift, count = other.origin - self.origin, other.sums.num_samples
        moved = torch.stack([first + count * shift, second + 2 * shift * first + count * shift.square()])
        return Moments(self.sums.join(other.sums, most), self.origin, self.moments + moved)

    def row(self, index: int) -> Moments:
        """The moments of one row."""
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
            **weight_columns(self.sums),
            "elbo": elbo(self.sums),
            "elbo_error": error[0],
            "reconstruction": reconstruction,
            "reconstruction_error": error[1],
            "kl": kl,
            "kl_error": error[2],
        }


def weight_columns(sums: WeightSums) -> dict[str, Tensor]:
    """The columns of a result that are reductions of the weights: ``[batch]`` each."""
    size = ess(sums)
    return {
        "log_evidence": log_evidence(sums),
        "standard_error": standard_error(sums),
        "ess": size,
        "khat": pareto_khat(sums),
        "draws": torch.full_like(size, sums.num_samples),
    }
