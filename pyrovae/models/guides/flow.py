"""A normalising flow as the guide."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Flow"]


class Flow(nn.Module):
    r"""A flow whose context is a network's.

    .. math:: z = g(\epsilon; h), \quad \epsilon \sim \mathcal N(0, I), \quad h = \mathrm{net}(x)

    ``flows.IAF`` draws in one pass and is the one for training; ``flows.NSF`` and ``flows.MAF``
    take a pass for each latent to draw.

    Args:
        net: Maps ``[..., *event]`` to the flow's context, ``[..., context]``.
        flow: ``flow(h)`` returns q(z | h): a conditional flow of zuko or of :mod:`pyrovae.flows`.

    References:
        Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015. arXiv:1505.05770;
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016.
        arXiv:1606.04934

    Example:
        >>> import torch
        >>> from pyrovae import flows, networks
        >>> q = Flow(networks.MLP(784, 32), flows.IAF(16, context=32))(torch.rand(8, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([8]), torch.Size([16]))
    """

    def __init__(self, net: nn.Module, flow: nn.Module | Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.net = net
        self.flow = flow

    @staticmethod
    def net_width(context: int) -> int:
        """How wide the network's output is, which is the flow's context."""
        return context

    def forward(self, x: Tensor) -> Distribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> Distribution:
        """The distribution that the network's output stands for."""
        return self.flow(parameters)
