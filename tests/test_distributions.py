"""Every prior, likelihood and guide of the lists is a density, and its draws have that density."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from components import FEATURES, GUIDES, LATENTS, LIKELIHOODS, PRIORS
from scipy import stats
from torch import nn

from pyrovae import guides, networks, priors
from pyrovae.distributions import as_pyro, support_of
from pyrovae.parts import as_module

DRAWS = 40_000
SURE = 4.5
"""In standard errors: one such comparison of means raises a false alarm 7 times in a million."""

OF_THE_PRIOR = {
    "real": "standard_normal",
    "positive": "gamma",
    "simplex": "dirichlet",
    "sphere": "uniform_sphere",
    "bits": "bernoulli",
    "one-hots": "categorical",
}
PARTS = [("prior", name) for name in PRIORS] + [("guide", name) for name in GUIDES if name != "delta"]
VALUES = {(role, name): (PRIORS if role == "prior" else GUIDES)[name].values for role, name in PARTS}
DISCRETE = [part for part in PARTS if VALUES[part] in ("bits", "one-hots")]
CONTINUOUS = [part for part in PARTS if part not in DISCRETE]


def shaken(part):
    """All parameters moved off where they start, where too much is nought or alike."""
    module = as_module(part)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return module


class Latent(nn.Module):
    """The distribution of a prior, or of a guide given one row."""

    def __init__(self, role, name):
        super().__init__()
        prior = name if role == "prior" else OF_THE_PRIOR[GUIDES[name].values]
        self.prior, self.likelihood = shaken(PRIORS[prior].make()), shaken(LIKELIHOODS["normal"].make())
        self.guide = shaken(GUIDES[name].make(self.prior, self.likelihood)) if role == "guide" else None
        self.register_buffer("x", LIKELIHOODS["normal"].data(1))

    def forward(self):
        return as_pyro(self.prior() if self.guide is None else self.guide(self.x))


def given_two_rows(name):
    """p(x | z) of a likelihood at two z, in float64, for sums and integrals."""
    likelihood = shaken(LIKELIHOODS[name].make()).double()
    return likelihood(torch.randn(2, LATENTS, dtype=torch.float64))


def every_binary_vector():
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * LATENTS)


def spread_over(values, distribution, n):
    """Values all over the space, ``[n, d]``, with the log of the volume that each stands for, ``[n]``.

    On the sphere they are uniform, elsewhere Student's t about the distribution's own draws, of twice
    their covariance, in coordinates without bounds.
    """
    if values == "sphere":
        area = 2 * math.pi ** (LATENTS / 2) / math.gamma(LATENTS / 2)
        return nn.functional.normalize(torch.randn(n, LATENTS), dim=-1), torch.full((n,), math.log(area))
    drawn = distribution.sample((4000,)).reshape(4000, -1).double()
    if values == "positive":
        drawn = drawn.log()
    elif values == "simplex":
        drawn = drawn[:, :-1].log() - drawn[:, -1:].log()
    width = drawn.shape[1]
    root = torch.linalg.cholesky(2 * drawn.T.cov())
    noise = torch.randn(n, width).double() / torch.distributions.Chi2(3.0).sample((n, 1)).div(3).sqrt()
    known = stats.multivariate_t(torch.zeros(width), torch.eye(width), df=3)
    log_volume = root.diagonal().log().sum() - torch.as_tensor(known.logpdf(noise))
    u = drawn.median(0).values + noise @ root.T
    if values == "positive":
        z, log_volume = u.exp(), log_volume + u.sum(-1)
    elif values == "simplex":
        z = nn.functional.pad(u, (0, 1)).softmax(-1)
        log_volume = log_volume + z.log().sum(-1)
    else:
        z = u
    return z.to(torch.get_default_dtype()), log_volume


@pytest.mark.parametrize("part", DISCRETE, ids="-".join)
@torch.no_grad()
def test_probabilities_sum_to_one_and_draws_have_them(part):
    """Over all binary vectors, so that one-hot families must give nought to what is none of theirs.

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
    expected = DRAWS * probabilities[probabilities > 0]
    assert stats.chisquare(found, expected * DRAWS / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize("part", CONTINUOUS, ids="-".join)
@torch.no_grad()
def test_density_integrates_to_one_and_draws_have_it(part):
    """By importance sampling in all dimensions; the error of the integral is 1% at most.

    Draws and density agree on how often each coordinate, and each pair of them, is low, and how often
    it is near its middle: at 14 comparisons a part, false alarms are 1 in 10,000 parts.
    """
    values, distribution = VALUES[part], Latent(*part)()
    z, log_volume = spread_over(values, distribution, DRAWS)
    weights = (distribution.log_prob(z).double() + log_volume).exp()
    error = weights.std() / DRAWS**0.5
    assert error < 0.01
    assert abs(weights.mean() - 1) < SURE * error

    drawn = distribution.sample((DRAWS,)).reshape(DRAWS, LATENTS)
    low, high = drawn.quantile(0.3, 0), drawn.quantile(0.7, 0)

    def places(z):
        pairs = [(z[:, i] < low[i]) & (z[:, j] < low[j]) for i in range(LATENTS) for j in range(i)]
        return torch.stack([*((z < low).T), *(((z > low) & (z < high)).T), *pairs], -1).double()

    by_draws, by_density = places(drawn), places(z) * weights[:, None]
    difference = by_draws.mean(0) - by_density.mean(0)
    error = (by_draws.var(0) + by_density.var(0)).div(DRAWS).sqrt()
    assert (difference.abs() < SURE * error).all(), difference / error


def points_of(support, width):
    """Values of one feature that hold all its probability, ``[n, 1, 1]``, and what each stands for."""
    kind = type(support).__name__
    if kind == "_Boolean":
        x, volume = torch.tensor([0.0, 1.0]).double(), 1.0
    elif kind == "_Grid":
        x, volume = torch.arange(support.levels).double() / (support.levels - 1), 1.0
    elif kind in ("_IntegerGreaterThan", "_IntegerInterval"):
        x, volume = torch.arange(256 if kind == "_IntegerInterval" else 5000).double(), 1.0
    else:
        # Evenly over all reals in coordinates t; the trapezoid rule then converges fast.
        t = torch.linspace(-16, 16, 8001, dtype=torch.float64)
        step = (t[1] - t[0]).item()
        if kind == "_Real":
            x, volume = t.sinh(), t.cosh() * step
        else:
            x = (2 * t).sigmoid()
            volume = 2 * x * (-2 * t).sigmoid() * step
            x, volume = x[x < 1], volume[x < 1]
    return x[:, None, None].expand(-1, *width), volume


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "multinomial"])
@torch.no_grad()
def test_likelihood_sums_to_one_in_every_feature(name):
    """Features are independent, so that x's density is the product over them.

    The tolerance is for the kink of Laplace's density, which the rule's points miss; the others come
    within 1e-9.
    """
    likelihood = given_two_rows(name)
    base = likelihood.base_dist
    assert base.batch_shape == (2, FEATURES)
    x, volume = points_of(support_of(base), base.batch_shape)
    density = base.log_prob(x).exp() * torch.as_tensor(volume).reshape(-1, 1, 1)
    tolerance = 1e-4 if name == "laplace" else 1e-8
    torch.testing.assert_close(density.sum(0), torch.ones(2, FEATURES).double(), rtol=0, atol=tolerance)
    picked = x[torch.randint(len(x), (7,))]
    torch.testing.assert_close(likelihood.log_prob(picked), base.log_prob(picked).sum(-1))


@torch.no_grad()
def test_multinomial_sums_to_one_over_all_counts_of_a_total():
    """For every total, the one it was built with or not."""
    likelihood = given_two_rows("multinomial")
    every = torch.cartesian_prod(*[torch.arange(5.0, dtype=torch.float64)] * FEATURES)
    for total in (0, 1, 4):
        counts = every[every.sum(-1) == total]
        assert len(counts) == math.comb(total + FEATURES - 1, total)
        sums = likelihood.log_prob(counts[:, None]).exp().sum(0)
        torch.testing.assert_close(sums, torch.ones(2).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "multinomial"])
@torch.no_grad()
def test_draws_of_a_likelihood_have_its_density(name):
    """Chi-square where values are discrete, else Kolmogorov-Smirnov: 12 tests of 1e-7 false alarms."""
    base = given_two_rows(name).base_dist
    x, volume = points_of(support_of(base), base.batch_shape)
    mass = (base.log_prob(x).exp() * torch.as_tensor(volume).reshape(-1, 1, 1)).flatten(1).T
    axis = x[:, 0, 0]
    for masses, drawn in zip(mass, base.sample((DRAWS,)).flatten(1).T.contiguous(), strict=True):
        if torch.is_tensor(volume):
            below = (masses.cumsum(0) - masses / 2).numpy()  # a point stands for both of its sides
            test = stats.kstest(drawn.numpy(), lambda at, below=below: np.interp(at, axis.numpy(), below))
        else:
            which = torch.bucketize(drawn, (axis[1:] + axis[:-1]) / 2)
            assert (axis[which] - drawn).abs().max() < 1e-9
            found = which.bincount(minlength=len(axis)).double()
            often = masses * DRAWS > 5  # the rest makes one cell
            cells = [torch.cat([each[often], each[~often].sum()[None]]) for each in (found, masses * DRAWS)]
            cells = [each[cells[1] > 1e-3] for each in cells]
            test = stats.chisquare(cells[0], cells[1] * cells[0].sum() / cells[1].sum())
        assert test.pvalue > 1e-7


@torch.no_grad()
def test_draws_of_the_multinomial_have_its_probabilities():
    """Chi-square over the 126 count vectors of total 4: 1e-7 false alarms."""
    likelihood = LIKELIHOODS["multinomial"].make()
    likelihood.total_count = 4
    distribution = shaken(likelihood)(torch.randn(LATENTS))
    every = torch.cartesian_prod(*[torch.arange(5.0)] * FEATURES)
    every = every[every.sum(-1) == 4]
    found = (distribution.sample((DRAWS,))[:, None] == every).all(-1).sum(0)
    expected = distribution.log_prob(every).exp().double() * DRAWS
    often = expected > 5
    cells = [torch.cat([each[often], each[~often].sum()[None]]) for each in (found.double(), expected)]
    assert found.sum() == DRAWS
    assert stats.chisquare(cells[0], cells[1] * DRAWS / cells[1].sum()).pvalue > 1e-7


ALL = [*PARTS, *(("likelihood", name) for name in LIKELIHOODS)]


def any_part(role, name):
    """A module whose call without arguments gives the distribution."""
    if role != "likelihood":
        return Latent(role, name)
    module = nn.Module()
    module.likelihood = shaken(LIKELIHOODS[name].make())
    module.register_buffer("z", torch.randn(2, LATENTS))
    module.forward = lambda: module.likelihood(module.z)
    return module


@pytest.mark.parametrize("part", ALL, ids="-".join)
@torch.no_grad()
def test_mean_is_that_of_the_draws(part):
    distribution = any_part(*part)()
    try:
        mean = distribution.mean
    except (NotImplementedError, AttributeError):
        assert part[1] in ("logistic_normal", "iaf", "maf", "nsf", "coupling")
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


@pytest.mark.parametrize("part", ALL, ids="-".join)
@torch.no_grad()
def test_single_precision_is_enough(part):
    """Of the worst of 2,000 draws; seen are 2e-4 (rounded logistic, of 300 nats) and less."""
    module = any_part(*part)
    distribution = module()
    drawn = distribution.sample((2000,))
    exact = copy.deepcopy(module).double()()
    torch.testing.assert_close(
        distribution.log_prob(drawn).double(), exact.log_prob(drawn.double()), rtol=1e-5, atol=1e-3
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
    """By the documented order: rows of what is below the diagonal, and of V."""
    numbers = torch.randn(1, 9)
    q = guides.FullRankNormal(nn.Identity(), 3)(numbers)
    variances, below = numbers[0, 3:6].exp(), numbers[0, 6:]
    lower = torch.tensor([[0, 0, 0], [below[0], 0, 0], [below[1], below[2], 0]]) + variances.sqrt().diag()
    torch.testing.assert_close(q.covariance_matrix[0], lower @ lower.T)
    numbers = torch.randn(1, 12)
    q = guides.LowRankNormal(nn.Identity(), 3, rank=2)(numbers)
    factor = numbers[0, 6:].reshape(3, 2)
    expected = factor @ factor.T + numbers[0, 3:6].exp().diag()
    torch.testing.assert_close(q.covariance_matrix[0], expected)
    torch.testing.assert_close(q.mean, numbers[:, :3])
