"""Every part once, by name: a new part is one line here, and every contract runs over it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors

LATENTS, FEATURES = 3, 6

PRIORS: dict[str, Callable[[], nn.Module]] = {
    "standard_normal": lambda: priors.StandardNormal(LATENTS),
}
LIKELIHOODS: dict[str, Callable[[], nn.Module]] = {
    "bernoulli": lambda: likelihoods.Bernoulli(networks.MLP(LATENTS, FEATURES, hidden=[5])),
}
GUIDES: dict[str, Callable[[], nn.Module]] = {
    "normal": lambda: guides.Normal(networks.MLP(FEATURES, 2 * LATENTS, hidden=[5])),
}


def a_vae(prior: str = "standard_normal", likelihood: str = "bernoulli", guide: str = "normal") -> pv.VAE:
    return pv.VAE(PRIORS[prior](), LIKELIHOODS[likelihood](), GUIDES[guide]())
