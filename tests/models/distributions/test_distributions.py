"""Every prior, likelihood and guide of the lists is a density, and its draws have that density."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from components import GUIDES, LATENTS, LIKELIHOODS, PRIORS
from densities import SURE, Latent, Observed, chi_square, shaken
from scipy import stats
from torch import nn

from pyrovae import guides, networks, priors

DRAWS = 40_000
PARTS = [("prior", name) for name in PRIORS] + [("guide", name) for name in GUIDES if name != "delta"]
VALUES = {(role, name): (PRIORS if role == "prior" else GUIDES)[name].values for role, name in PARTS}
DISCRETE = [part for part in PARTS if VALUES[part] in ("bits", "one-hots")]
CONTINUOUS = [part for part in PARTS if part not in DISCRETE]

PROPORTIONS = {"simplex": (1, LATENTS), "relaxed": (2, 2)}
"""Variables, and proportions of each."""


def every_binary_vector():
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * LATENTS)


def spread_over(values, distribution, n):
    """Values all over the space, ``[n, d]``, with the log of the volume that each stands for, ``[n]``.

    On the sphere they are uniform, elsewhere Student's t about the distribution's own draws, of twice
    their covariance, in coordinates without bounds.
    """
    if values == "sphere":
        area = 2 * math.pi ** (LATENTS / 2) / math.gamma(LATENTS / 2)
        return nn.functional.normalize(torch.randn(n, LATENTS).double(), dim=-1), torch.full(
            (n,), math.log(area)
        )
    drawn = distribution.sample((4000,)).reshape(4000, -1).double()
    if values == "positive":
        drawn = drawn.log()
    elif values in PROPORTIONS:
        logs = drawn.unflatten(-1, PROPORTIONS[values]).log()
        drawn = (logs[..., :-1] - logs[..., -1:]).flatten(-2)
    width = drawn.shape[1]
    root = torch.linalg.cholesky(2 * drawn.T.cov())
    noise = torch.randn(n, width).double() / torch.distributions.Chi2(3.0).sample((n, 1)).div(3).sqrt()
    known = stats.multivariate_t(torch.zeros(width), torch.eye(width), df=3)
    log_volume = root.diagonal().log().sum() - torch.as_tensor(known.logpdf(noise))
    u = drawn.median(0).values + noise @ root.T
    if values == "positive":
        z, log_volume = u.exp(), log_volume + u.sum(-1)
    elif values in PROPORTIONS:
        size, categories = PROPORTIONS[values]
        z = nn.functional.pad(u.unflatten(-1, (size, categories - 1)), (0, 1)).softmax(-1).flatten(-2)
        log_volume = log_volume + z.log().sum(-1)
    else:
        z = u
    return z, log_volume


@pytest.mark.parametrize("part", DISCRETE, ids="-".join)
@torch.no_grad()
def test_probabilities_sum_to_one_and_draws_have_them(part):
    """Over all binary vectors, so that one-hot families must give zero to what is none of theirs.

    The chi-square test of the draws raises a false alarm once in a million.
    """
    distribution = Latent(*part)()
    every = every_binary_vector()
    probabilities = distribution.log_prob(every).exp().double()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    enumerated = distribution.expand([3]).enumerate_support()
    possible = every[probabilities > 0]
    assert sorted(enumerated[:, 1].tolist()) == sorted(possible.tolist())

    drawn = distribution.sample((DRAWS,)).reshape(DRAWS, LATENTS)
    found = (drawn[:, None] == possible).all(-1).sum(0)
    assert found.sum() == DRAWS
    assert chi_square(found, probabilities[probabilities > 0]) > 1e-6


@pytest.mark.parametrize("part", CONTINUOUS, ids="-".join)
@torch.no_grad()
def test_density_integrates_to_one_and_draws_have_it(part):
    """By importance sampling in all dimensions; the error of the integral is 3% at most, of most 0.5%.

    Draws and density agree on how often each coordinate, and each pair of them, is low, and how often
    it is near its middle: at 14 comparisons a part, false alarms are 1 in 10,000 parts.
    """
    values, distribution = VALUES[part], Latent(*part).double()()
    z, log_volume = spread_over(values, distribution, DRAWS)
    weights = (distribution.log_prob(z) + log_volume).exp()
    error = weights.std() / DRAWS**0.5
    assert error < 0.03
    assert abs(weights.mean() - 1) < SURE * error + 1e-6

    drawn = distribution.sample((DRAWS,)).reshape(DRAWS, LATENTS)
    low, high = drawn.quantile(0.3, 0), drawn.quantile(0.7, 0)

    def places(z):
        pairs = [(z[:, i] < low[i]) & (z[:, j] < low[j]) for i in range(LATENTS) for j in range(i)]
        return torch.stack([*((z < low).T), *(((z > low) & (z < high)).T), *pairs], -1).double()

    by_draws, by_density = places(drawn), places(z) * weights[:, None]
    difference = by_draws.mean(0) - by_density.mean(0)
    error = (by_draws.var(0) + by_density.var(0)).div(DRAWS).sqrt()
    assert (difference.abs() <= SURE * error).all(), difference / error


WITHOUT_A_MEAN = ("logistic_normal", "relaxed", "iaf", "maf", "nsf", "coupling")
WITHOUT_A_MEAN += ("autoregressive_bernoulli", "autoregressive_categorical")
ALL = [*PARTS, *(("likelihood", name) for name in LIKELIHOODS)]


def any_part(role, name):
    return Observed(name) if role == "likelihood" else Latent(role, name)


@pytest.mark.parametrize("part", ALL, ids="-".join)
@torch.no_grad()
def test_mean_is_that_of_the_draws(part):
    distribution = any_part(*part)()
    try:
        mean = distribution.mean
    except (NotImplementedError, AttributeError):
        assert part[1] in WITHOUT_A_MEAN
        return
    drawn = distribution.sample((DRAWS,)).double()
    error = drawn.std(0) / DRAWS**0.5
    assert ((drawn.mean(0) - mean).abs() < SURE * error + 1e-6).all()


@pytest.mark.parametrize("part", ALL, ids="-".join)
@torch.no_grad()
def test_expansion_keeps_the_density(part):
    distribution = any_part(*part)()
    wider = distribution.expand([3, *distribution.batch_shape])
    assert wider.batch_shape == (3, *distribution.batch_shape)
    drawn = wider.sample()
    assert drawn.shape == (*wider.batch_shape, *wider.event_shape)
    torch.testing.assert_close(wider.log_prob(drawn), distribution.log_prob(drawn))


@pytest.mark.parametrize("part", [part for part in ALL if part[1] != "refined"], ids="-".join)
@torch.no_grad()
def test_single_precision_is_enough(part):
    """Of the worst of 2,000 draws. Refined draws other noise in another precision."""
    module = any_part(*part)
    distribution = module()
    drawn = distribution.sample((2000,))
    exact = copy.deepcopy(module).double()()
    torch.testing.assert_close(
        distribution.log_prob(drawn).double(), exact.log_prob(drawn.double()).double(), rtol=1e-5, atol=1e-3
    )


@torch.no_grad()
def test_conditional_normal_is_the_normal_of_its_condition():
    prior = shaken(priors.ConditionalNormal(networks.MLP(3, 4)))
    y = torch.eye(3)
    loc, log_variance = prior.net(y).chunk(2, -1)
    z = torch.randn(3, 2)
    expected = torch.distributions.MultivariateNormal(loc, log_variance.exp().diag_embed()).log_prob(z)
    torch.testing.assert_close(prior(y).log_prob(z), expected)


@torch.no_grad()
def test_full_and_low_rank_normals_have_the_covariance_of_their_numbers():
    """By the documented order: rows of N, below the diagonal, and of V."""
    numbers = torch.randn(1, 9)
    q = guides.FullRankNormal(nn.Identity(), 3)(numbers)
    variances, below = numbers[0, 3:6].exp(), numbers[0, 6:]
    unit = torch.tensor([[1, 0, 0], [below[0], 1, 0], [below[1], below[2], 1]])
    lower = variances.sqrt()[:, None] * unit
    torch.testing.assert_close(q.covariance_matrix[0], lower @ lower.T)
    numbers = torch.randn(1, 12)
    q = guides.LowRankNormal(nn.Identity(), 3, rank=2)(numbers)
    factor = numbers[0, 6:].reshape(3, 2)
    expected = factor @ factor.T + numbers[0, 3:6].exp().diag()
    torch.testing.assert_close(q.covariance_matrix[0], expected)
    torch.testing.assert_close(q.mean, numbers[:, :3])
