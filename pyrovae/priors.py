"""Priors p(z): modules whose ``forward()`` returns the distribution of one latent vector."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    r"""The prior of the first VAE.

    .. math:: p(z) = \mathcal N(z; 0, I)

    Args:
        dim: Width of z.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114

    Example:
        >>> StandardNormal(16)().event_shape
        torch.Size([16])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"StandardNormal: dim must be at least 1, got {dim}")
        self.register_buffer("loc", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return dist.Normal(self.loc, self.scale, validate_args=False).to_event(1)
