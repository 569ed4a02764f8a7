"""Likelihoods, guides and the random streams, each for itself."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

from pyrovae import guides, likelihoods, networks, priors
from pyrovae.core.random import generator, stream


def test_prior_of_no_width_is_refused():
    with pytest.raises(ValueError, match="dim is 0: at least 1 is needed"):
        priors.StandardNormal(0)


def test_bernoulli_starts_from_the_data_means():
    net = networks.MLP(2, 4, hidden=[3])
    mean = torch.tensor([0.0, 0.25, 0.5, 1.0])
    likelihood = likelihoods.Bernoulli(net, data_mean=mean)
    with torch.no_grad():
        net.layers[-1].weight.zero_()
    torch.testing.assert_close(likelihood(torch.randn(5, 2)).mean[0], mean.clamp(1e-3, 1 - 1e-3))


@pytest.mark.parametrize("logit", [-1e4, -200.0, 0.0, 200.0, 1e4])
def test_bernoulli_is_exact_at_any_logit(logit):
    """log sigmoid(l) = -log(1 + exp(-l)): a clamped probability would stop at -16."""
    p = likelihoods.Bernoulli(lambda z: z)(torch.tensor([logit]))
    assert p.log_prob(torch.ones(1)).item() == pytest.approx(
        min(logit, 0) - math.log1p(math.exp(-abs(logit)))
    )


def test_bernoulli_sums_to_one():
    p = likelihoods.Bernoulli(networks.MLP(2, 4))(torch.randn(2))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    assert p.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("draws", [(), (3,)])
def test_support_names_the_row_whatever_draws_dims_there_are(draws):
    counts = torch.tensor([5.0, 5.0])
    p = dist.Binomial(counts.expand(*draws, 4, 2), probs=torch.full((*draws, 4, 2), 0.5)).to_event(1)
    x = torch.ones(4, 2)
    likelihoods.check_support(p, x)
    x[2, 1] = 300
    with pytest.raises(
        ValueError, match="value 300 in row 2 of the batch is outside Binomial: raise total_count"
    ):
        likelihoods.check_support(p, x)


def test_normal_guide_reads_loc_and_log_variance():
    parameters = torch.tensor([[1.0, 2.0, math.log(4.0), math.log(9.0)]])
    q = guides.Normal(lambda x: parameters)(None)
    torch.testing.assert_close(q.mean, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(q.stddev, torch.tensor([[2.0, 3.0]]))


def test_streams_are_keyed_and_leave_the_outside_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = {}
    for key in ((0,), (1,), (0, 0), (0, 1), (1, 0)):
        with stream("test", *key):
            draws[key] = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with stream("test", 0, 1):
        assert torch.equal(torch.rand(4), draws[0, 1])
    assert torch.equal(torch.rand(4, generator=generator("test", 0, 1)), draws[0, 1])
    assert len({tuple(values.tolist()) for values in draws.values()}) == len(draws)
