"""fit: the steps of stock SVI, the same run from the same seed, and an error for each bad start."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, a_vae
from helpers import all_moved, none_moved, snapshot
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, Subset

import pyrovae as pv
from pyrovae.core.random import stream
from pyrovae.data.batches import batches


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((50, FEATURES), 0.4))


def fit(vae, data, **keywords):
    return pv.fit(vae.model, vae.guide, data, **{"num_epochs": 2, "progress": False, **keywords})


def weights_of(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


class Recording(Trace_ELBO):
    """Trace_ELBO that notes each loss it gave; fit's first call only looks for the parameters."""

    def __init__(self, **keywords) -> None:
        super().__init__(**keywords)
        self.losses = []

    def differentiable_loss(self, *args, **kwargs):
        loss = super().differentiable_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def test_every_loss_is_that_of_stock_svi(x):
    ours, theirs = a_vae(), a_vae()
    theirs.load_state_dict(ours.state_dict())
    recording = Recording()
    fit(ours, x, loss=recording, num_epochs=3, batch_size=16, seed=7)

    svi = SVI(theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    losses = []
    for epoch in range(3):
        with stream("train", 7, epoch):
            for batch in batches(x, 16, "train", 7, epoch, shuffle=True):
                losses.append(svi.step(*batch))
    assert len(losses) == 3 * 4
    assert recording.losses[1:] == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(weights_of(ours), weights_of(theirs))


@pytest.mark.parametrize("loss", [TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO])
def test_losses_without_a_graph_of_their_own_train_as_in_svi(loss, x):
    """Pyro's RenyiELBO and TraceGraph_ELBO are no modules; fit takes them all the same."""
    ours, theirs = a_vae(), a_vae()
    theirs.load_state_dict(ours.state_dict())
    history = fit(ours, x, loss=loss(), num_epochs=2, batch_size=50, seed=7, validation=x)
    svi = SVI(theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss())
    losses = []
    for epoch in range(2):
        with stream("train", 7, epoch):
            losses += [svi.step(*batch) / 50 for batch in batches(x, 50, "train", 7, epoch, shuffle=True)]
    assert history.loss == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights_of(ours), weights_of(theirs))
    assert all(math.isfinite(value) for value in history.validation_elbo)


class LearnedNormal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full((LATENTS,), 2.0))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


def test_history_is_of_the_parameters_that_the_batch_met(x):
    vae = pv.VAE(LearnedNormal(), LIKELIHOODS["bernoulli"].make(), a_vae().guide.part)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=1e-3)  # noqa: E731
    history = fit(vae, x, optimizer=sgd, num_epochs=3)
    assert history.elbo == pytest.approx([-loss for loss in history.loss], rel=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(x):
    start = a_vae().state_dict()
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        vae = a_vae()
        vae.load_state_dict(start)
        torch.rand(3)  # the state of torch's own generator is nothing to fit
        found[name] = fit(vae, x, seed=seed, validation=x), weights_of(vae)
    assert torch.equal(found["a"][1], found["b"][1])
    assert found["a"][0].elbo == found["b"][0].elbo
    assert found["a"][0].validation_elbo == found["b"][0].validation_elbo
    assert not torch.equal(found["a"][1], found["c"][1])


def test_the_same_seed_gives_the_same_run_on_redrawn_data():
    digits = pv.datasets.load("mnist-mini")
    split = pv.datasets.Split(digits.train.values[:200], scale=255, redraw=True)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(pv.networks.MLP(2, 784)),
            pv.guides.Normal(pv.networks.MLP(784, 4)),
        )
        runs.append(fit(vae, split).elbo)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: Subset(s, range(100)), lambda s: DataLoader(s, 50, shuffle=True)]
)
def test_the_same_seed_gives_the_same_run_through_subsets_and_loaders(wrap):
    split = pv.datasets.Split(torch.full((200, FEATURES), 128, dtype=torch.uint8), scale=255, redraw=True)
    start, runs = a_vae().state_dict(), []
    before = torch.get_rng_state()
    for _ in range(2):
        vae = a_vae()
        vae.load_state_dict(start)
        torch.set_rng_state(before)
        runs.append(fit(vae, wrap(split)).elbo)
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0] == runs[1]


def test_data_are_redrawn_every_epoch():
    seen = []

    def model(x):
        seen.append(x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(probs.clamp(0.01, 0.99)).to_event(1), obs=x)

    probs = nn.Parameter(torch.full((4,), 0.5))
    split = pv.datasets.Split(torch.full((100, 4), 128, dtype=torch.uint8), scale=255, redraw=True)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.probs = probs

        def forward(self, x):
            return model(x)

    pv.fit(Module(), lambda x: None, split, num_epochs=2, batch_size=100, progress=False)
    _, first, second = seen
    assert not torch.equal(first, second)
    assert {*first.unique().tolist()} == {0.0, 1.0}


def test_callers_random_state_is_left_alone(x):
    vae = a_vae()
    before = torch.get_rng_state()
    fit(vae, x, validation=x)
    assert torch.equal(torch.get_rng_state(), before)


def test_history_is_the_elbo_and_its_parts(x):
    vae = a_vae()
    recording = Recording()
    history = fit(vae, x, loss=recording, num_epochs=4, batch_size=20, validation=x[:30])
    assert history.epoch == [0, 1, 2, 3]
    assert len(history) == 4
    per_epoch = torch.tensor(recording.losses[1:]).reshape(4, 3).sum(1) / 50
    assert history.loss == pytest.approx(per_epoch.tolist(), rel=1e-5)
    assert history.elbo == pytest.approx([-loss for loss in history.loss], rel=1e-5)
    for prefix in ("", "validation_"):
        bound, reconstruction, kl = (
            getattr(history, prefix + name) for name in ("elbo", "reconstruction", "kl")
        )
        assert bound == pytest.approx([r - k for r, k in zip(reconstruction, kl, strict=True)])
    assert history.learning_rate == [1e-3] * 4
    assert all(a < b for a, b in pairwise(history.seconds))


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(num_particles=3),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        TraceMeanField_ELBO(num_particles=2),
    ],
)
def test_history_is_the_plain_elbo_whatever_the_loss(loss, x):
    """At a learning rate of zero the columns estimate one number; log_weights knows it."""
    vae = a_vae()
    still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
    history = fit(vae, x, loss=loss, optimizer=still, num_epochs=40)
    with torch.no_grad():
        weights = pv.log_weights(vae.model, vae.guide, x, num_samples=2000).mean(1)
    found = torch.tensor(history.elbo)
    assert abs(found.mean() - weights.mean()) < 4 * found.std() / math.sqrt(40)


def test_validation_elbo_is_that_of_evaluate(x):
    vae = a_vae()
    many = x.repeat(100, 1)
    history = fit(vae, x, validation=many, num_epochs=1)
    result = pv.evaluate(vae.model, vae.guide, x, num_samples=2000, progress=False)
    error = 4 * result.elbo_error.mean() * math.sqrt(2000) / math.sqrt(len(many))
    assert abs(history.validation_elbo[-1] - result.elbo.mean()) < error
    assert abs(history.validation_kl[-1] - result.kl.mean()) < error


def test_callbacks_see_each_epoch_and_can_stop(x):
    seen = []

    def stop_at_third(training):
        seen.append((training.epoch, len(training.history)))
        return training.epoch == 2

    history = fit(a_vae(), x, num_epochs=10, callbacks=[lambda training: None, stop_at_third])
    assert seen == [(0, 1), (1, 2), (2, 3)]
    assert len(history) == 3


def test_an_optimiser_and_its_schedule_are_torchs_own(x):
    vae = a_vae()
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = fit(vae, x, optimizer=optimizer, num_epochs=3, callbacks=[lambda _: schedule.step()])
    assert history.learning_rate == pytest.approx([0.1, 0.05, 0.025])


def test_modules_return_to_their_own_mode(x):
    vae = a_vae()
    vae.likelihood.net.layers.append(nn.Dropout(0.5))
    vae.eval()
    modes = []
    vae.likelihood.net.layers[-1].register_forward_hook(lambda module, *_: modes.append(module.training))
    fit(vae, x, num_epochs=1, validation=x)
    assert modes[1] is True
    assert modes[-1] is False
    assert not vae.training


def test_a_guide_is_trained_for_a_model_that_stands_still(x):
    vae = a_vae()
    vae.model.requires_grad_(False)
    before, still = snapshot(vae.guide), snapshot(vae.model)
    pv.fit(vae.model, vae.guide, x, num_epochs=1, progress=False)  # and Pyro's warning of it is not passed on
    assert all_moved(before, vae.guide)
    assert none_moved(still, vae.model)
