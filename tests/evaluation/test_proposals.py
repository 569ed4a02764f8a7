"""Proposals: adapted ones in every kind of space, the choice between them, and answers that stay exact."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.evaluation.adaptive import Adapted
from pyrovae.evaluation.proposals import PROPOSALS, choose
from pyrovae.testing import LinearGaussian, Quadrature


def error_of(log_weights, exact):
    """In standard errors of the weights, row by row."""
    return (pv.log_evidence(log_weights) - exact.double()) / pv.standard_error(log_weights)


def check_adapted(model, guide, args, exact, share, khat=0.7):
    """Within 4.5 errors of the exact answer, with so large a share of effective draws."""
    weights = pv.log_weights(model, Adapted(model, guide), *args, num_samples=2000)
    assert (error_of(weights, exact).abs() < 4.5).all()
    assert (pv.ess(weights) > share * 2000).all()
    assert (pv.pareto_khat(weights) < khat).all()
    plain = pv.log_weights(model, guide, *args, num_samples=2000)
    assert pv.ess(plain).mean() < pv.ess(weights).mean()


@pytest.mark.parametrize(
    ("latents", "widen", "shift", "share"), [(1, 0.4, 0.5, 0.6), (2, 0.4, 0.5, 0.7), (10, 0.5, 0.2, 0.3)]
)
def test_from_a_narrow_guide_beside_the_posterior(latents, widen, shift, share):
    """The guide has a handful of effective draws of 2,000."""
    pair = LinearGaussian(torch.randn(60, latents), shift=shift, widen=widen)
    x = pair.sample(8)
    check_adapted(pair.model, pair.guide, (x,), pair.log_evidence(x), share)


def test_a_curved_posterior_by_quadrature():
    oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(2, 6, hidden=[8])), latents=2)
    vae = pv.VAE(priors.StandardNormal(2), oracle.likelihood, guides.Normal(networks.MLP(6, 4)))
    x = binary(8)
    check_adapted(vae.model, vae.guide, (x,), oracle.log_evidence(x), 0.7)


def test_positive_latents_one_number_each():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal((x + 0.5).log(), 0.2))

    x = torch.tensor([0.0, 1.0, 4.0, 9.0])
    check_adapted(model, guide, (x,), dist.GammaPoisson(2.0, 0.5).log_prob(x), 0.4)


def test_proportions():
    counts, alpha = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.0, 7.0]]), torch.tensor([0.8, 1.5, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(alpha))
            pyro.sample("x", dist.Multinomial(probs=z, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(torch.full((3,), 2.0)))

    exact = torch.stack(
        [
            dist.DirichletMultinomial(alpha, n, validate_args=False).log_prob(row)
            for n, row in zip((6, 7), counts, strict=True)
        ]
    )
    check_adapted(model, guide, (counts,), exact, 0.3, khat=1.0)  # alpha 0.8 rises at the edge


@pytest.mark.parametrize("dim", [-1, -2], ids=["plates outside the data", "plates within the data"])
def test_several_sites_plates_and_a_condition(dim):
    """z, then three views u of it, then x, all Gaussian and moved by y; data innermost or outermost."""
    views = -3 - dim

    def across(values):
        return values.T if dim == -1 else values

    def model(x, y):
        with pyro.plate("data", len(x), dim=dim):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("views", 3, dim=views):
                u = pyro.sample("u", dist.Normal(z.sum(-1) + across(y[:, None]), 1.0))
                pyro.sample("x", dist.Normal(u, 1.0), obs=across(x))

    def guide(x, y):
        at = x.mean(-1) / 2
        at = at if dim == -1 else at[:, None]
        with pyro.plate("data", len(x), dim=dim):
            pyro.sample("z", dist.Normal(torch.stack([at, at], -1), 0.7).to_event(1))
            with pyro.plate("views", 3, dim=views):
                pyro.sample("u", dist.Normal(across(x / 2), 0.7))

    x, y = 2 * torch.randn(6, 3), torch.randn(6)
    covariance = 2 * torch.eye(3) + 2 * torch.ones(3, 3)
    exact = dist.MultivariateNormal(y[:, None].expand(-1, 3), covariance).log_prob(x)
    check_adapted(model, guide, (x, y), exact, 0.5)


def test_it_is_fitted_once_for_the_same_data_and_leaves_the_callers_noise_alone():
    pair = LinearGaussian(torch.randn(5, 2), widen=2.0)
    better, x = Adapted(pair.model, pair.guide), pair.sample(3)
    before = torch.get_rng_state()
    calls = []
    fit = better._fit
    better._fit = lambda args: calls.append(args) or fit(args)
    first, again = (pv.evaluate(pair.model, better, x, num_samples=20_000, progress=False) for _ in range(2))
    assert torch.equal(first.log_evidence, again.log_evidence)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(calls) < 12  # of 158 passes each: inspections, and one tile


def test_a_datum_is_fitted_the_same_whatever_is_beside_it():
    vae = a_vae()
    x, others = binary(64), binary(64)
    others[:10] = x[:10]
    found = [
        pv.evaluate(vae.model, Adapted(vae.model, vae.guide), d, num_samples=30, progress=False)
        for d in (x, others)
    ]
    assert torch.equal(found[0].log_evidence[:10], found[1].log_evidence[:10])


def test_evaluate_estimates_with_the_proposal_and_bounds_with_the_guide():
    pair = LinearGaussian(torch.randn(6, 3), widen=3.0)
    x = pair.sample(70)
    plain, better = (
        pv.evaluate(pair.model, pair.guide, x, num_samples=200, proposal=p, progress=False)
        for p in (None, "adapted")
    )
    assert torch.equal(plain.elbo, better.elbo)
    assert torch.equal(plain.kl, better.kl)
    exact = pair.log_evidence(x).double()
    assert better.standard_error.mean() < 0.5 * plain.standard_error.mean()
    scores = (better.log_evidence - exact) / better.standard_error
    assert scores.square().mean() == pytest.approx(1, abs=4 * (2 / 70) ** 0.5)
    given = pv.evaluate(
        pair.model,
        pair.guide,
        x,
        num_samples=200,
        proposal=Adapted(pair.model, pair.guide),
        progress=False,
    )
    assert torch.equal(given.log_evidence, better.log_evidence)
    assert better.conventions["proposal"] == "adapted"
    assert given.conventions["proposal"] == "given"
    assert "proposal: adapted" in str(better)
    assert pv.compare({"a": plain, "b": better})["b"].verdict == "too close to call"


def test_a_target_is_reached_with_the_proposals_draws():
    pair = LinearGaussian(torch.randn(6, 3), widen=3.0)
    x = pair.sample(20)
    found = pv.evaluate(
        pair.model, pair.guide, x, num_samples=100, target_se=0.03, proposal="adapted", progress=False
    )
    assert (found.standard_error <= 0.03).all()
    assert 100 < found.draws.mean() < 3000
    plain = pv.evaluate(pair.model, pair.guide, x, num_samples=100, progress=False)
    assert torch.equal(found.elbo, plain.elbo)


@pytest.mark.parametrize("name", [*PROPOSALS, "auto"])
def test_every_proposal_gives_the_same_answer(name):
    oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(2, 6, hidden=[8])), latents=2)
    vae = pv.VAE(priors.StandardNormal(2), oracle.likelihood, guides.Normal(networks.MLP(6, 4)))
    x = binary(20)
    found = pv.evaluate(vae.model, vae.guide, x, num_samples=1000, proposal=name, progress=False)
    scores = (found.log_evidence - oracle.log_evidence(x)) / found.standard_error
    assert scores.abs().max() < 4.5
    assert name == "auto" or found.conventions["proposal"] == name


def test_auto_keeps_a_guide_that_nothing_beats_and_says_why():
    pair = LinearGaussian(torch.randn(6, 3))
    x = pair.sample(10)
    chosen = choose(pair.model, pair.guide, "auto", (x,), 0)
    assert chosen.program is pair.guide or chosen.program == pair.guide
    assert chosen.conventions["proposal"] == "guide"
    assert "nothing tried is better" in chosen.conventions["chosen"]
    bad = LinearGaussian(torch.randn(6, 3), shift=2.0)
    said = choose(bad.model, bad.guide, "auto", (bad.sample(10),), 0).conventions
    assert said["proposal"] == "adapted"
    assert "above the guide's" in said["chosen"]


def test_discrete_latents_have_the_guide_alone():
    vae = a_vae("bernoulli", "bernoulli", "bernoulli")
    found = pv.evaluate(vae.model, vae.guide, binary(8), num_samples=50, proposal="auto", progress=False)
    assert found.conventions["proposal"] in ("guide", "defensive")
    with pytest.raises(ValueError, match="site 'z': Bits is discrete"):
        pv.evaluate(vae.model, vae.guide, binary(8), num_samples=50, proposal="adapted", progress=False)


def test_what_cannot_be_made_is_refused():
    pair = LinearGaussian(torch.randn(6, 3))
    for name, message in (
        ("best", "proposal 'best' is not known: use 'auto', 'widened', 'defensive', 'adapted', 'refined'"),
        ("refined", "proposal 'refined' is made of a VAE's parts, and these programs are hand-written"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.evaluate(pair.model, pair.guide, pair.sample(3), proposal=name, progress=False)
    for keywords in ({"rounds": 0}, {"num_samples": 0}, {"df": 0.0}):
        with pytest.raises(ValueError, match=f"Adapted: {next(iter(keywords))}"):
            Adapted(pair.model, pair.guide, **keywords)
