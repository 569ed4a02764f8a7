"""VAEs of which only the sizes are left to choose."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyrovae.models import guides, likelihoods, networks, priors
from pyrovae.models.vae import VAE

__all__ = ["discrete", "prod_lda"]


def discrete(
    features: int, *, size: int = 8, num_categories: int = 10, hidden: Sequence[int] = (200,)
) -> VAE:
    r"""A VAE of binary data whose code is a few categorical variables.

    .. math:: p(x) = \sum_z p(z) \, p(x \mid z), \qquad z \in \{1, \dots, K\}^d

    With few enough values, ``TraceEnum_ELBO`` on ``config_enumerate(vae.guide)`` sums over them;
    otherwise the score function estimates the guide's gradient. An autoregressive prior is one line
    more: ``vae.prior = priors.AutoregressiveCategorical(num_categories, size=size)``.

    Args:
        features: Width of x.
        size: Variables of the code, d.
        num_categories: Values of each, K.
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
    r"""ProdLDA, a topic model of bags of words: the topics' log odds are mixed.

    .. math:: \theta = \operatorname{softmax}(z), \quad x \sim \mathrm{Multinomial}(n,
        \operatorname{softmax}(B \theta)), \qquad
        z \sim \mathcal N\big(0, \tfrac1\alpha (1 - \tfrac1K) I\big)

    The prior is the Laplace approximation of a symmetric Dirichlet in the softmax basis. The paper's
    batch normalisation is left out: with it a row's density depends on the rows beside it, and there
    is no log p(x) to speak of. ``vae.likelihood.net[1].weight`` holds B, ``[vocabulary, topics]``.

    Args:
        vocabulary: Words, the width of x.
        topics: K.
        concentration: alpha of the Dirichlet; small for few topics in a row.
        hidden: Hidden widths of the encoder.
        words: In a row that is generated.

    References:
        Srivastava and Sutton, Autoencoding Variational Inference for Topic Models, 2017.
        arXiv:1703.01488

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
    """log(1 + x): counts on a scale that a network likes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()
