"""Terms and schedules that shape a bound in training: exact values, and nothing left behind in evaluation."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import LATENTS, a_vae, binary
from helpers import all_moved, snapshot

import pyrovae as pv
from pyrovae.core.clock import Clock
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

TERMS = {
    "kl_weight": lambda: kl_weight(0.3),
    "warmup": lambda: kl_weight(warmup(10)),
    "free_bits": lambda: free_bits(0.2),
    "free_bits, site": lambda: free_bits(20.0, per="site"),
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
    """Unbiased: of codes that are draws of the prior its mean is zero."""
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
    """Steps count as they are taken, in fit from zero; epochs are fit's."""
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
def test_terms_have_the_gradient_of_their_value(name):
    """At fixed noise, along one direction, against finite differences."""
    pyro.set_rng_seed(1)
    vae, x = a_vae().double(), binary(20).double()
    parameters = list(vae.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def slope(terms):
        loss = ELBO(terms=terms)
        loss.loss(vae.model, vae.guide, x)

        def value():
            loss.clock = Clock(3)
            pyro.set_rng_seed(1)
            return loss.differentiable_loss(vae.model, vae.guide, x)

        taken = torch.autograd.grad(value(), parameters)
        found, ends = sum((g * d).sum() for g, d in zip(taken, direction, strict=True)), []
        for step in (1e-6, -2e-6, 1e-6):  # there, back beyond, and home
            with torch.no_grad():
                for parameter, d in zip(parameters, direction, strict=True):
                    parameter.add_(step * d)
            ends.append(value().item())
        return found.item(), (ends[0] - ends[1]) / 2e-6

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    shaped, plain = slope([TERMS[name]()]), slope([])
    torch.set_default_dtype(before)
    assert shaped[0] == pytest.approx(shaped[1], rel=1e-5)
    assert abs(shaped[0] - plain[0]) > 1e-2  # the term has a say


def test_free_bits_and_mmd_find_the_rows_beside_plates_within_the_data():
    """Numbers in an inner plate, on either side of the data, count as those of a vector do."""
    x = torch.randn(7, 3)

    def flat(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

    def flat_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def inner(data, views):
        def model(x):
            x = x.T if data > views else x
            with pyro.plate("data", 7, dim=data), pyro.plate("views", 3, dim=views):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            x = x.T if data > views else x
            with pyro.plate("data", 7, dim=data), pyro.plate("views", 3, dim=views):
                pyro.sample("z", dist.Normal(x, 0.5))

        return model, guide

    for terms in ([free_bits(2.0)], [free_bits(9.0, per="site")], [mmd(5.0)]):
        for draws in (1, 40):
            values = []
            for model, guide in ((flat_model, flat), inner(-1, -2), inner(-2, -1)):
                loss, none = ELBO(draws, terms=terms), ELBO(draws)
                added = []
                for seed in range(40 // draws + 4):
                    pyro.set_rng_seed(seed)
                    shaped = loss.loss(model, guide, x)
                    pyro.set_rng_seed(seed)
                    added.append(shaped - none.loss(model, guide, x))
                added = torch.tensor(added)
                values.append((added.mean(), added.var() / len(added)))
            means, variances = torch.tensor(values).T
            error = (variances[0] + variances[1:]).sqrt() + 0.05  # the plates' noise is another's
            assert ((means[1:] - means[0]).abs() < 4.5 * error).all(), (terms, draws, values)
            assert means.min() > 10 * error.max() or draws == 1 or "mmd" in repr(terms)
            assert means[0] == pytest.approx(means[2].item(), rel=1e-5)  # the same noise in the same places


def test_free_bits_of_groups():
    vae, x = a_vae(), binary(9)
    _, kl, _ = parts(vae, x)
    plain = bound(vae, x)
    groups = kl.mean(0).reshape(2, 2).sum(1)
    expected = plain - 9 * (3.0 - groups).relu().sum().item()
    assert bound(vae, x, [free_bits(3.0, per=2)]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="free_bits: 4 dimensions make no groups of 3"):
        bound(vae, x, [free_bits(3.0, per=3)])


def test_masked_rows_cost_no_free_bits():
    vae, x = a_vae(), binary(20)
    keep = torch.arange(20) < 12

    def masked(program):
        return pyro.poutine.mask(program, mask=keep)

    def added(model, guide, x):
        values = []
        for terms in ([free_bits(50.0)], []):
            loss = ELBO(terms=terms)
            loss.loss(model, guide, x)
            pyro.set_rng_seed(1)
            values.append(loss.loss(model, guide, x))
        return values[0] - values[1]

    pyro.set_rng_seed(1)
    z = vae.encode(x).rsample()  # the draws of both runs
    kl = (vae.encode(x).log_prob(z) - vae.prior().log_prob(z)).masked_fill(~keep, 0.0).sum().item()
    assert added(masked(vae.model), masked(vae.guide), x) == pytest.approx(20 * 50 * LATENTS - kl, rel=1e-4)
    with pytest.raises(ValueError, match="mmd: site 'z' is masked"):
        ELBO(terms=[mmd(1.0)]).loss(masked(vae.model), masked(vae.guide), x)


def test_a_batch_of_one_row_has_no_discrepancy():
    vae, x = a_vae(), binary(21)
    history = pv.fit(
        vae.model, vae.guide, x, loss=ELBO(terms=[mmd(1.0)]), num_epochs=1, batch_size=10, progress=False
    )
    assert math.isfinite(history.loss[0])


def test_dimensions_behind_a_transform_are_not_taken_for_their_base():
    vae, x = a_vae(), binary(9)
    shift = dist.transforms.AffineTransform(1.0, 2.0)
    base = dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1)
    vae.prior = dist.TransformedDistribution(base, [shift])
    with pytest.raises(ValueError, match="the dimensions of TransformedDistribution are not independent"):
        ELBO(terms=[free_bits(0.1)]).loss(vae.model, vae.guide, x)


@pytest.mark.parametrize("guide", ["straight_bits", "straight_one_hots"])
def test_discrete_variables_have_free_bits_of_their_own(guide):
    vae, x = a_vae("bernoulli" if "bits" in guide else "categorical", "bernoulli", guide), binary(9)
    loss = ELBO(terms=[free_bits(0.5)])
    loss.loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(1)
    shaped = loss.loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(1)
    z = vae.encode(x).rsample()
    kl = (vae.encode(x).by_variable(z) - vae.prior().by_variable(z)).mean(0)
    assert kl.shape == (4 if "bits" in guide else 2,)
    plain = (vae.encode(x).log_prob(z) - vae.prior().log_prob(z) - vae.decode(z).log_prob(x)).sum()
    assert shaped == pytest.approx((plain + 9 * (0.5 - kl).relu().sum()).item(), rel=1e-5)


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
        (lambda: free_bits(1, per="row"), "per must be 'dimension', 'site' or a number of dimensions"),
        (lambda: free_bits(1, per=0), "a number of dimensions, got 0"),
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
