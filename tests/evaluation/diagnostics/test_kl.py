"""Parts of the KL against torch's closed forms and against the whole, and what the ELBO is made of."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import PAIRS, a_vae, binary
from torch.distributions import kl_divergence

import pyrovae as pv
from pyrovae import guides, likelihoods, models, networks, priors
from pyrovae.evaluation.diagnostics import kl_by_dimension, kl_by_site, rate_distortion
from pyrovae.testing import LinearGaussian

SURE = 4.5


def test_dimensions_have_the_kl_of_their_own():
    """Closed form, row by row; 4.5 errors over 240 numbers, and rounding where an error is zero."""
    vae, x = a_vae(), binary(60)
    net = torch.nn.Linear(6, 8)
    for parameter in net.parameters():
        parameter.data[::4] = 0  # the first dimension's loc and log variance: q is the prior
    vae.guide = guides.Normal(net)
    found = kl_by_dimension(vae.model, vae.guide, x, num_samples=400)
    with torch.no_grad():
        exact = kl_divergence(vae.encode(x).base_dist, vae.prior().base_dist).double()
    assert found.names == ("z[0]", "z[1]", "z[2]", "z[3]")
    assert exact[:, 0].max() == 0
    assert exact[:, 1:].mean() > 0.05
    assert ((found.values - exact).abs() < SURE * found.errors + 1e-6).all()
    assert found.values[:, 0].abs().max() < 1e-6
    torch.testing.assert_close(found.total, found.values.sum(1))
    assert ((found.total - exact.sum(1)).abs() < SURE * found.total_error + 1e-6).all()
    whole = pv.evaluate(vae.model, vae.guide, x, num_samples=400, progress=False)
    assert ((found.total - whole.kl).abs() < SURE * torch.hypot(found.total_error, whole.kl_error)).all()
    lines = str(found).splitlines()
    assert lines[1].startswith("KL(q(z|x) || p(z))")
    assert lines[-1].split()[0] == "z[0]"  # the largest first


@pytest.mark.parametrize(("prior", "guide"), [pair for pair in PAIRS if pair[1] != "delta"])
def test_of_every_pair_the_one_site_has_the_whole(prior, guide):
    """Mean over 30 rows, whose errors are small even where the KL of single rows has long tails."""
    vae, x = a_vae(prior, guide=guide), binary(30)
    found = kl_by_site(vae.model, vae.guide, x, num_samples=100)
    whole = pv.evaluate(vae.model, vae.guide, x, num_samples=100, progress=False)
    error = torch.hypot(found.total_error, whole.kl_error).norm() / 30
    assert abs(found.total.mean() - whole.kl.mean()) < SURE * error + 1e-6
    assert torch.equal(found.total, found.values[:, 0])


def test_errors_are_those_of_repeats():
    vae, x = a_vae(), binary(20)
    repeats = [kl_by_dimension(vae.model, vae.guide, x, num_samples=50, seed=seed) for seed in range(60)]
    spread = torch.stack([found.total for found in repeats]).std(0)
    stated = torch.stack([found.total_error for found in repeats]).mean(0)
    # A standard deviation of 60 is known to 9%; of 20 rows, all within four of those.
    assert ((spread / stated - 1).abs() < 0.37).all()


def test_sites_of_a_hierarchy_add_up_to_the_whole():
    """Two layers, drawn in the model's order and against it."""
    x = binary(80)
    for pair in (
        models.two_layers(
            priors.StandardNormal(2),
            priors.ConditionalNormal(networks.MLP(2, 6)),
            likelihoods.Bernoulli(networks.MLP(3, 6)),
            guides.Normal(networks.MLP(6, 6)),
            guides.Normal(networks.MLP(3, 4)),
        ),
        top_down(),
    ):
        found = kl_by_site(pair.model, pair.guide, x, num_samples=300)
        whole = pv.evaluate(pair.model, pair.guide, x, num_samples=300, progress=False)
        assert len(found.names) == len(found) == 2
        error = torch.hypot(found.total_error, whole.kl_error)
        assert ((found.total - whole.kl).abs() < SURE * error + 1e-6).all()


def top_down():
    """q(a | x) q(b | a, x), p(a) p(b | a): every part is a divergence, known in closed form of each a."""

    def model(pair, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a[..., None], torch.ones(2)).to_event(1))
            pyro.sample(
                "x",
                dist.Bernoulli(logits=b.sum(-1, keepdim=True).expand(*b.shape[:-1], 6)).to_event(1),
                obs=x,
            )

    def guide(pair, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, 0], 0.5))
            pyro.sample("b", dist.Normal(a[..., None] + 2.0, 0.5 * torch.ones(2)).to_event(1))

    return models.Pair(models.pair.PartsProgram(model), models.pair.PartsProgram(guide))


def test_a_site_below_another_has_its_conditional_divergence():
    """KL(N(a + 2, 1/4) || N(a, 1)) of two dimensions, whatever a; and that of a by each x."""
    pair, x = top_down(), binary(50)
    found = kl_by_site(pair.model, pair.guide, x, num_samples=500)
    assert found.names == ("a", "b")
    of_b = 2 * kl_divergence(dist.Normal(2.0, 0.5), dist.Normal(0.0, 1.0)).double()
    of_a = kl_divergence(dist.Normal(x[:, 0], 0.5), dist.Normal(0.0, 1.0)).double()
    exact = torch.stack([of_a, of_b.expand(50)], -1)
    assert ((found.values - exact).abs() < SURE * found.errors).all()
    by_dimension = kl_by_dimension(pair.model, pair.guide, x, site="b", num_samples=500)
    assert ((by_dimension.values - of_b / 2).abs() < SURE * by_dimension.errors).all()
    assert kl_by_dimension(pair.model, pair.guide, x, site="a").names == ("a",)


def test_masked_rows_have_none():
    def model(x, known):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=known):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, known):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=known):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    known = torch.tensor([True, False, True])
    found = kl_by_dimension(model, guide, (torch.ones(3, 2), known))
    assert (found.values[1] == 0).all()
    assert (found.values[0] > 0).all()


def test_densities_that_are_no_product_are_named():
    oracle = LinearGaussian(torch.randn(5, 2))
    with pytest.raises(
        ValueError, match=r"site 'z': the dimensions of MultivariateNormal are not independent.*kl_by_site"
    ):
        kl_by_dimension(oracle.model, oracle.guide, oracle.sample(4))
    vae = a_vae()
    vae.prior = priors.GaussianMixture(4, 3)
    with pytest.raises(ValueError, match=r"site 'z': the dimensions of \w+ are not independent"):
        kl_by_dimension(vae.model, vae.guide, binary(4))
    assert len(kl_by_site(vae.model, vae.guide, binary(4))) == 1
    with pytest.raises(ValueError, match="no latent site 'u', but z: name it with site="):
        kl_by_dimension(vae.model, vae.guide, binary(4), site="u")


def test_the_one_site_of_a_model_takes_in_an_autoguides_auxiliary_one():
    x = torch.tensor([0.5, -1.0, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoNormal(model)
    guide(x)
    found = kl_by_site(model, guide, x, num_samples=500)
    whole = pv.evaluate(model, guide, x, num_samples=500, progress=False)
    assert ((found.total - whole.kl).abs() < SURE * torch.hypot(found.total_error, whole.kl_error)).all()


def test_of_several_sites_an_auxiliary_one_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0)) + pyro.sample("y", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoNormal(model)
    guide(torch.zeros(3))
    with pytest.raises(ValueError, match=r"site 'z_unconstrained' of the guide .* belongs to none of z, y"):
        kl_by_site(model, guide, torch.zeros(3))


def test_rate_and_distortion_are_columns_of_the_evaluation():
    oracle = LinearGaussian(torch.randn(5, 2), widen=1.3)
    result = pv.evaluate(oracle.model, oracle.guide, oracle.sample(300), num_samples=200, progress=False)
    found = rate_distortion(result)
    torch.testing.assert_close(found.rate + found.distortion, -result.elbo)
    q = dist.MultivariateNormal(torch.zeros(2), 1.3**2 * oracle.posterior_covariance)
    x = oracle.sample(300)
    at = dist.MultivariateNormal(oracle.posterior(x).loc, q.covariance_matrix)
    exact = kl_divergence(at, dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert ((found.rate - exact).abs() < SURE * found.rate_error).all()
    lines = str(found).splitlines()
    for value, line in zip((found.rate, found.distortion, -result.elbo), lines[1:], strict=True):
        assert f"{value.mean():.3f}" in line
