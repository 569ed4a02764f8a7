"""Stock Pyro takes vae.model and vae.guide untouched; each trap on the way is a test."""

from __future__ import annotations

import copy
import pickle

import pyro
import pytest
import torch
from components import FEATURES, LATENTS, a_vae, binary
from helpers import all_moved, none_moved, snapshot
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal

import pyrovae as pv

ELBOS = [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, RenyiELBO]


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((20, FEATURES), 0.4))


@pytest.mark.parametrize("elbo", ELBOS)
def test_svi_trains_model_and_guide_under_every_elbo(elbo, x):
    """Trap: with bound methods in their place nothing would be registered, and nothing move."""
    vae = a_vae()
    before = snapshot(vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo())
    losses = [svi.step(x) for _ in range(30)]
    assert all_moved(before, vae)
    assert sum(losses[-10:]) < sum(losses[:10])


def test_two_vaes_in_one_process_both_train_under_svi(x):
    """Trap: Pyro's parameter store knows parameters by name."""
    for vae in (a_vae(), a_vae()):
        before = snapshot(vae)
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
        assert all_moved(before, vae)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_a_copy_trains_by_itself(clone, x):
    vae = a_vae()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
    copied = clone(vae)
    before, before_copy = snapshot(vae), snapshot(copied)
    SVI(copied.model, copied.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
    assert none_moved(before, vae)
    assert all_moved(before_copy, copied)


def test_loss_as_a_module_carries_all_parameters(x):
    vae = a_vae()
    loss = Trace_ELBO()(vae.model, vae.guide)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in vae.parameters()}
    before = snapshot(vae)
    optimizer = torch.optim.Adam(loss.parameters())
    loss(x).backward()
    optimizer.step()
    assert all_moved(before, vae)


def test_loss_as_a_module_is_safe_with_local_parameters(x):
    """Trap: module_local_params breaks SVI on plain parameters; the torch way works."""
    with pyro.settings.context(module_local_params=True):
        vae = a_vae()
        before = snapshot(vae)
        pv.fit(vae.model, vae.guide, x, num_epochs=1, progress=False)
        assert all_moved(before, vae)
        with pytest.raises(AttributeError, match="unconstrained"):
            SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)


def test_a_handler_around_a_program_loses_its_parameters_and_fit_says_so(x):
    """Trap: a Messenger around a module is a function."""
    vae = a_vae()
    loss = Trace_ELBO()(poutine.scale(vae.model, 0.5), vae.guide)
    assert len(list(loss.parameters())) < len(list(vae.parameters()))
    before = snapshot(vae)
    pv.fit(poutine.scale(vae.model, 0.5), vae.guide, x, num_epochs=1, progress=False)
    assert all_moved(before, vae)  # fit finds the parameters that the programs meet as they run


def test_svi_step_under_no_grad_is_no_evaluation(x):
    """Trap: it still moves the weights, by the momentum of earlier steps; evaluate_loss does not."""
    vae = a_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    svi.step(x)
    before = snapshot(vae)
    svi.evaluate_loss(x)
    pv.evaluate(vae.model, vae.guide, x, num_samples=5, progress=False)
    pv.log_weights(vae.model, vae.guide, x)
    assert none_moved(before, vae)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_generates(parallel):
    vae = a_vae()
    draws = Predictive(vae.model, num_samples=3, parallel=parallel)(size=8)
    assert draws["x"].reshape(3, 8, FEATURES).shape == (3, 8, FEATURES)
    assert draws["z"].reshape(3, 8, LATENTS).shape == (3, 8, LATENTS)


def test_predictive_draws_latents_from_the_guide(x):
    vae = a_vae()
    draws = Predictive(vae.model, guide=vae.guide, num_samples=500, parallel=True)(x)
    found = draws["z"].reshape(500, 20, LATENTS).mean(0)
    q = vae.encode(x)
    assert ((found - q.mean).abs() < 5 * q.stddev / 500**0.5).all()


def test_condition_and_replay(x):
    vae = a_vae()
    z = torch.randn(20, LATENTS)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(x)
    expected = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    torch.testing.assert_close(trace.log_prob_sum(), expected.sum())
    guide_trace = poutine.trace(vae.guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(x)
    assert torch.equal(replayed.nodes["z"]["value"], guide_trace.nodes["z"]["value"])


def test_nuts_samples_the_posterior(x):
    vae = a_vae()
    mcmc = MCMC(NUTS(vae.model), num_samples=20, warmup_steps=10, disable_progbar=True)
    mcmc.run(x[:3])
    assert mcmc.get_samples()["z"].shape == (20, 3, LATENTS)


def test_autonormal_serves_as_a_guide(x):
    vae = a_vae()
    guide = AutoNormal(vae.model)
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20])


def test_full_data_scale_by_subsampling_handlers(x):
    """A scale handler multiplies the loss, as Pyro users expect of a plate's N/B."""
    vae = a_vae()
    losses = []
    for factor in (1.0, 5.0):
        pyro.set_rng_seed(0)
        model, guide = (poutine.scale(program, factor) for program in (vae.model, vae.guide))
        losses.append(Trace_ELBO().loss(model, guide, x))
    assert losses[1] == pytest.approx(5 * losses[0], rel=1e-5)


@pytest.mark.parametrize("part", ["prior", "likelihood", "guide"])
def test_a_part_swapped_after_a_step_is_trained_too(part, x):
    """Trap: the store would give the new part's names the old parameters, and the new ones never move."""
    vae, twin = a_vae("normal"), a_vae("normal")
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    SVI(vae.model, vae.guide, optimizer, Trace_ELBO()).step(x)
    setattr(vae, part, getattr(twin, part) if part != "guide" else twin.guide.part)
    before = snapshot(vae)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all_moved(before, vae)


@pytest.mark.parametrize("guide", ["straight_bits", "straight_one_hots"])
def test_straight_through_sites_are_drawn_under_enumeration(guide):
    """Trap: Pyro enumerates a site with pathwise gradients too, and then leaves out the weights."""
    x = binary(20)
    vae = a_vae("bernoulli" if "bits" in guide else "categorical", "bernoulli", guide)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.warns(UserWarning, match="no sample sites configured for enumeration"):
        drawn = [loss.loss(vae.model, config_enumerate(vae.guide), x) for _ in range(200)]
    inner = vae.guide.part.guide
    vae.guide = inner
    exact = loss.loss(vae.model, config_enumerate(vae.guide), x)
    drawn = torch.tensor(drawn)
    assert abs(drawn.mean() - exact) < 4.5 * drawn.std() / 200**0.5


@pytest.mark.parametrize("prior", ["maf", "vamp", "gaussian_mixture", "relaxed"])
def test_a_prior_says_its_support_to_mcmc(prior, x):
    vae = a_vae(prior, guide="relaxed" if prior == "relaxed" else "normal")
    kernel = NUTS(vae.model, max_tree_depth=2)
    mcmc = MCMC(kernel, num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(x[:3])
    assert mcmc.get_samples()["z"].shape == (2, 3, LATENTS)
