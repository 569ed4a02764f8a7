"""Guides q(z | x): modules whose ``forward(x)`` returns the distribution of z for each row of x."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

__all__ = ["Normal"]


class Normal(nn.Module):
    r"""A normal with diagonal covariance, the mean-field guide of the first VAE.

    .. math:: q(z \mid x) = \mathcal N(z; \mu(x), \operatorname{diag} \sigma^2(x)), \qquad
        (\mu, \log \sigma^2) = \mathrm{net}(x)

    Draws are :math:`z = \mu + \sigma \epsilon` with standard normal noise, so gradients pass.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim]``: loc, then log variance.

    Raises:
        ValueError: The network's output has an odd width.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Normal(networks.MLP(784, 2 * 16, hidden=[400]))(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([16]))
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        parameters = self.net(x)
        if parameters.shape[-1] % 2:
            raise ValueError(
                f"guides.Normal: the network must give loc and log variance, an even width; "
                f"it gives {parameters.shape[-1]}"
            )
        loc, log_variance = parameters.chunk(2, dim=-1)
        return dist.Normal(loc, (log_variance / 2).exp(), validate_args=False).to_event(1)
