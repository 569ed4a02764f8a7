"""A normalising flow as the guide."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.models.base import NetGuide

__all__ = ["Flow"]


class Flow(NetGuide):
    r"""A flow whose context is the output of a network.

    .. math:: z = g(\epsilon; h), \quad \epsilon \sim \mathcal N(0, I), \quad h = \mathrm{net}(x)

    ``flows.IAF`` draws in one pass and is the one for training; ``flows.NSF`` and ``flows.MAF``
    need a pass for each latent to draw.

    Args:
        net: Maps ``[..., *event]`` to the flow's context, ``[..., context]``.
        flow: ``flow(h)`` returns q(z | h): a conditional flow of zuko or of :mod:`pyrovae.flows`.

    References:
        Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015. arXiv:1505.05770; Kingma et
        al., Improved Variational Inference with Inverse Autoregressive Flow, 2016. arXiv:1606.04934

    Example:
        >>> import torch
        >>> from pyrovae import flows
        >>> Flow(nn.Linear(784, 32), flows.IAF(16, context=32))(torch.rand(8, 784)).event_shape
        torch.Size([16])
    """

    def __init__(self, net: nn.Module, flow: nn.Module | Callable[[Tensor], Distribution]) -> None:
        super().__init__(net)
        self.flow = flow

    @staticmethod
    def net_width(context: int) -> int:
        return context

    def given(self, parameters: Tensor) -> Distribution:
        return self.flow(parameters)
