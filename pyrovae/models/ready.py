"""Complete VAEs, given their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyrovae.models import guides, likelihoods, networks, priors
from pyrovae.models.vae import VAE

__all__ = ["discrete", "prod_lda"]


def discrete(
    features: int, *, size: int = 8, num_categories: int = 10, hidden: Sequence[int] = (200,)
) -> VAE:
    r"""A VAE of binary data with a few categorical variables as its code.

    .. math:: p(x) = \sum_z p(z) \, p(x \mid z), \qquad z \in \{1, \dots, K\}^d

    With few enough values, ``TraceEnum_ELBO`` on ``config_enumerate(vae.guide)`` sums over them; otherwise
    the score function estimates the guide's gradient. For an autoregressive prior, add
    ``vae.prior = priors.AutoregressiveCategorical(num_categories, size=size)``.

    Args:
        features: Width of x.
        size: Number of variables, d.
        num_categories: Number of values of each variable, K.
        hidden: Hidden widths of the encoder and, reversed, of the decoder.

    References:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> discrete(9, size=2, num_categories=3).sample(5).shape
        torch.Size([5, 9])
    """
    width = size * num_categories
    return VAE(
        priors.Categorical(num_categories, size=size),
        likelihoods.Bernoulli(networks.MLP(width, features, hidden=tuple(hidden)[::-1])),
        guides.Categorical(networks.MLP(features, width, hidden=hidden), num_categories=num_categories),
    )


def prod_lda(
    vocabulary: int,
    topics: int,
    *,
    concentration: float = 0.1,
    hidden: Sequence[int] = (100, 100),
    words: int = 100,
) -> VAE:
    r"""ProdLDA, a topic model of bags of words that mixes the log odds of topics.

    .. math:: \theta = \operatorname{softmax}(z), \quad x \sim \mathrm{Multinomial}(n,
        \operatorname{softmax}(B \theta)), \qquad
        z \sim \mathcal N\big(0, \tfrac1\alpha (1 - \tfrac1K) I\big)

    The prior is the Laplace approximation of a symmetric Dirichlet in the softmax basis. The paper's batch
    normalisation is left out: with it a row's density depends on the other rows of its batch, and log p(x)
    is not defined. B, ``[vocabulary, topics]``, is ``vae.likelihood.net[1].weight``.

    Args:
        vocabulary: Number of words, the width of x.
        topics: Number of topics, K.
        concentration: alpha of the Dirichlet; small values give few topics in a row.
        hidden: Hidden widths of the encoder.
        words: Number of words in a generated row.

    References:
        Srivastava and Sutton, Autoencoding Variational Inference for Topic Models, 2017. arXiv:1703.01488

    Example:
        >>> prod_lda(1000, 20).sample(5).sum(-1)
        tensor([100., 100., 100., 100., 100.])
    """
    scale = ((1 - 1 / topics) / concentration) ** 0.5
    decoder = nn.Sequential(nn.Softmax(-1), nn.Linear(topics, vocabulary, bias=False))
    encoder = nn.Sequential(_LogCounts(), networks.MLP(vocabulary, 2 * topics, hidden=hidden))
    return VAE(
        priors.Normal(topics, scale=scale, learn=False),
        likelihoods.Multinomial(decoder, total_count=words),
        guides.Normal(encoder),
    )


class _LogCounts(nn.Module):
    """log(1 + x), which brings counts to a scale for a network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()
