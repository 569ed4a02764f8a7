"""log p(x) and the ELBO of discrete codes, by sums over all of them."""

from __future__ import annotations

import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, PRIORS
from densities import SURE, shaken
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

import pyrovae as pv
from pyrovae import guides, networks
from pyrovae.models.distributions import Autoregressive, Bits, OneHots

CODES = [name for name in PRIORS if PRIORS[name].values in ("bits", "one-hots")]


class Posterior(nn.Module):
    """p(z | x), variable by variable, from the joint density of all codes."""

    def __init__(self, prior, likelihood, *, one_hots):
        super().__init__()
        self.prior, self.likelihood, self.one_hots = prior, likelihood, one_hots

    def log_joint(self, x):
        """All binary vectors, and log p(z, x) of each: ``[codes, rows]``."""
        every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).to(x)] * LATENTS)
        return every, self.prior().log_prob(every)[:, None] + self.likelihood(every[:, None]).log_prob(x)

    def forward(self, x):
        every, log_joint = self.log_joint(x)
        width = 2 if self.one_hots else 1

        def logits(z):
            found = []
            for start in range(0, LATENTS, width):
                same = (every[:, :start] == z[..., None, :start]).all(-1)
                options = [every[:, start + k] == 1 for k in range(2)] if self.one_hots else []
                options = options or [every[:, start] == 0, every[:, start] == 1]
                masked = [log_joint.T.masked_fill(~(same & option), -1e4) for option in options]
                found.append(torch.stack([each.logsumexp(-1) for each in masked], -1))
            found = torch.stack(found, -2)
            return found if self.one_hots else found[..., 1] - found[..., 0]

        family = OneHots if self.one_hots else Bits
        return Autoregressive(logits, family, LATENTS // width, LATENTS, x.new_zeros(()), x.shape[:1])


@pytest.fixture(params=CODES)
def case(request):
    """The posterior, another guide, and data."""
    prior, likelihood = shaken(PRIORS[request.param].make()), shaken(LIKELIHOODS["bernoulli"].make())
    one_hots = PRIORS[request.param].values == "one-hots"
    net = shaken(networks.MLP(FEATURES, LATENTS))
    other = guides.Categorical(net, num_categories=2) if one_hots else guides.Bernoulli(net)
    x = LIKELIHOODS["bernoulli"].data(5).double()
    return Posterior(prior, likelihood, one_hots=one_hots).double(), other.double(), x


def a_vae(posterior, guide):
    return pv.VAE(posterior.prior, posterior.likelihood, guide)


@torch.no_grad()
def test_estimate_agrees_with_the_sum(case):
    """4.5 standard errors: false alarms 7 in a million a row."""
    posterior, guide, x = case
    vae = a_vae(posterior, guide)
    exact = posterior.log_joint(x)[1].logsumexp(0)
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=4000)
    error = pv.standard_error(weights)
    assert error.max() < 0.1
    assert ((pv.log_evidence(weights) - exact).abs() < SURE * error + 1e-4).all()


@torch.no_grad()
def test_evidence_of_all_data_sums_to_one(case):
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * FEATURES)
    exact = case[0].log_joint(every)[1].logsumexp(0)
    assert exact.exp().sum().item() == pytest.approx(1)


@torch.no_grad()
def test_enumerated_elbo_is_the_sum_over_all_codes(case):
    """Pyro enumerates the guide's codes in place of drawing them: no noise is left."""
    posterior, guide, x = case
    vae = a_vae(posterior, guide)
    every, log_joint = posterior.log_joint(x)
    log_q = guide(x).log_prob(every[:, None])
    terms = log_q.exp() * (log_joint - log_q)
    exact = terms.masked_fill(log_q.isneginf(), 0).sum()
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, config_enumerate(vae.guide), x)
    assert -enumerated == pytest.approx(exact.item(), abs=1e-9)
    drawn = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(300)])
    assert abs(-drawn.mean() - exact) < SURE * drawn.std() / 300**0.5


@torch.no_grad()
def test_with_the_posterior_as_guide_elbo_and_every_weight_are_the_evidence(case):
    posterior, _, x = case
    vae = a_vae(posterior, posterior)
    exact = posterior.log_joint(x)[1].logsumexp(0)
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, config_enumerate(vae.guide), x)
    assert -enumerated == pytest.approx(exact.sum().item(), abs=1e-9)
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=50)
    torch.testing.assert_close(weights, exact.expand(50, -1), rtol=0, atol=1e-9)


def test_enumeration_gives_the_exact_gradient(case):
    """Of the guide's parameters, which a score estimator has only on average."""
    posterior, guide, x = case
    vae = a_vae(posterior, guide)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    found = torch.autograd.grad(
        loss.differentiable_loss(vae.model, config_enumerate(vae.guide), x), list(guide.parameters())
    )
    every, log_joint = posterior.log_joint(x)
    log_q = guide(x).log_prob(every[:, None])
    valid = ~log_q.isneginf().all(1)
    log_q, log_joint = log_q[valid], log_joint[valid]
    exact = torch.autograd.grad(-(log_q.exp() * (log_joint - log_q)).sum(), list(guide.parameters()))
    for each, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(each, expected)
