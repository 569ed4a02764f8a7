"""Every part once, by name: a new part is one line here, and every contract runs over it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import flows, guides, likelihoods, networks, priors
from pyrovae.models.vae import Model

LATENTS, FEATURES = 4, 6


def net(inputs: int, outputs: int) -> nn.Module:
    return networks.MLP(inputs, outputs, hidden=[5], activation=nn.Tanh)


def to_x(parameters: int = 1) -> nn.Module:
    return net(LATENTS, parameters * FEATURES)


def to_z(width: int = 2 * LATENTS) -> nn.Module:
    return net(FEATURES, width)


class Prior(NamedTuple):
    values: str  # what z is: a guide has to be over the same
    make: Callable[[], object]


PRIORS = {
    "standard_normal": Prior("real", lambda: priors.StandardNormal(LATENTS)),
    "normal": Prior("real", lambda: priors.Normal(LATENTS)),
    "laplace": Prior("real", lambda: priors.Laplace(LATENTS)),
    "student_t": Prior("real", lambda: priors.StudentT(LATENTS)),
    "gaussian_mixture": Prior("real", lambda: priors.GaussianMixture(LATENTS, 3)),
    "vamp": Prior("real", lambda: priors.VampPrior(guides.Normal(to_z()), torch.rand(3, FEATURES))),
    "exemplars": Prior("real", lambda: priors.VampPrior(guides.Normal(to_z()), torch.eye(6), learn=False)),
    "maf": Prior("real", lambda: flows.MAF(LATENTS, transforms=1, hidden_features=(8,))),
    "nsf": Prior("real", lambda: flows.NSF(LATENTS, transforms=1, bins=3, hidden_features=(8,))),
    "coupling": Prior("real", lambda: flows.RealNVP(LATENTS, transforms=2, hidden_features=(8,))),
    "gamma": Prior("positive", lambda: dist.Gamma(2 * torch.ones(LATENTS), torch.ones(())).to_event(1)),
    "dirichlet": Prior("simplex", lambda: priors.Dirichlet(LATENTS)),
    "logistic_normal": Prior("simplex", lambda: priors.LogisticNormal(LATENTS)),
    "uniform_sphere": Prior("sphere", lambda: priors.UniformSphere(LATENTS)),
    "bernoulli": Prior("bits", lambda: priors.Bernoulli(LATENTS)),
    "autoregressive_bernoulli": Prior("bits", lambda: priors.AutoregressiveBernoulli(LATENTS, hidden=5)),
    "categorical": Prior("one-hots", lambda: priors.Categorical(2, size=2)),
    "relaxed": Prior("relaxed", lambda: priors.RelaxedCategorical(2, size=2, temperature=0.6)),
    "autoregressive_categorical": Prior(
        "one-hots", lambda: priors.AutoregressiveCategorical(2, size=2, hidden=5)
    ),
}


def binary(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, FEATURES), 0.4))


def unit(n: int) -> Tensor:
    return 0.01 + 0.98 * torch.rand(n, FEATURES)


def levels(n: int, steps: int = 255) -> Tensor:
    """As of images: many values at both ends."""
    return torch.randint(-steps // 4, 5 * steps // 4, (n, FEATURES)).clamp(0, steps) / steps


def real(n: int) -> Tensor:
    return torch.randn(n, FEATURES)


def counts(n: int) -> Tensor:
    return torch.poisson(2 * torch.rand(n, FEATURES))


class Likelihood(NamedTuple):
    data: Callable[[int], Tensor]  # rows that it takes
    make: Callable[[], nn.Module]


LIKELIHOODS = {
    "bernoulli": Likelihood(binary, lambda: likelihoods.Bernoulli(to_x())),
    "continuous_bernoulli": Likelihood(levels, lambda: likelihoods.ContinuousBernoulli(to_x())),
    "beta": Likelihood(unit, lambda: likelihoods.Beta(to_x(2))),
    "categorical": Likelihood(levels, lambda: likelihoods.Categorical(to_x(256))),
    "discretized_logistic": Likelihood(levels, lambda: likelihoods.DiscretizedLogistic(to_x(2))),
    "discretized_mixture": Likelihood(levels, lambda: likelihoods.DiscretizedLogistic(to_x(9), components=3)),
    "normal": Likelihood(real, lambda: likelihoods.Normal(to_x(2))),
    "normal_fixed": Likelihood(real, lambda: likelihoods.Normal(to_x(), scale=0.7)),
    "normal_one_scale": Likelihood(real, lambda: likelihoods.Normal(to_x(), scale=0.7, learn_scale=True)),
    "normal_scales": Likelihood(
        real, lambda: likelihoods.Normal(to_x(), scale=torch.ones(FEATURES), learn_scale=True)
    ),
    "laplace": Likelihood(real, lambda: likelihoods.Laplace(to_x(), scale=0.7, learn_scale=True)),
    "student_t": Likelihood(real, lambda: likelihoods.StudentT(to_x(2))),
    "binomial": Likelihood(counts, lambda: likelihoods.Binomial(to_x(), total_count=255)),
    "poisson": Likelihood(counts, lambda: likelihoods.Poisson(to_x())),
    "negative_binomial": Likelihood(counts, lambda: likelihoods.NegativeBinomial(to_x(), features=FEATURES)),
    "zero_inflated": Likelihood(
        counts, lambda: likelihoods.ZeroInflatedNegativeBinomial(to_x(2), features=FEATURES)
    ),
    "multinomial": Likelihood(counts, lambda: likelihoods.Multinomial(to_x(), total_count=9)),
}


class GuideOf(NamedTuple):
    values: str  # what z is: a prior has to be over the same
    make: Callable[[object, nn.Module], nn.Module]  # from the prior and the likelihood


GUIDES = {
    "normal": GuideOf("real", lambda p, x: guides.Normal(to_z())),
    "low_rank": GuideOf("real", lambda p, x: guides.LowRankNormal(to_z(3 * LATENTS), LATENTS, rank=1)),
    "full_rank": GuideOf("real", lambda p, x: guides.FullRankNormal(to_z(8 + 6), LATENTS)),
    "mixture": GuideOf("real", lambda p, x: guides.GaussianMixture(to_z(18), LATENTS, components=2)),
    "iaf": GuideOf(
        "real", lambda p, x: guides.Flow(to_z(3), flows.IAF(4, 3, transforms=1, hidden_features=(8,)))
    ),
    "maf": GuideOf(
        "real", lambda p, x: guides.Flow(to_z(3), flows.MAF(4, 3, transforms=1, hidden_features=(8,)))
    ),
    "nsf": GuideOf("real", lambda p, x: flows.NSF(4, FEATURES, transforms=1, bins=3, hidden_features=(8,))),
    "delta": GuideOf("real", lambda p, x: guides.Delta(to_z(LATENTS))),
    "widened": GuideOf("real", lambda p, x: guides.Widened(guides.Normal(to_z()), 1.5)),
    "defensive": GuideOf("real", lambda p, x: guides.Defensive(guides.Normal(to_z()), p, 0.2)),
    "refined": GuideOf("real", lambda p, x: guides.Refined(guides.Normal(to_z()), Model(p, x), 2)),
    "log_normal": GuideOf("positive", lambda p, x: guides.LogNormal(to_z())),
    "dirichlet": GuideOf("simplex", lambda p, x: guides.Dirichlet(to_z(LATENTS))),
    "logistic_normal": GuideOf("simplex", lambda p, x: guides.LogisticNormal(to_z(2 * (LATENTS - 1)))),
    "power_spherical": GuideOf("sphere", lambda p, x: guides.PowerSpherical(to_z(LATENTS + 1), LATENTS)),
    "bernoulli": GuideOf("bits", lambda p, x: guides.Bernoulli(to_z(LATENTS))),
    "categorical": GuideOf("one-hots", lambda p, x: guides.Categorical(to_z(LATENTS), num_categories=2)),
    "relaxed": GuideOf("relaxed", lambda p, x: guides.RelaxedCategorical(to_z(LATENTS), num_categories=2)),
    "straight_bits": GuideOf("bits", lambda p, x: guides.StraightThrough(guides.Bernoulli(to_z(LATENTS)))),
    "straight_one_hots": GuideOf(
        "one-hots",
        lambda p, x: guides.StraightThrough(guides.Categorical(to_z(LATENTS), num_categories=2), 0.7),
    ),
}

PAIRS = [(p, q) for p, q in product(PRIORS, GUIDES) if PRIORS[p].values == GUIDES[q].values]
MISFITS = [(p, q) for p, q in product(PRIORS, GUIDES) if PRIORS[p].values != GUIDES[q].values]
EVERY_COMBINATION = [(p, x, q) for (p, q), x in product(PAIRS, LIKELIHOODS)]


def a_vae(prior: str = "standard_normal", likelihood: str = "bernoulli", guide: str = "normal") -> pv.VAE:
    p, x = PRIORS[prior].make(), LIKELIHOODS[likelihood].make()
    return pv.VAE(p, x, GUIDES[guide].make(p, x))
