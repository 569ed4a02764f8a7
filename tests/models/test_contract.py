"""One contract over every prior, likelihood and guide, in every combination whose supports fit."""

from __future__ import annotations

import pyro
import pytest
import torch
from components import (
    EVERY_COMBINATION,
    FEATURES,
    GUIDES,
    LATENTS,
    LIKELIHOODS,
    MISFITS,
    PAIRS,
    PRIORS,
    a_vae,
)
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrovae as pv
from pyrovae.models.distributions import as_pyro, support_of

ROWS = 12


@pytest.mark.parametrize("parts", EVERY_COMBINATION, ids="-".join)
def test_every_combination(parts, device):
    _, likelihood, guide = parts
    vae = a_vae(*parts).to(device)
    x = LIKELIHOODS[likelihood].data(ROWS).to(device)

    trace = poutine.trace(vae.model).get_trace(x)
    for site, width in (("z", LATENTS), ("x", FEATURES)):
        assert trace.nodes[site]["fn"].batch_shape == (ROWS,)
        assert trace.nodes[site]["fn"].event_shape == (width,)

    loss = Trace_ELBO()(vae.model, vae.guide)(x)
    assert loss.isfinite()
    loss.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    particles = Trace_ELBO(num_particles=3, vectorize_particles=True)
    assert torch.tensor(particles.loss(vae.model, vae.guide, x)).isfinite()

    draws = vae.sample(5)
    assert draws.shape == (5, FEATURES)
    with torch.no_grad():
        support = support_of(vae.decode(vae.prior().sample((5,))))
    assert support.check(draws).all()

    if guide == "delta":
        with pytest.raises(ValueError, match="has a Delta guide"):
            pv.log_weights(vae.model, vae.guide, x)
        return
    twin = a_vae(*parts).to(device)
    twin.load_state_dict(vae.state_dict())
    found = []
    with torch.no_grad():
        for each, chunk_size in ((vae, None), (vae, 1), (twin, None)):
            pyro.set_rng_seed(1)
            found.append(pv.log_weights(each.model, each.guide, x, num_samples=3, chunk_size=chunk_size))
    together, one_by_one, restored = found
    assert together.shape == (3, ROWS)
    assert pv.log_evidence(together).isfinite().all()
    torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-4)
    assert torch.equal(restored, together)


NO_GRADIENT_THROUGH_DRAWS = ("defensive", "bernoulli", "categorical")
WITH_A_KL = [(p, q) for p, q in PAIRS if q not in ("delta", *NO_GRADIENT_THROUGH_DRAWS)]


@pytest.mark.parametrize("pair", WITH_A_KL, ids="-".join)
def test_known_kl_agrees_with_the_drawn_one(pair):
    """False alarms at 4.5 standard errors: 7 in a million."""
    prior, guide = pair
    vae, x = a_vae(prior, "normal", guide), LIKELIHOODS["normal"].data(ROWS)
    found = []
    with torch.no_grad():
        for kind in (Trace_ELBO, TraceMeanField_ELBO):
            loss = kind(num_particles=100, vectorize_particles=True).loss
            found.append(torch.tensor([loss(vae.model, vae.guide, x) for _ in range(20)]))
    drawn, known = found
    error = ((drawn.var() + known.var()) / 20).sqrt()
    assert abs(drawn.mean() - known.mean()) < 4.5 * error


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
class TestEveryPair:
    """What the likelihood has no part in."""

    def test_draws_one_by_one_have_the_density_they_have_together(self, pair):
        prior, guide = pair
        vae, x = a_vae(prior, "normal", guide), LIKELIHOODS["normal"].data(ROWS)
        for distribution in (as_pyro(vae.prior()).expand([ROWS]), as_pyro(vae.encode(x))):
            z = distribution.sample((7,))
            assert z.shape == (7, ROWS, LATENTS)
            together = distribution.log_prob(z)
            assert together.shape == (7, ROWS)
            one_by_one = torch.stack([distribution.log_prob(each) for each in z])
            torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-5)

    def test_looped_particles_agree_with_vectorised_ones(self, pair):
        """Differences of means in units of their error: false alarms at 4.5 are 7 in a million."""
        prior, guide = pair
        vae, x = a_vae(prior, "normal", guide), LIKELIHOODS["normal"].data(ROWS)
        looped = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(40)])
        together = Trace_ELBO(num_particles=20, vectorize_particles=True)
        vectorised = torch.tensor([together.loss(vae.model, vae.guide, x) for _ in range(10)])
        error = (looped.var() / 40 + vectorised.var() / 10).sqrt()
        assert abs(looped.mean() - vectorised.mean()) <= 4.5 * error + 1e-4


@pytest.mark.parametrize("pair", MISFITS, ids="-".join)
def test_a_misfit_of_prior_and_guide_is_refused_by_both_names(pair):
    prior, guide = pair
    p, x = PRIORS[prior].make(), LIKELIHOODS["normal"].make()
    data = LIKELIHOODS["normal"].data(ROWS)
    vae = pv.VAE(p, x, GUIDES[guide].make(p, x))
    with pytest.raises(ValueError, match=r"the guide's .* does not fit the prior's") as raised:
        pv.fit(vae.model, vae.guide, data, num_epochs=1, progress=False)
    assert "\n" not in str(raised.value)
