"""Models whose log p(x) is known, each with a guide and data."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from components import binary

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.testing import LinearGaussian, Quadrature

ROWS = 320


def linear_gaussian(latents):
    def make():
        pair = LinearGaussian(torch.randn(2 * latents, latents), noise=1.0, widen=1.0 + 0.6 / latents**0.5)
        x = pair.sample(ROWS)
        return pair.model, pair.guide, x, pair.log_evidence(x)

    return make


def gamma_poisson():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal((x + 1.5).log(), 0.7))

    exact = dist.GammaPoisson(2.0, 0.5)
    x = exact.sample((ROWS,))
    return model, guide, x, exact.log_prob(x)


def curved():
    oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(2, 6, hidden=[8])), latents=2)
    vae = pv.VAE(priors.StandardNormal(2), oracle.likelihood, guides.Normal(networks.MLP(6, 4)))
    x = binary(ROWS)
    return vae.model, vae.guide, x, oracle.log_evidence(x)


def two_moded():
    """x = |z| + noise, by quadrature; the guide is wide enough for both."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0].abs(), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), (x.abs()[:, None] + 0.5)).to_event(1))

    x = (2 * torch.randn(ROWS)).abs() + 0.5 * torch.randn(ROWS)
    z = torch.linspace(-20, 20, 20_001).double()
    log_joint = dist.Normal(0.0, 2.0).log_prob(z) + dist.Normal(z.abs(), 0.5).log_prob(x[:, None])
    return model, guide, x, log_joint.logsumexp(-1) + math.log(40 / 20_000)


def bits():
    """Four latent bits, enumerated."""
    vae = pv.VAE(
        priors.Bernoulli(4),
        likelihoods.Bernoulli(networks.MLP(4, 6, hidden=[8])),
        guides.Bernoulli(networks.MLP(6, 4)),
    )
    x = binary(ROWS)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)[:, None]
    exact = (vae.prior().log_prob(every) + vae.decode(every).log_prob(x)).logsumexp(0)
    return vae.model, vae.guide, x, exact.detach()


MODELS = {
    "1 latent": linear_gaussian(1),
    "5 latents": linear_gaussian(5),
    "50 latents": linear_gaussian(50),
    "gamma-Poisson": gamma_poisson,
    "curved": curved,
    "two modes": two_moded,
    "bits": bits,
}
