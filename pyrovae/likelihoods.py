"""Likelihoods p(x | z): modules whose ``forward(z)`` returns the distribution of x for each z."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.networks import set_output_bias

__all__ = ["Bernoulli", "check_support"]


class Bernoulli(nn.Module):
    r"""Binary data, such as binarised images.

    .. math:: p(x \mid z) = \prod_i \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
        \operatorname{logit} \pi = \mathrm{net}(z)

    The logits go straight into the log density: no probability is ever clamped.

    Args:
        net: Maps ``[..., dim]`` to logits ``[..., *event]`` with one event dim.
        data_mean: Means of the training data, ``[*event]``. Their logits, taken within
            [0.001, 0.999], become the bias of the network's last layer, so that training starts
            from the average image.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016, for the bias. arXiv:1509.00519

    Example:
        >>> from pyrovae import networks
        >>> p = Bernoulli(networks.MLP(16, 784))(torch.randn(32, 16))
        >>> p.batch_shape, p.event_shape
        (torch.Size([32]), torch.Size([784]))
    """

    def __init__(self, net: nn.Module, *, data_mean: Tensor | None = None) -> None:
        super().__init__()
        self.net = net
        if data_mean is not None:
            set_output_bias(net, torch.logit(data_mean, eps=1e-3))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z): batch shape ``[...]``, event shape ``[*event]``."""
        return dist.Bernoulli(logits=self.net(z), validate_args=False).to_event(1)


def check_support(distribution: Any, x: Tensor) -> None:
    """Refuse data that a likelihood gives no density, in one line that names the mend.

    Args:
        distribution: p(x | z) of a batch.
        x: The data, ``[batch, *event]``.

    Raises:
        ValueError: The shape of a row is not the event shape, or a value is outside the support.
    """
    name = _name(distribution)
    event = distribution.event_shape
    if x.shape[x.dim() - len(event) :] != event:
        raise ValueError(f"site 'x': data of shape {tuple(x.shape)}, {name} has rows of {tuple(event)}")
    try:
        support = distribution.support
    except NotImplementedError:  # a user's own distribution need not tell
        support = None
    if support is None or support.check(x).all():
        return
    row, value = _first_bad(support, x)
    raise ValueError(
        f"site 'x': value {value:g} in row {row} of the batch is outside {name}: {_mend(name, x, value)}"
    )


def _name(distribution: Any) -> str:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__


def _first_bad(support: torch.distributions.constraints.Constraint, x: Tensor) -> tuple[int, float]:
    """Row and value of the first value outside, whatever draws dims the support has besides."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    good = support.check(x)
    if good.shape[good.dim() - x.dim() :] != x.shape:  # a constraint on whole rows
        row = int((~good.reshape(-1, len(x)).all(0)).nonzero()[0])
        return row, float(x[row].flatten()[0])
    first = (~good.reshape(-1, *x.shape).all(0)).nonzero()[0]
    return int(first[0]), float(x[tuple(first)])


def _mend(name: str, x: Tensor, value: float) -> str:
    if value != value:
        return "drop the row or fill it in"
    if name != "Bernoulli":
        return "rescale the data, or choose a likelihood that takes them"
    if x.min() >= 0 and x.max() <= 1:
        return "binarise, or use ContinuousBernoulli"
    if x.min() >= 0 and x.max() <= 255:
        return "divide 8-bit values by 255, then binarise or use ContinuousBernoulli"
    return "choose a likelihood of real values, or rescale and binarise"
