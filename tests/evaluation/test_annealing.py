"""Annealing: exact answers in several spaces, unbiased weights, bounds that enclose, modes a guide misses."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae import guides, likelihoods, models, networks, priors
from pyrovae.evaluation import annealing_path as tempering
from pyrovae.evaluation.annealing import ais, ais_log_weights, bdmc
from pyrovae.testing import LinearGaussian, Quadrature


def error_of(log_weights, exact):
    """In standard errors of the weights, row by row."""
    return (pv.log_evidence(log_weights) - exact.double()) / pv.standard_error(log_weights)


class Off:
    """Linear-Gaussian programs with a guide that is too narrow and beside the posterior."""

    def __init__(self, latents: int = 2, rows: int = 40) -> None:
        self.oracle = LinearGaussian(torch.randn(6, latents))
        self.model, self.x = self.oracle.model, self.oracle.sample(rows)
        self.exact = self.oracle.log_evidence(self.x).double()

    def guide(self, x):
        q = self.oracle.posterior(x)
        with pyro.plate("data", len(x)):
            loc, scale_tril = q.loc + 0.7 * q.scale_tril.sum(-1), 0.6 * q.scale_tril
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_weights_average_to_p_of_x_however_few_the_temperatures(start, schedule):
    """The mean over 60 rows of 64 chains each, of w / p; a false alarm at 4.5 has 7 chances in a million."""
    pair = Off(rows=60)
    found = ais(
        pair.model,
        pair.guide,
        pair.x,
        num_samples=64,
        num_temperatures=25,
        num_steps=3,
        start=start,
        schedule=schedule,
    )
    ratio = (found.log_weights - pair.exact).exp()
    error = ratio.std() / ratio.numel() ** 0.5
    assert error < 0.1
    assert abs(ratio.mean() - 1) < 4.5 * error
    assert 0.3 < found.acceptance.mean() < 0.99


def test_more_temperatures_bring_the_error_down_where_more_draws_do_not():
    pair = Off(latents=4)
    errors = {
        count: (
            pv.log_evidence(ais_log_weights(pair.model, pair.guide, pair.x, num_temperatures=count))
            - pair.exact
        )
        for count in (4, 200)
    }
    assert errors[200].square().mean() < 0.3 * errors[4].square().mean()
    drawn = pv.log_evidence(pv.log_weights(pair.model, pair.guide, pair.x, num_samples=3200)) - pair.exact
    assert errors[200].square().mean() < drawn.square().mean()  # as many draws of the guide


def test_positive_latents_and_proportions_are_moved_without_bounds():
    """Gamma-Poisson and Dirichlet-multinomial, in closed form."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal((x + 0.5).log(), 0.3))

    x = torch.tensor([0.0, 1.0, 4.0, 9.0])
    exact = dist.GammaPoisson(2.0, 0.5).log_prob(x)
    found = ais_log_weights(model, guide, x, num_samples=200, num_temperatures=60)
    assert (error_of(found, exact).abs() < 4.5).all()
    assert (pv.standard_error(found) < 0.1).all()

    counts = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.0, 7.0]])
    alpha = torch.tensor([0.8, 1.5, 2.0])

    def topics(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(alpha))
            pyro.sample("x", dist.Multinomial(probs=z, validate_args=False), obs=x)

    def even(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(torch.full((3,), 2.0)))

    found = ais_log_weights(topics, even, counts, num_samples=200, num_temperatures=60)
    exact = torch.stack(
        [
            dist.DirichletMultinomial(alpha, n, validate_args=False).log_prob(row)
            for n, row in zip((6, 7), counts, strict=True)
        ]
    )
    assert (error_of(found, exact).abs() < 4.5).all()
    assert (pv.standard_error(found) < 0.1).all()


def test_hierarchies_and_plates_within_the_data():
    """z, then three views u of it, then x: all Gaussian, with a guide of independent sites."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("views", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(z.sum(-1), 1.0))
                pyro.sample("x", dist.Normal(u, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True).expand(-1, 2) / 2, 1.0).to_event(1))
            with pyro.plate("views", 3, dim=-2):
                pyro.sample("u", dist.Normal(x.T / 2, 1.0))

    x = 2 * torch.randn(6, 3)
    covariance = 2 * torch.eye(3) + 2 * torch.ones(3, 3)
    exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    found = ais_log_weights(model, guide, x, num_samples=100, num_temperatures=60)
    assert found.shape == (100, 6)
    assert (error_of(found, exact).abs() < 4.5).all()
    assert (pv.standard_error(found) < 0.3).all()
    pair = models.two_layers(
        priors.StandardNormal(2),
        guides.Normal(networks.MLP(2, 2 * 3)),
        likelihoods.Bernoulli(networks.MLP(3, 6)),
        guides.Normal(networks.MLP(6, 2 * 3)),
        guides.Normal(networks.MLP(3, 2 * 2)),
    )
    x = binary(5)
    plain = pv.log_weights(pair.model, pair.guide, x, num_samples=20_000)
    found = ais_log_weights(pair.model, pair.guide, x, num_samples=100, num_temperatures=40)
    error = (pv.standard_error(found).square() + pv.standard_error(plain).square()).sqrt()
    assert ((pv.log_evidence(found) - pv.log_evidence(plain)).abs() < 4.5 * error).all()


def test_a_mode_that_the_guide_misses_is_found_from_the_prior_and_by_both_directions():
    """x = |z| + noise: the guide knows the right half alone, its k-hat is fine, and log 2 is lost."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z.abs(), 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.35))

    x = torch.tensor([2.0, 2.5, 3.0])
    z = torch.linspace(-20, 20, 40_001).double()
    log_joint = dist.Normal(0.0, 2.0).log_prob(z) + dist.Normal(z.abs(), 0.3).log_prob(x[:, None])
    exact = log_joint.logsumexp(-1) + (z[1] - z[0]).log()
    plain = pv.log_weights(model, guide, x, num_samples=2000)
    torch.testing.assert_close(pv.log_evidence(plain), exact - math.log(2), rtol=0, atol=0.05)
    assert (pv.pareto_khat(plain) < 0.5).all()
    found = ais_log_weights(model, guide, x, num_samples=200, num_temperatures=100, start="prior")
    assert (error_of(found, exact).abs() < 4.5).all()
    bounds = bdmc(model, guide, torch.zeros(60), num_samples=8, num_temperatures=100)
    assert bounds.gap[bounds.data > 2].mean() > 0.4


def test_bounds_enclose_and_close_in():
    """Means over 60 data: below and above but for noise, and a gap that falls with the temperatures."""
    pair, gaps = Off(latents=3, rows=60), []
    for count in (5, 100):
        bounds = bdmc(pair.model, pair.guide, pair.x, num_samples=8, num_temperatures=count)
        exact = pair.oracle.log_evidence(bounds.data).double()
        assert bounds.data.shape == pair.x.shape
        assert not torch.equal(bounds.data, pair.x)
        for difference in (exact - bounds.lower, bounds.upper - exact):
            assert difference.mean() > -3 * difference.std() / 60**0.5
        gaps.append(bounds.gap.mean().item())
    noise = (bounds.gap.std() / 60**0.5).item()
    assert -3 * noise < gaps[1] < 0.6 * gaps[0] - 3 * noise


def test_a_vae_by_quadrature():
    oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(2, 6, hidden=[8])), latents=2)
    vae = pv.VAE(priors.StandardNormal(2), oracle.likelihood, guides.Normal(networks.MLP(6, 4)))
    x = binary(8)
    found = ais_log_weights(vae.model, vae.guide, x, num_samples=100, num_temperatures=40)
    assert (error_of(found, oracle.log_evidence(x)).abs() < 4.5).all()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_noise_alone():
    pair = Off(rows=3)
    before = torch.get_rng_state()
    first, second, other = (
        ais_log_weights(pair.model, pair.guide, pair.x, num_samples=2, num_temperatures=5, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == torch.float64


def test_what_cannot_be_annealed_is_refused():
    vae, x = a_vae("bernoulli", "bernoulli", "bernoulli"), binary(4)
    with pytest.raises(
        ValueError, match="site 'z': Bits is discrete, and annealing and adapted proposals move"
    ):
        ais(vae.model, vae.guide, x)
    vae = a_vae("uniform_sphere", "bernoulli", "power_spherical")
    with pytest.raises(
        ValueError, match=r"site 'z': .* is over a set without coordinates to anneal or adapt in"
    ):
        ais(vae.model, vae.guide, x)
    vae = a_vae()
    for keywords, message in (
        ({"schedule": "cosine"}, "schedule must be 'sigmoid' or 'linear', got 'cosine'"),
        ({"start": "data"}, "start must be 'guide' or 'prior', got 'data'"),
        ({"num_temperatures": 0}, "ais: num_temperatures is 0"),
        ({"num_samples": 0}, "ais: num_samples is 0"),
        ({"num_steps": 0}, "ais: num_steps is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ais(vae.model, vae.guide, x, **keywords)
    with pytest.raises(ValueError, match="bdmc: the model has no site 'y'"):
        bdmc(vae.model, vae.guide, x, site="y")


def test_evaluate_by_annealing_is_the_same_table():
    pair = Off(rows=70)
    found = pv.evaluate(
        pair.model,
        pair.guide,
        pair.x,
        method="ais",
        num_samples=8,
        num_temperatures=60,
        progress=False,
    )
    error = (found.log_evidence - pair.exact) / found.standard_error
    assert error.square().mean() < 3  # of 70 rows, by errors of 8 chains each
    plain = pv.evaluate(pair.model, pair.guide, pair.x, num_samples=8, progress=False)
    assert torch.equal(found.elbo, plain.elbo)
    assert (found.log_evidence - pair.exact).square().mean() < (
        plain.log_evidence - pair.exact
    ).square().mean()
    assert "K = 8 draws, annealed importance sampling, 60 temperatures" in str(found)
    with pytest.raises(ValueError, match="compare: method is"):
        pv.compare({"ais": found, "is": plain})
    for keywords, message in (
        ({"method": "exact"}, "method 'exact' is not known"),
        ({"method": "ais", "target_se": 0.1}, "method 'ais' takes no target_se"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.evaluate(pair.model, pair.guide, pair.x, progress=False, **keywords)


def test_supports_that_depend_on_a_latent_have_no_coordinates():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            b = pyro.sample("b", dist.Uniform(torch.zeros(()), a))
            pyro.sample("x", dist.Normal(b, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0).expand([len(x)]))
            pyro.sample("b", dist.Uniform(torch.zeros(()), a))

    x = torch.rand(4)
    with pytest.raises(ValueError, match="site 'b': its support depends on other latents"):
        ais(model, guide, x)
    found = pv.evaluate(model, guide, x, num_samples=50, proposal="auto", progress=False)
    assert found.conventions["proposal"] == "guide"


def test_angles_have_no_coordinates():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.VonMises(3.0, 1.0))
            pyro.sample("x", dist.Normal(k.cos(), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.VonMises(3.0 + 0 * x, 1.0))

    x = torch.tensor([0.3, -0.5])
    with pytest.raises(ValueError, match="site 'k': VonMises is over a circle"):
        ais(model, guide, x)
    found = pv.evaluate(model, guide, x, num_samples=2000, proposal="auto", progress=False)
    k = torch.linspace(-math.pi, math.pi, 10_001)[:-1].double()
    joint = dist.VonMises(torch.tensor(3.0).double(), 1.0).log_prob(k) + dist.Normal(k.cos(), 0.5).log_prob(
        x[:, None]
    )
    exact = joint.logsumexp(-1) + math.log(2 * math.pi / 10_000)
    assert ((found.log_evidence - exact).abs() < 4.5 * found.standard_error).all()


def test_the_prior_of_a_latent_that_follows_data_is_theirs():
    """y is observed, z ~ N(y, 1), x is observed: chains from the prior start at y's own."""

    def model(y, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(torch.zeros(()), 3.0), obs=y)
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(y, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    y = torch.tensor([-3.0, 0.0, 4.0])
    x = y + torch.tensor([0.5, -1.0, 0.0])
    exact = dist.Normal(0.0, 3.0).log_prob(y) + dist.Normal(y, 1.25**0.5).log_prob(x)
    found = ais_log_weights(model, guide, y, x, num_samples=400, num_temperatures=5, start="prior")
    assert (error_of(found, exact).abs() < 4.5).all()
    with pytest.raises(ValueError, match="bdmc: the model observes 'y' too"):
        bdmc(model, guide, y, x)


def test_a_model_that_reads_its_data_cannot_simulate_them():
    """Each value given the one before it: drawn with old values in their place it is another model."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            before = torch.cat([torch.zeros(len(x), 1), x[:, :-1]], -1)
            pyro.sample("x", dist.Normal(z[..., None] + 0.5 * before, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.7))

    with pytest.raises(
        ValueError, match="bdmc: run on data that it drew, the model gives them another density"
    ):
        bdmc(model, guide, torch.randn(5, 4), num_temperatures=5)
    assert "run on data that it drew, the model gives them another density" in str(
        pv.certify(model, guide, torch.randn(70, 4), num_temperatures=20, num_checked=10, progress=False)
    )


def test_the_chunk_size_changes_no_annealed_chain(monkeypatch):
    """Of a decoder wide enough that passes of other shapes round otherwise, and flip acceptances."""
    torch.manual_seed(0)
    vae = pv.VAE(
        priors.StandardNormal(20),
        likelihoods.Bernoulli(networks.MLP(20, 784, hidden=(64,))),
        guides.Normal(networks.MLP(784, 40)),
    )
    x = (torch.rand(3, 784) < 0.3).float()
    monkeypatch.setitem(tempering.ROWS_AT_ONCE, "cpu", 2 * 64)  # passes of two chains, the last one filled up
    found = [
        pv.evaluate(
            vae.model,
            vae.guide,
            x,
            num_samples=3,
            method="ais",
            num_temperatures=4,
            chunk_size=size,
            progress=False,
        ).log_evidence
        for size in (None, 1, 2, 1000)
    ]
    assert all(torch.equal(each, found[0]) for each in found)


def test_chains_in_chunks_agree():
    pair = Off(rows=5)
    whole, chunked = (
        ais_log_weights(pair.model, pair.guide, pair.x, num_samples=6, num_temperatures=10, chunk_size=size)
        for size in (None, 4)
    )
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="ais: chunk_size is 0"):
        ais(pair.model, pair.guide, pair.x, chunk_size=0)
