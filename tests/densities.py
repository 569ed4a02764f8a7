"""Parts away from where they start, as distributions, and what compares draws with densities."""

from __future__ import annotations

import torch
from components import FEATURES, GUIDES, LATENTS, LIKELIHOODS, PRIORS
from scipy import stats
from torch import nn

from pyrovae import networks
from pyrovae.models.base import as_module
from pyrovae.models.distributions import as_pyro

SURE = 4.5
"""In standard errors: one such comparison of means raises a false alarm 7 times in a million."""

OF_THE_PRIOR = {
    "real": "standard_normal",
    "positive": "gamma",
    "simplex": "dirichlet",
    "sphere": "uniform_sphere",
    "bits": "bernoulli",
    "one-hots": "categorical",
    "relaxed": "relaxed",
}


def shaken(part):
    """All parameters moved off where they start, where too much is zero or alike."""
    module = as_module(part)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
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


class Observed(nn.Module):
    """The distribution of a likelihood given two z."""

    def __init__(self, name):
        super().__init__()
        self.likelihood = shaken(LIKELIHOODS[name].make())
        if name == "beta":  # at low concentrations much lies nearer to 1 than numbers do
            bias = torch.tensor([0.0, 2.0]).repeat_interleave(FEATURES)
            networks.set_output_bias(self.likelihood.net, bias)
        self.register_buffer("z", torch.randn(2, LATENTS))

    def forward(self):
        return self.likelihood(self.z)


def chi_square(found, probabilities):
    """The p-value of counts under probabilities; values expected less than 5 times make one cell."""
    expected = probabilities.double() * found.sum()
    often = expected > 5
    if expected[~often].sum() > 5:
        found = torch.cat([found[often], found[~often].sum()[None]])
        expected = torch.cat([expected[often], expected[~often].sum()[None]])
    else:
        assert found[~often].sum() < 40
        found, expected = found[often], expected[often]
    if len(found) == 1:
        return 1.0
    return stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue
