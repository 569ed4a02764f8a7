"""log_weights: exact on the linear-Gaussian model, for any pair, at any chunk size."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, a_vae
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.importance import vectorized_importance_weights

import pyrovae as pv
from pyrovae.testing import LinearGaussian, Quadrature


def an_oracle(dtype=torch.float64, features=5, latents=2, **keywords) -> LinearGaussian:
    weight = torch.randn(features, latents, dtype=dtype)
    return LinearGaussian(weight, mean=torch.randn(features, dtype=dtype), **keywords)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("latents", [1, 2, 5])
def test_exact_posterior_gives_log_evidence_at_every_draw(dtype, tolerance, latents):
    oracle = an_oracle(dtype, features=6, latents=latents, noise=0.5)
    x = oracle.sample(20)
    exact = LinearGaussian(oracle.weight.double(), mean=oracle.mean.double(), noise=0.5).log_evidence(
        x.double()
    )
    weights = pv.log_weights(oracle.model, oracle.guide, x, num_samples=50)
    assert weights.shape == (50, 20)
    assert weights.dtype == torch.float64
    relative = (weights - exact).abs() / exact.abs().clamp(min=1)
    assert relative.max() < tolerance


@pytest.mark.parametrize("chunk_size", [1, 7, 128, 1000])
@pytest.mark.parametrize("num_samples", [1, 300])
def test_chunks_change_nothing(chunk_size, num_samples):
    oracle = an_oracle(shift=0.3)
    x = oracle.sample(4)

    def weigh(chunk_size):
        pyro.set_rng_seed(1)
        return pv.log_weights(oracle.model, oracle.guide, x, num_samples=num_samples, chunk_size=chunk_size)

    whole, chunked = weigh(None), weigh(chunk_size)
    assert whole.shape == (num_samples, 4)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)


def test_every_draw_is_a_new_one():
    oracle = an_oracle(shift=0.3)
    weights = pv.log_weights(oracle.model, oracle.guide, oracle.sample(3), num_samples=300)
    assert len(weights[:, 0].unique()) == 300


def test_misspecified_guide_elbo_falls_short_by_the_known_kl():
    oracle = an_oracle(shift=0.4, widen=0.9)
    x = oracle.sample(10)
    weights = pv.log_weights(oracle.model, oracle.guide, x, num_samples=20_000)
    error = weights.std(0) / math.sqrt(len(weights))
    z_scores = (pv.elbo(weights) - (oracle.log_evidence(x) - oracle.gap(x))) / error
    assert z_scores.abs().max() < 4  # ten draws of a standard normal: false alarm 6e-4


def test_log_evidence_rises_with_draws_to_the_exact_value():
    oracle = an_oracle(noise=1.0, shift=0.3, widen=1.2)
    x = oracle.sample(1).expand(4000, -1)
    exact = oracle.log_evidence(x[:1])
    means, errors = [], []
    for num_samples in (1, 4, 16, 64):
        found = pv.log_evidence(pv.log_weights(oracle.model, oracle.guide, x, num_samples=num_samples))
        means.append(found.mean())
        errors.append(found.std() / math.sqrt(len(x)))
    for i in range(3):
        assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1])
    shortfall = exact - means[-1]
    assert -4 * errors[-1] < shortfall < 0.02  # the bias, Var(w) / (2 K p^2); measured 0.006


def test_standard_error_and_bias_formulas():
    """Over 4,000 repeats, the spread and the bias of log p_K are those its weights predict."""
    oracle = an_oracle(noise=1.0, shift=0.3, widen=1.2)
    x = oracle.sample(1).expand(4000, -1)
    weights = pv.log_weights(oracle.model, oracle.guide, x, num_samples=200)
    found, predicted = pv.log_evidence(weights), pv.standard_error(weights)
    spread = found.std()
    # The spread of 4,000 repeats is known to 1 / sqrt(2 * 4000) = 1.1 %.
    assert abs(predicted.square().mean().sqrt() / spread - 1) < 4 * 0.011
    bias = (found - oracle.log_evidence(x)).mean()
    assert abs(bias - (-predicted.square().mean() / 2)) < 4 * spread / math.sqrt(4000)


def test_evidence_is_unbiased_in_the_linear_domain():
    oracle = an_oracle(shift=0.3, widen=1.3)
    x = oracle.sample(1).expand(4000, -1)
    weights = pv.log_weights(oracle.model, oracle.guide, x, num_samples=5)
    ratio = (pv.log_evidence(weights) - oracle.log_evidence(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)


@pytest.mark.parametrize("latents", [1, 2])
def test_quadrature_within_four_errors(latents):
    vae = pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.likelihoods.Bernoulli(pv.networks.MLP(latents, 8, hidden=[16], activation=torch.nn.Tanh)),
        pv.guides.Normal(pv.networks.MLP(8, 2 * latents)),
    ).double()
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.mul_(3)  # curved posteriors
    x = torch.bernoulli(torch.full((12, 8), 0.5)).double()
    exact = Quadrature(vae.likelihood, latents=latents).log_evidence(x)
    with torch.no_grad():
        weights = pv.log_weights(vae.model, vae.guide, x, num_samples=20_000)
    z_scores = (pv.log_evidence(weights) - exact) / pv.standard_error(weights)
    assert z_scores.abs().max() < 4


def test_one_draw_is_the_estimate_of_trace_elbo():
    vae = a_vae()
    x = torch.eye(FEATURES)
    pyro.set_rng_seed(3)
    weights = pv.log_weights(vae.model, vae.guide, x)
    pyro.set_rng_seed(3)
    loss = pyro.infer.Trace_ELBO()(vae.model, vae.guide)(x)
    torch.testing.assert_close(weights.sum(), -loss.double(), rtol=1e-5, atol=0)


def test_gradients_flow_as_in_trace_elbo():
    vae = a_vae()
    x = torch.eye(FEATURES)
    gradients = []
    for bound in (
        lambda: -pyro.infer.Trace_ELBO()(vae.model, vae.guide)(x),
        lambda: pv.log_weights(vae.model, vae.guide, x).sum(),
    ):
        pyro.set_rng_seed(3)
        vae.zero_grad()
        bound().backward()
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    for pyros, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, pyros, rtol=1e-4, atol=1e-5)


def test_scales_stay_out_and_masks_count():
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])

    def model(x):
        zero = x.new_zeros(())
        with pyro.plate("data", 3000, subsample=x), poutine.scale(scale=0.1):
            z = pyro.sample("z", dist.Normal(zero, 1))
            pyro.sample("x", dist.Normal(z, 1).mask(mask), obs=x)

    def guide(x):
        with pyro.plate("data", 3000, subsample=x), poutine.scale(scale=0.1):
            variance = torch.where(mask, 0.5, 1.0).double()
            pyro.sample("z", dist.Normal(torch.where(mask, x / 2, 0.0), variance.sqrt()))

    weights = pv.log_weights(model, guide, x, num_samples=20)
    exact = dist.Normal(x.new_zeros(()), math.sqrt(2)).log_prob(x) * mask
    torch.testing.assert_close(weights, exact.expand(20, 3), rtol=0, atol=1e-12)


def test_several_sites_conditions_inner_plates_and_plain_functions():
    """z1 -> z2 -> three x in an inner plate, given y: one Gaussian, its posterior known."""
    y = torch.randn(4, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)

    def model(x, y):
        with pyro.plate("data", 4):
            z1 = pyro.sample("z1", dist.Normal(zero, 1))
            z2 = pyro.sample("z2", dist.Normal(z1 + y, 1))
            with pyro.plate("repeats", 3):
                pyro.sample("x", dist.Normal(z2, 1), obs=x)

    def guide(x, y):
        with pyro.plate("data", 4):
            # z2 | x: prior N(y, 2), three observations of variance 1.
            variance = 1 / (1 / 2 + 3)
            z2 = pyro.sample("z2", dist.Normal(variance * (y / 2 + x.sum(0)), math.sqrt(variance)))
            pyro.sample("z1", dist.Normal((z2 - y) / 2, math.sqrt(0.5)))

    weights = pv.log_weights(model, guide, x, y, num_samples=30)
    covariance = torch.eye(3, dtype=torch.float64) + 2
    exact = dist.MultivariateNormal(y[:, None].expand(4, 3), covariance).log_prob(x.T)
    torch.testing.assert_close(weights, exact.expand(30, 4), rtol=0, atol=1e-12)


def test_discrete_latents_sampled_by_the_guide():
    """A mixture of two normals with the exact responsibilities as guide."""
    x = torch.randn(6, dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2], dtype=torch.float64)
    loc = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    joint = dist.Categorical(logits=logits).logits + dist.Normal(loc, 1).log_prob(x[:, None])

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=logits))
            pyro.sample("x", dist.Normal(loc[k], 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=joint))

    weights = pv.log_weights(model, guide, x, num_samples=40)
    torch.testing.assert_close(weights, joint.logsumexp(1).expand(40, 6), rtol=0, atol=1e-12)


def test_decoder_without_a_draws_dimension_works_one_draw_at_a_time():
    """Conv2d refuses [draws, batch, channels, height, width]."""
    net = torch.nn.ConvTranspose2d(2, 1, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 1, 1), 1).to_event(3))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, 1, 1), 1).to_event(3))

    x = torch.ones(5, 1, 4, 4)
    with pytest.raises(RuntimeError, match="conv"):
        pv.log_weights(model, guide, x, num_samples=3)
    assert pv.log_weights(model, guide, x, num_samples=3, chunk_size=1).shape == (3, 5)


def test_pyros_autoguide_serves_as_a_guide():
    vae = a_vae()
    x = torch.eye(FEATURES)
    guide = AutoNormal(vae.model)
    guide(x)
    weights = pv.log_weights(vae.model, guide, x, num_samples=5)
    assert weights.shape == (5, FEATURES)
    assert weights.isfinite().all()


def test_pyros_own_weights_are_one_for_the_whole_batch():
    """Trap: their evidence of N data is one number, its bias grows with N; ours is per datum."""
    oracle = an_oracle(shift=0.5)
    x = oracle.sample(50)
    theirs, _, _ = vectorized_importance_weights(
        oracle.model, oracle.guide, x, num_samples=100, max_plate_nesting=1, normalized=False
    )
    assert theirs.shape == (100,)
    ours = pv.log_weights(oracle.model, oracle.guide, x, num_samples=100)
    assert ours.shape == (100, 50)
    exact = oracle.log_evidence(x).sum()
    their_error = (torch.logsumexp(theirs, 0) - math.log(100) - exact).abs()
    our_error = (pv.log_evidence(ours).sum() - exact).abs()
    assert our_error < their_error / 2


def test_no_latents_left_is_the_likelihood_itself():
    vae = a_vae()
    x, z = torch.eye(FEATURES), torch.randn(FEATURES, LATENTS)
    conditioned = poutine.condition(vae.model, {"z": z})
    weights = pv.log_weights(conditioned, lambda x: None, x, num_samples=3)
    expected = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    torch.testing.assert_close(weights, expected.double().expand(3, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_factors_count_in_model_and_guide(chunk_size):
    oracle = an_oracle()
    x = oracle.sample(4)

    def model(x):
        oracle.model(x)
        with pyro.plate("more", 4):
            pyro.factor("f", x.new_full((4,), 0.7))

    def guide(x):
        oracle.guide(x)
        with pyro.plate("more", 4):
            pyro.factor("g", x.new_full((4,), 0.2), has_rsample=True)

    weights = pv.log_weights(model, guide, x, num_samples=5, chunk_size=chunk_size)
    torch.testing.assert_close(weights, (oracle.log_evidence(x) + 0.5).expand(5, 4))


def test_random_state_moves_only_by_the_draws():
    vae = a_vae()
    x = torch.eye(FEATURES)
    pyro.set_rng_seed(5)
    pv.log_weights(vae.model, vae.guide, x, num_samples=4)
    after = torch.rand(1)
    pyro.set_rng_seed(5)
    torch.randn(4, FEATURES, LATENTS)
    torch.testing.assert_close(torch.rand(1), after)


@pytest.mark.parametrize("counts", [{"num_samples": 0}, {"num_samples": 3, "chunk_size": 0}])
def test_counts_below_one_are_refused(counts):
    vae = a_vae()
    with pytest.raises(ValueError, match="at least 1 is needed"):
        pv.log_weights(vae.model, vae.guide, torch.eye(FEATURES), **counts)
