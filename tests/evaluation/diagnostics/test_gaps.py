"""Gaps against linear-Gaussian ones in closed form, where the best diagonal normal is known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import binary
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.evaluation.weights import khat_threshold
from pyrovae.testing import LinearGaussian

LATENTS, FEATURES = 3, 6
SHIFT, SHRINK = 0.3, 0.7


def linear_vae(oracle, shift=SHIFT, shrink=SHRINK):
    """The oracle's model, and a diagonal guide moved off and narrowed from the best of its family."""
    vae = pv.VAE(
        priors.StandardNormal(LATENTS),
        likelihoods.Normal(nn.Linear(LATENTS, FEATURES), scale=float(oracle.noise[0]) ** 0.5),
        guides.Normal(nn.Linear(FEATURES, 2 * LATENTS)),
    )
    gain = oracle.posterior_covariance @ (oracle.weight.T / oracle.noise)
    log_variance = best_variance(oracle).log() + 2 * torch.tensor(shrink).log()
    with torch.no_grad():
        vae.likelihood.net.weight.copy_(oracle.weight)
        vae.likelihood.net.bias.zero_()
        vae.guide.part.net.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        vae.guide.part.net.bias.copy_(torch.cat([torch.full((LATENTS,), shift), log_variance]))
    return vae


def best_variance(oracle):
    """Of the diagonal normal nearest the posterior in KL(q || p): one over the precision's diagonal."""
    return 1 / torch.linalg.inv(oracle.posterior_covariance).diag()


def exact_gaps(oracle, x, variance, shift=0.0):
    posterior = oracle.posterior(x)
    q = dist.MultivariateNormal(posterior.loc + shift, variance.diag_embed())
    return torch.distributions.kl_divergence(q, posterior).double()


@pytest.fixture
def oracle():
    """Of a posterior whose best diagonal normal is 0.2 nats off: its precision is 3.5 I + 2.2."""
    return LinearGaussian(torch.eye(LATENTS).repeat(2, 1) + 0.3, noise=0.8)


def test_gaps_of_a_linear_vae_are_those_in_closed_form(oracle):
    vae, x = linear_vae(oracle), oracle.sample(64)
    found = pv.diagnostics.gaps(vae.model, vae.guide, x, num_samples=2000, progress=False)
    inference = exact_gaps(oracle, x, SHRINK**2 * best_variance(oracle), SHIFT)
    approximation = exact_gaps(oracle, x, best_variance(oracle))
    assert approximation.mean() > 0.1
    assert (inference - approximation).mean() > 0.3
    # 64 rows at 4.5 errors each; steps of 0.01 leave the refined guide short by up to 0.02 nats a row.
    error, short = 4.5 * found.inference_error + 1e-3, 0.02
    assert ((found.inference - inference).abs() < error).all()
    excess = found.approximation - approximation
    assert (excess < 4.5 * found.approximation_error + short).all()
    assert (excess > -4.5 * found.approximation_error).all()
    assert abs(excess.mean()) < 4.5 * found.approximation_error.norm() / 64 + 0.005
    assert found.source == "refined guide"
    torch.testing.assert_close(found.amortisation + found.approximation, found.inference)
    assert abs(found.rise.mean()) < 0.01
    lines = str(found).splitlines()
    assert lines[0].startswith("64 rows; log p(x) by the refined guide, expected bias -")
    assert [line.split("  ")[0] or line.split()[0] for line in lines[2:5]] == [
        "inference gap",
        "amortisation",
        "approximation",
    ]
    assert f"{found.inference.mean():.3f}" in lines[2]


def test_the_best_of_the_family_has_no_amortisation_gap(oracle):
    vae, x = linear_vae(oracle, shift=0.0, shrink=1.0), oracle.sample(64)
    found = pv.diagnostics.gaps(vae.model, vae.guide, x, num_samples=500, steps=100, progress=False)
    # Refining leaves noise and cannot improve; 0.01 is twice what it leaves on average.
    assert -0.01 - 4.5 * found.amortisation_error.norm() / 64 < found.amortisation.mean()
    assert found.amortisation.mean() < 4.5 * found.amortisation_error.norm() / 64
    early = pv.diagnostics.gaps(
        vae.model, linear_vae(oracle).guide, x, num_samples=100, steps=10, progress=False
    )
    assert early.rise.mean() > 0.02  # stopped on the way, and it says so


def test_hand_written_programs_bring_their_own_refined_guide(oracle):
    x = oracle.sample(70)
    off = LinearGaussian(oracle.weight, noise=0.8, shift=0.4, widen=1.5)

    def best(x):
        q = oracle.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.loc, best_variance(oracle).sqrt()).to_event(1))

    found = pv.diagnostics.gaps(off.model, off.guide, x, refined=best, num_samples=500, progress=False)
    pairs = (
        (found.inference, off.gap(x).double(), found.inference_error),
        (found.approximation, exact_gaps(oracle, x, best_variance(oracle)), found.approximation_error),
    )
    for value, exact, error in pairs:
        assert ((value - exact).abs() < 4.5 * error + 1e-3).all()
    assert found.rise is None
    assert "k-hat" not in str(found)
    narrow = LinearGaussian(oracle.weight, noise=0.8, widen=0.3)
    doubted = pv.diagnostics.gaps(
        narrow.model, narrow.guide, x, refined=best, num_samples=500, progress=False
    )
    assert doubted.source == "refined guide"
    given = pv.diagnostics.gaps(
        narrow.model, narrow.guide, x, refined=best, evidence=doubted.guide, num_samples=5, progress=False
    )
    beyond = int((doubted.guide.khat > khat_threshold(500)).sum())
    assert beyond > 35
    assert f"{beyond} rows have a k-hat that is not reliable: there log p(x), and with it" in str(given)
    with pytest.raises(ValueError, match=r"gaps: LinearGaussian.guide has no parameters .* pass refined="):
        pv.diagnostics.gaps(off.model, off.guide, x)


def test_log_evidence_is_taken_from_a_result_of_the_same_data(oracle):
    vae, x = linear_vae(oracle), oracle.sample(20)
    exact = pv.evaluate(oracle.model, oracle.guide, x, num_samples=2, progress=False)
    settings = {"num_samples": 50, "steps": 2, "progress": False}
    found = pv.diagnostics.gaps(vae.model, vae.guide, x, evidence=exact, **settings)
    assert found.source == "given"
    torch.testing.assert_close(found.inference, exact.log_evidence - found.guide.elbo)
    assert "of the result given" in str(found)
    with pytest.raises(ValueError, match=r"gaps: evidence is of other data, fingerprint \w+ and not \w+"):
        pv.diagnostics.gaps(vae.model, vae.guide, x + 1, evidence=exact, **settings)
    with pytest.raises(ValueError, match=r"of other data, rows 20 and not 19"):
        pv.diagnostics.gaps(vae.model, vae.guide, x[:19], evidence=exact, **settings)


def test_a_guide_without_parameters_to_refine_is_named():
    vae = pv.VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, 6)),
        guides.Widened(guides.Normal(networks.MLP(6, 4)), 1.5),
    )
    with pytest.raises(ValueError, match=r"gaps: Widened has no parameters to refine.*: pass refined="):
        pv.diagnostics.gaps(vae.model, vae.guide, binary(9))


def test_rows_have_their_gaps_whatever_follows_them(oracle):
    vae, x = linear_vae(oracle), oracle.sample(70)
    settings = {"num_samples": 20, "steps": 3, "progress": False}
    all_rows = pv.diagnostics.gaps(vae.model, vae.guide, x, **settings)
    some = pv.diagnostics.gaps(vae.model, vae.guide, x[:64], **settings)
    torch.testing.assert_close(some.amortisation, all_rows.amortisation[:64])
    for name in ("guide", "refined"):  # of which the better is for all rows
        log_evidence = getattr(all_rows, name).log_evidence[:64]
        torch.testing.assert_close(getattr(some, name).log_evidence, log_evidence)
    assert all_rows.guide.conventions["rows"] == 70


def test_each_tile_is_refined_once(oracle, monkeypatch):
    """However many the passes of draws, and looks at the programs: 130 rows are three tiles."""
    refine, steps = guides.Refined._refine, []
    monkeypatch.setattr(
        guides.Refined, "_refine", lambda self, *given: steps.append(self.steps) or refine(self, *given)
    )
    vae, x = linear_vae(oracle), oracle.sample(130)
    pv.diagnostics.gaps(vae.model, vae.guide, x, num_samples=300, steps=4, progress=False)
    assert steps == [4, 4, 4, 2, 2, 2]
