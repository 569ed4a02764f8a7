"""Bands against enumeration and simulation; exact posteriors pass, and wrong ones are named."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import PRIORS, a_vae, binary

import pyrovae as pv
from pyrovae.evaluation.diagnostics import calibration
from pyrovae.evaluation.diagnostics.calibration import LEAST, band, p_value
from pyrovae.evaluation.simulation import simulate
from pyrovae.models.distributions import as_pyro
from pyrovae.testing import LinearGaussian


def below(ranks, points):
    """How many of ``[..., n]`` uniform numbers are below each point: ``[..., points]``."""
    return (ranks[..., None, :] < torch.tensor(points, dtype=torch.float64)[:, None]).sum(-1)


def test_the_probability_of_a_path_is_that_by_enumeration():
    """Four ranks of five values each: 625 paths, of which the p-value counts the unlikely ones."""
    points = tuple(level / 5 for level in range(1, 5))
    paths = torch.stack(
        [below(torch.tensor(ranks).double() / 5, points) for ranks in itertools.product(range(5), repeat=4)]
    )
    at = dist.Binomial(4, torch.tensor(points, dtype=torch.float64)[:, None])
    chance = at.log_prob(torch.arange(5.0).double()).exp()
    lower, upper = chance.cumsum(1), chance.flip(1).cumsum(1).flip(1)
    tails = 2 * torch.minimum(lower, upper)[torch.arange(4), paths].min(1).values
    for path, tail in zip(paths[::7], tails[::7], strict=True):
        exact = (tails <= tail + 1e-12).double().mean().item()
        assert p_value(path, 4, points) == pytest.approx(exact, abs=1e-9)
    for coverage in (0.5, 0.8, 0.95):
        low, high = band(4, points, coverage)
        inside = ((paths >= low) & (paths <= high)).all(1).double().mean().item()
        assert inside >= coverage
        narrower = [
            tail for tail in tails.unique().tolist() if (tails > tail + 1e-12).double().mean() >= coverage
        ]
        assert not narrower or inside <= (tails > max(narrower) + 1e-12).double().mean() + 1e-9


@pytest.mark.parametrize(("n", "num_samples"), [(50, 39), (400, 19), (1000, 9)])
def test_uniform_ranks_stay_in_the_band_as_often_as_stated(n, num_samples):
    """4,000 repeats: a share of 0.95 is known to 0.0034. Counts are whole, so a little more stay."""
    points = tuple(level / (num_samples + 1) for level in range(1, num_samples + 1))
    counts = below(torch.randint(num_samples + 1, (4000, n)).double() / (num_samples + 1), points)
    low, high = band(n, points, 0.95)
    inside = ((counts >= low) & (counts <= high)).all(1).double().mean()
    assert 0.95 - 4.5 * 0.0034 < inside < 0.965 + 4.5 * 0.0034
    p_values = torch.tensor([p_value(each, n, points) for each in counts[:300]])
    for level in (0.05, 0.3, 0.7):  # never more often than stated; 300 repeats
        assert (p_values <= level).double().mean() < level + 4.5 * math.sqrt(level * (1 - level) / 300)
    outside = ~((counts[:300] >= low) & (counts[:300] <= high)).all(1)
    assert ((p_values <= 0.05) >= outside).all()  # the band and the p-values say the same
    assert p_value(torch.zeros(num_samples, dtype=torch.long), n, points) == LEAST


def test_exact_posteriors_pass_at_the_stated_rate():
    """Of 100 repeats and two quantities, 5% are outside: 4.5 standard deviations of a share of 200 is 7%."""
    oracle = LinearGaussian(torch.tensor([[1.0], [-0.5]]), noise=0.7)
    outside = []
    for seed in range(100):
        found = calibration(
            oracle.model, oracle.guide, torch.zeros(1, 2), num_simulations=64, num_samples=19, seed=seed
        )
        outside.append(found.outside)
    assert torch.stack(outside).double().mean() < 0.05 + 0.07
    assert found.names == ("z[0]", "log p(x|z)")
    assert found.ranks.shape == (64, 2)


@pytest.mark.parametrize(
    ("wrong", "verdict", "signs"),
    [
        ({"widen": 0.6}, "too narrow", (1, -1)),
        ({"widen": 1.7}, "too wide", (-1, 1)),
        ({"shift": 0.2}, "too high", (1, 1)),
        ({"shift": -0.2}, "too low", (-1, -1)),
    ],
)
def test_what_is_wrong_is_named_and_has_its_shape(wrong, verdict, signs):
    oracle = LinearGaussian(torch.randn(6, 2), noise=0.5, **wrong)
    found = calibration(oracle.model, oracle.guide, oracle.sample(3))
    assert found.outside[:2].all()
    assert found.verdicts[:2] == (verdict, verdict)
    assert (found.p_values[:2] < 1e-3).all()
    left, right = found.difference[14, :2], found.difference[84, :2]  # at ranks of 15% and 85%
    assert (left.sign() == signs[0]).all()
    assert (right.sign() == signs[1]).all()
    said = str(found)
    assert said.startswith("1,000 data drawn from the model, 99 draws of q each")
    assert said.count(verdict) >= 2


def test_a_guide_that_is_the_prior_is_given_away_by_the_likelihood_alone():
    oracle = LinearGaussian(torch.randn(6, 2), noise=0.5)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    found = calibration(oracle.model, prior, oracle.sample(3))
    assert found.verdicts[:2] == ("calibrated", "calibrated")
    assert found.verdicts[2] == "too low"


def two_sites(narrow=1.0):
    """a ~ N(0, 1), b | a ~ N(a, 1), y | b ~ N(b, c) for a given c; and the posterior, b first."""

    def model(y, c):
        with pyro.plate("data", len(y)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b, c), obs=y)

    def guide(y, c):
        with pyro.plate("data", len(y)):
            b = pyro.sample("b", dist.Normal(2 * y / (2 + c**2), c * (2 / (2 + c**2)) ** 0.5))
            pyro.sample("a", dist.Normal(b / 2, narrow * 0.5**0.5))

    return model, guide


def test_several_sites_a_condition_and_a_site_of_the_data_by_another_name():
    given = torch.zeros(3), torch.tensor([0.3, 1.0, 2.0])
    model, guide = two_sites()
    found = calibration(model, guide, given, site="y")
    assert found.names == ("a", "b", "log p(x|z)")
    assert (found.p_values > 1e-3).all()
    model, guide = two_sites(narrow=0.5)
    found = calibration(model, guide, given, site="y")
    assert found.verdicts[0] == "too narrow"
    assert found.p_values[1] > 1e-3
    with pytest.raises(ValueError, match="calibration: the model has no site 'x': name that of the data"):
        calibration(model, guide, given)


def test_discrete_latents_are_ranked_with_ties_broken_at_random():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, off=0.0):
        logits = math.log(0.3 / 0.7) + x - 0.5 + off
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    assert (calibration(model, guide, torch.zeros(1)).p_values > 1e-3).all()
    assert calibration(model, lambda x: guide(x, 1.0), torch.zeros(1)).verdicts[0] == "too high"


def test_inner_plates_have_a_rank_for_each_place():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            m = pyro.sample("m", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inner", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1) + m, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("m", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inner", 3, dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    found = calibration(model, guide, torch.zeros(70, 3), num_simulations=200)
    assert found.names == ("m", *(f"z[{i}, {j}]" for i in range(3) for j in range(2)), "log p(x|z)")
    assert (found.p_values[:-1] > 1e-3).all()  # the prior
    assert found.ranks.T.double().corrcoef().triu(1).abs().max() < 0.95  # a column of its own each


@pytest.mark.parametrize("prior", PRIORS)
def test_of_data_that_say_nothing_the_prior_is_the_posterior_in_every_space(prior):
    """Simplices, spheres, bits and one-hots with their ties, and a likelihood of ties alone."""
    silent = torch.nn.Linear(4, 6)
    silent.weight.data.zero_()
    vae = a_vae(prior)
    vae.likelihood = pv.likelihoods.Bernoulli(silent)

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", as_pyro(vae.prior()))

    found = calibration(vae.model, posterior, binary(3), num_simulations=128, num_samples=19)
    assert len(found.names) == 5
    assert (found.p_values > 1e-4).all()


def test_rows_are_keyed_by_their_place():
    vae, x = a_vae(), binary(10)
    few = calibration(vae.model, vae.guide, x, num_simulations=64, num_samples=20)
    many = calibration(vae.model, vae.guide, x, num_simulations=100, num_samples=20)
    assert torch.equal(few.ranks, many.ranks[:64])
    other = calibration(vae.model, vae.guide, x, num_simulations=64, num_samples=20, seed=1)
    assert not torch.equal(few.ranks, other.ranks)
    assert few.names == ("z[0]", "z[1]", "z[2]", "z[3]", "log p(x|z)")
    assert few.ranks.max() <= 20


def test_simulated_data_have_the_models_distribution_and_their_own_latents():
    oracle = LinearGaussian(torch.randn(4, 2))
    drawn = simulate(oracle.model, torch.zeros(20000, 4))
    (x,) = drawn.args
    exact = oracle.weight @ oracle.weight.T + oracle.noise.diag()
    torch.testing.assert_close(x.T.cov(), exact, rtol=0.06, atol=0.06)  # 2% each way, three times over
    residual = x - drawn.trace.nodes["z"]["value"] @ oracle.weight.T
    torch.testing.assert_close(residual.var(0), oracle.noise, rtol=0.05, atol=0)
    assert torch.equal(simulate(oracle.model, torch.zeros(20000, 4)).args[0], x)
    assert not torch.equal(simulate(oracle.model, torch.zeros(20000, 4), key=(1,)).args[0], x)


def test_all_observed_sites_are_simulated_or_named():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 3, (1 / 3) ** 0.5))

    given = torch.zeros(5), torch.zeros(5)
    with pytest.raises(ValueError, match=r"the model observes 'y' too: .* site=\('x', 'y'\)"):
        calibration(model, guide, given)
    assert (calibration(model, guide, given, site=("x", "y")).p_values > 1e-3).all()
    with pytest.raises(ValueError, match="or site= is in another order than the arguments"):
        calibration(model, guide, given, site=("y", "x"))


def test_asks_for_counts_and_a_coverage():
    vae = a_vae()
    for wrong, said in (
        ({"num_samples": 0}, "calibration: num_samples is 0"),
        ({"num_simulations": 0}, "calibration: num_simulations is 0"),
        ({"coverage": 1.0}, "calibration: coverage must be strictly between 0 and 1, got 1"),
    ):
        with pytest.raises(ValueError, match=said):
            calibration(vae.model, vae.guide, binary(3), **wrong)
    assert len(pv.diagnostics.calibration(vae.model, vae.guide, binary(3), num_simulations=1).verdicts) == 5
