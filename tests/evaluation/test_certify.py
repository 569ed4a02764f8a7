"""certify: the truth within its stated error, missed modes found, and "not known" where it is so."""

from __future__ import annotations

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.evaluation.certificate import Check
from pyrovae.testing import LinearGaussian, Quadrature

CHEAP = {"num_checked": 24, "num_temperatures": 60, "progress": False}


def certify(model, guide, x, **keywords):
    return pv.certify(model, guide, x, **{**CHEAP, **keywords})


@pytest.mark.parametrize("latents", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_the_truth_lies_within_the_stated_error(latents):
    pair = LinearGaussian(torch.randn(10, latents), noise=1.0, shift=0.2, widen=0.6)
    x = pair.sample(200)
    found = certify(pair.model, pair.guide, x, num_temperatures=100)
    assert found.known, found.verdict
    assert "of 24 data none is off: up to 12% of all may be (at 95%)" in str(found)
    off = abs(found.evaluation.log_evidence.mean() - pair.log_evidence(x).double().mean()).item()
    assert off < found.within < 0.3
    mean = found.evaluation.log_evidence.mean().item()
    assert found.verdict.startswith(f"mean log p(x) = {mean:.2f}, known to within 0.")
    stated = float(re.search(r"within (\S+) nats", found.verdict)[1])
    assert stated >= found.within


def test_a_curved_posterior_by_quadrature():
    oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(2, 6, hidden=[8])), latents=2)
    vae = pv.VAE(priors.StandardNormal(2), oracle.likelihood, guides.Normal(networks.MLP(6, 4)))
    x = binary(100)
    found = certify(vae.model, vae.guide, x)
    assert found.known, found.verdict
    assert abs(found.evaluation.log_evidence.mean() - oracle.log_evidence(x).mean()) < found.within


class Fold:
    """x = |z| + noise, of which the guide knows the right half alone."""

    exact_loss = math.log(2)

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z.abs(), 0.3), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.35))


@pytest.mark.parametrize("proposal", [None, "auto"])
def test_a_mode_that_is_missed_with_a_green_k_hat_is_found(proposal):
    """Annealing from the prior finds log 2 more, and the upper bound says so on data of the model."""
    x = 1.5 + 2 * torch.rand(100)
    found = certify(Fold.model, Fold.guide, x, proposal=proposal)
    assert (found.evaluation.khat < 0.5).all()
    assert len(found.doubtful) == 0
    assert not found.known
    assert "annealing from the prior finds 0.6" in found.verdict or "finds 0.7" in found.verdict
    assert "so that its draws miss a part of the posterior" in found.verdict
    assert found.annealed.mean == pytest.approx(Fold.exact_loss, abs=4.5 * found.annealed.error + 0.05)
    assert found.upper.mean > 0.3
    lines = str(found).splitlines()
    assert lines[0] == found.verdict
    assert "none is off" not in str(found)
    assert any(line.startswith("annealing from the prior  ") for line in lines)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"widen": 0.2}, id="too narrow", marks=pytest.mark.slow),
        pytest.param({"widen": 0.5, "shift": 1.0}, id="beside it"),
    ],
)
def test_k_hat_flags_guides_that_are_narrow_or_shifted_and_certify_says_not_known(bad):
    pair = LinearGaussian(torch.randn(8, 3), **bad)
    x = pair.sample(100)
    found = certify(pair.model, pair.guide, x, proposal=None, max_samples=2000)
    assert (found.evaluation.khat > 0.7).double().mean() > 0.9
    assert not found.known
    assert "not known" in found.verdict
    assert len(found.doubtful) > 90
    better = certify(pair.model, pair.guide, x)  # with a proposal that is adapted
    assert better.known, better.verdict
    assert abs(better.evaluation.log_evidence.mean() - pair.log_evidence(x).double().mean()) < better.within


def test_temperatures_that_are_too_few_to_tell_are_said():
    pair = LinearGaussian(torch.randn(8, 3), widen=1.5)
    x = pair.sample(50)
    found = certify(pair.model, pair.guide, x, num_temperatures=2)
    assert not found.known
    assert "annealing from the prior falls " in found.verdict
    assert "too few temperatures to check it" in found.verdict
    near = LinearGaussian(torch.randn(8, 3), noise=3.0, widen=1.5)
    found = certify(near.model, near.guide, near.sample(50), num_temperatures=100, tolerance=1e-3)
    assert not found.known
    assert "the temperatures or data are too few to tell" in found.verdict


def test_latents_that_cannot_be_annealed_are_not_called_known():
    vae = a_vae("bernoulli", "bernoulli", "bernoulli")
    found = certify(vae.model, vae.guide, binary(20))
    assert not found.known
    assert "no more than that could be checked (site 'z': Bits is discrete" in found.verdict
    assert found.annealed is None
    assert "importance sampling of 20 data took" in str(found)


def test_labels_go_with_their_rows_and_the_site_is_named():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("value", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 2, 1.0))

    y = 10 * torch.randn(150)
    x = y + 2**0.5 * torch.randn(150)
    found = certify(model, guide, (x, y), site="value")
    exact = dist.Normal(y, 2**0.5).log_prob(x).double().mean()
    assert found.known, found.verdict
    assert abs(found.evaluation.log_evidence.mean() - exact) < found.within
    lost = certify(model, guide, (x, y))
    assert "no more than that could be checked (bdmc: the model has no site 'x'" in lost.verdict
    assert lost.annealed is not None  # what was found is kept
    with pytest.raises(ValueError, match="certify: num_checked is 0"):
        certify(model, guide, (x, y), num_checked=0)
    with pytest.raises(ValueError, match="certify: tolerance must be positive"):
        certify(model, guide, (x, y), tolerance=0.0)


def test_a_check_is_sure_of_two_errors_either_way():
    check = Check("annealing", torch.tensor([0.0, 2.0, 4.0]), torch.tensor([0.1, 0.1, 1.2]), 1.0)
    assert check.mean == 2.0
    assert check.error == pytest.approx(2 / 3**0.5)
    assert check.beyond.tolist() == [1]
    assert (check.least, check.most) == pytest.approx((2 - 4 / 3**0.5, 2 + 4 / 3**0.5))


def test_a_few_data_whose_mode_is_missed_are_found_one_by_one():
    """Half of the posterior of 10 of 100 data is missed: on average that is little, of each it is not."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(torch.where(z.abs() > 1, z.abs(), z), 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.35))

    x = torch.cat([0.3 * torch.randn(90), 3 + torch.rand(10)])
    found = certify(model, guide, x, proposal=None, num_checked=50, num_chains=32)
    assert (found.evaluation.khat[90:] < 0.7).all()
    assert not found.known
    assert "of datum 9" in found.verdict or "nats more than importance sampling" in found.verdict


def test_one_datum_tells_nothing_of_others():
    pair = LinearGaussian(torch.randn(8, 2), noise=1.0)
    found = certify(pair.model, pair.guide, pair.sample(1))
    assert "a single datum was checked, which tells nothing of others" in found.verdict
    assert "nan" not in found.verdict


def test_a_guide_of_fixed_rows_is_evaluated_and_what_cannot_be_checked_is_said():
    from pyro.infer.autoguide import AutoNormal

    pair = LinearGaussian(torch.randn(6, 2), noise=1.0)
    x = pair.sample(20)
    guide = AutoNormal(pair.model)
    guide(x)
    found = certify(pair.model, guide, x, num_checked=20, proposal=None, max_samples=2000)
    assert (found.evaluation.log_evidence < pair.log_evidence(x) + 1).all()
    assert not found.known
    more = pv.evaluate(pair.model, guide, x, num_samples=100, target_se=0.02, max_samples=400, progress=False)
    assert more.draws.max() == 400
