"""The likelihood of binary data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.models import distributions
from pyrovae.models.base import NetLikelihood
from pyrovae.models.networks import set_output_bias

__all__ = ["Bernoulli"]


class Bernoulli(NetLikelihood):
    r"""Binary data, such as binarised images.

    .. math:: p(x \mid z) = \prod_i \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
        \operatorname{logit} \pi = \mathrm{net}(z)

    The log density is computed from the logits: no probability is ever clamped.

    Args:
        net: Maps ``[..., dim]`` to logits ``[..., *event]`` with one event dim.
        data_mean: Means of the training data, ``[*event]``. Their logits, of means clamped to [0.001, 0.999],
            become the bias of the network's last layer, so that training starts from the average image.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114; Burda et al., Importance
        Weighted Autoencoders, 2016, for the bias. arXiv:1509.00519

    Example:
        >>> p = Bernoulli(nn.Linear(16, 784))(torch.randn(32, 16))
        >>> p.batch_shape, p.event_shape
        (torch.Size([32]), torch.Size([784]))
    """

    def __init__(self, net: nn.Module, *, data_mean: Tensor | None = None) -> None:
        super().__init__(net)
        if data_mean is not None:
            set_output_bias(net, torch.logit(data_mean, eps=1e-3))

    def given(self, parameters: Tensor) -> distributions.Bernoulli:
        return distributions.Bernoulli(parameters)
