"""Terms and schedules that shape a bound in training: exact values, and nothing left behind in evaluation."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from components import LATENTS, a_vae, binary
from helpers import all_moved, snapshot

import pyrovae as pv
from pyrovae.objectives import (
    ELBO,
    IWAE,
    PIWAE,
    capacity,
    cyclical,
    free_bits,
    kl_weight,
    mmd,
    total_correlation,
    warmup,
)
from pyrovae.objectives.draws import Clock

TERMS = {
    "kl_weight": lambda: kl_weight(0.3),
    "warmup": lambda: kl_weight(warmup(10)),
    "free_bits": lambda: free_bits(0.2),
    "free_bits, site": lambda: free_bits(0.2, per="site"),
    "capacity": lambda: capacity(1.0, weight=5.0),
    "total_correlation": lambda: total_correlation(4.0, num_data=20),
    "mmd": lambda: mmd(3.0),
}


def bound(vae, x, terms=(), **keywords) -> float:
    """The objective's value at fixed noise."""
    loss = ELBO(terms=terms, **keywords)
    loss.loss(vae.model, vae.guide, x)  # finds the structure
    pyro.set_rng_seed(1)
    return -loss.loss(vae.model, vae.guide, x)


def parts(vae, x):
    """What the draw of ``bound`` came to: log p(x|z), and log q - log p(z) by dimension."""
    pyro.set_rng_seed(1)
    q, p = vae.encode(x), vae.prior()
    z = q.rsample()
    return vae.decode(z).log_prob(x), q.base_dist.log_prob(z) - p.base_dist.log_prob(z), z


@torch.no_grad()
def test_terms_are_what_they_say():
    vae, x = a_vae(), binary(20)
    log_likelihood, kl, _ = parts(vae, x)
    plain = (log_likelihood.sum() - kl.sum()).item()
    assert bound(vae, x) == pytest.approx(plain, rel=1e-5)
    weighed = (log_likelihood.sum() - 0.3 * kl.sum()).item()
    assert bound(vae, x, [kl_weight(0.3)]) == pytest.approx(weighed, rel=1e-5)
    at_least = (log_likelihood.sum() - 20 * kl.mean(0).clamp(min=0.2).sum()).item()
    assert bound(vae, x, [free_bits(0.2)]) == pytest.approx(at_least, rel=1e-5)
    in_all = (log_likelihood.sum() - 20 * kl.sum(1).mean().clamp(min=2.0)).item()
    assert bound(vae, x, [free_bits(2.0, per="site")]) == pytest.approx(in_all, rel=1e-5)
    held = (log_likelihood.sum() - 20 * 5 * (kl.sum(1).mean() - 1).abs()).item()
    assert bound(vae, x, [capacity(1.0, weight=5.0)]) == pytest.approx(held, rel=1e-5)
    both = bound(vae, x, [kl_weight(0.3), mmd(2.0)]) - bound(vae, x, [kl_weight(0.3)])
    assert both == pytest.approx(bound(vae, x, [mmd(2.0)]) - plain, abs=1e-3)


@torch.no_grad()
def test_total_correlation_of_the_batch_by_hand():
    vae, x = a_vae(), binary(20)
    q = vae.encode(x)
    _, _, z = parts(vae, x)
    each = torch.stack([q.base_dist.log_prob(row) for row in z])  # [draw, datum, dim]
    norm = math.log(20 * 60)
    joint = each.sum(-1).logsumexp(1) - norm
    apart = (each.logsumexp(1) - norm).sum(-1)
    expected = bound(vae, x) - 3 * (joint - apart).sum().item()
    assert bound(vae, x, [total_correlation(4.0, num_data=60)]) == pytest.approx(expected, rel=1e-5)
    assert bound(vae, x, [total_correlation(1.0, num_data=60)]) == pytest.approx(bound(vae, x), rel=1e-9)


@torch.no_grad()
def test_mmd_is_nought_between_equals_and_not_between_others():
    """Unbiased: of codes that are draws of the prior its mean is nought."""
    prior = pv.priors.StandardNormal(LATENTS)
    for shift, equal in ((0.0, True), (0.5, False)):
        vae = pv.VAE(prior, a_vae().likelihood, lambda x, shift=shift: prior().expand((len(x),)))
        if not equal:
            moved = torch.distributions.Normal(torch.full((LATENTS,), 0.5), 1.0)
            vae.guide = lambda x, moved=moved: torch.distributions.Independent(
                moved.expand((len(x), LATENTS)), 1
            )
        x = binary(50)
        found = []
        for _ in range(200):
            values = []
            for terms in ([mmd(1.0)], []):
                pyro.set_rng_seed(len(found))
                values.append(ELBO(terms=terms).loss(vae.model, vae.guide, x) / 50)
            found.append(values[0] - values[1])
        found = torch.tensor(found)
        sigmas = found.mean() / (found.std() / 200**0.5)
        assert sigmas.abs() < 4.5 if equal else sigmas > 20


def test_weights_follow_their_schedules():
    """Steps count as they are taken, in fit from nought; epochs are fit's."""
    assert [warmup(4, start=1.0, end=0.0)(Clock(step)) for step in (0, 2, 8)] == [1.0, 0.5, 0.0]
    assert [warmup(2, unit="epochs")(Clock(99, epoch)) for epoch in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert [cyclical(4, rising=1.0, end=2.0)(Clock(step)) for step in range(5)] == [0.0, 0.5, 1.0, 1.5, 0.0]
    seen = []

    def schedule(clock):
        seen.append(tuple(clock))
        return 1.0

    vae, x = a_vae(), binary(20)
    loss = ELBO(terms=[kl_weight(schedule)])
    pv.fit(vae.model, vae.guide, x, loss=loss, num_epochs=2, batch_size=10, progress=False)
    assert seen[-4:] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_free_bits_leave_a_cheap_dimension_without_a_gradient():
    vae, x = a_vae(), binary(20)
    with torch.no_grad():
        kl = parts(vae, x)[1].mean(0)
    free = (kl.max() + kl.min()).item() / 2  # some dimensions are below, some above
    cheap = kl < free
    last = vae.guide.part.net.layers[-1].bias

    def of_kl(terms):
        """The gradient less that of the likelihood alone."""
        found = []
        for each in (terms, [kl_weight(0.0)]):
            loss = ELBO(terms=each)
            loss.loss(vae.model, vae.guide, x)
            pyro.set_rng_seed(1)
            found.append(torch.autograd.grad(loss.differentiable_loss(vae.model, vae.guide, x), last)[0])
        return (found[0] - found[1]).reshape(2, LATENTS)  # of loc, of log variance

    shaped, plain = of_kl([free_bits(free)]), of_kl([])
    assert 0 < cheap.sum() < LATENTS
    torch.testing.assert_close(shaped[:, cheap], torch.zeros_like(shaped[:, cheap]), rtol=0, atol=1e-4)
    torch.testing.assert_close(shaped[:, ~cheap], plain[:, ~cheap], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(
    "make",
    [
        ELBO,
        lambda **k: ELBO(3, gradient="stl", **k),
        lambda **k: IWAE(3, **k),
        lambda **k: IWAE(3, gradient="dreg", **k),
        lambda **k: PIWAE(2, 2, **k),
    ],
)
def test_terms_go_with_the_bounds(name, make):
    vae, x = a_vae(), binary(20)
    if name == "total_correlation" and make is not ELBO:
        with pytest.raises(ValueError, match="use num_particles=1"):
            make(terms=[TERMS[name]()])(vae.model, vae.guide)(x)
        return
    before = snapshot(vae)
    loss = make(terms=[TERMS[name]()])
    history = pv.fit(vae.model, vae.guide, x, loss=loss, num_epochs=2, validation=x, progress=False)
    assert all_moved(before, vae)
    assert all(map(math.isfinite, history.loss))


@pytest.mark.parametrize("name", TERMS)
def test_discrete_draws_take_the_weight_of_the_kl_and_say_so(name):
    vae, x = a_vae("bernoulli", "bernoulli", "bernoulli"), binary(20)
    loss = ELBO(2, gradient="score", terms=[TERMS[name]()])
    if name in ("kl_weight", "warmup"):
        assert loss(vae.model, vae.guide)(x).isfinite()
        return
    with pytest.raises(ValueError, match=r"^\S+: .*: .*"):
        loss(vae.model, vae.guide)(x)


def test_evaluation_and_the_history_know_nothing_of_terms():
    vae, x = a_vae(), binary(20)
    histories = []
    for terms in ([], [kl_weight(4.0), mmd(10.0)]):
        twin = a_vae()
        twin.load_state_dict(vae.state_dict())
        still = torch.optim.SGD(twin.parameters(), lr=0.0)
        histories.append(
            pv.fit(
                twin.model,
                twin.guide,
                x,
                loss=ELBO(terms=terms),
                optimizer=still,
                num_epochs=1,
                validation=x,
                progress=False,
            )
        )
    plain, shaped = histories
    assert shaped.validation_elbo == plain.validation_elbo
    assert shaped.elbo == pytest.approx(plain.elbo, rel=0.2)  # the draws of the prior move the noise
    assert shaped.loss[0] > plain.loss[0] + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl_weight(-1), "kl_weight must be at least 0 and finite, got -1"),
        (lambda: warmup(-5), "warmup: length must be positive, got -5"),
        (lambda: warmup(5, unit="rounds"), "warmup: unit must be 'steps' or 'epochs', got 'rounds'"),
        (lambda: cyclical(0), "cyclical: period must be positive, got 0"),
        (lambda: cyclical(5, rising=2), r"rising must be within \(0, 1\], got 2"),
        (lambda: free_bits(0), "free_bits: nats must be positive, got 0"),
        (lambda: free_bits(1, per="row"), "per must be 'dimension' or 'site', got 'row'"),
        (lambda: capacity(-1, weight=1), "capacity: target must be at least 0"),
        (lambda: capacity(1, weight=0), "capacity: weight must be positive"),
        (lambda: mmd(0), "mmd: weight must be positive"),
    ],
)
def test_arguments_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dimensions_that_are_not_independent_are_named():
    vae, x = a_vae(guide="full_rank"), binary(9)
    with pytest.raises(
        ValueError, match="site 'z': the dimensions of MultivariateNormal are not independent"
    ):
        ELBO(terms=[free_bits(0.1)])(vae.model, vae.guide)(x)
    assert ELBO(terms=[free_bits(0.1, per="site")])(vae.model, vae.guide)(x).isfinite()
