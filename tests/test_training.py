"""fit: the steps of stock SVI, the same run from the same seed, and an error for each bad start."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LIKELIHOODS, PRIORS, a_vae
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.batching import batches
from pyrovae.streams import generator, stream
from pyrovae.testing import LinearGaussian
from pyrovae.training import NOISE, ORDER


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
        with stream(7, epoch, NOISE):
            for batch in batches(x, 16, order=generator(7, epoch, ORDER)):
                losses.append(svi.step(*batch))
    assert len(losses) == 3 * 4
    assert recording.losses[1:] == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(weights_of(ours), weights_of(theirs))


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


def test_linear_model_reaches_the_maximum_likelihood_of_probabilistic_pca():
    """A linear VAE's optimum is that of probabilistic PCA (Tipping and Bishop), known exactly."""
    oracle = LinearGaussian(torch.randn(5, 2), noise=0.5)
    x = oracle.sample(2000)
    covariance = torch.cov(x.T, correction=0)
    variances = torch.linalg.eigvalsh(covariance)
    noise = variances[:3].mean()
    optimum = -0.5 * (5 * math.log(2 * math.pi) + variances[3:].log().sum() + 3 * noise.log() + 5)

    class Likelihood(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 5)
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return dist.Normal(self.net(z), self.log_scale.exp()).to_event(1)

    class Posterior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5, 2)
            self.scale_tril = nn.Parameter(0.3 * torch.eye(2))

        def forward(self, x):
            return dist.MultivariateNormal(self.net(x), scale_tril=self.scale_tril.tril())

    vae = pv.VAE(pv.priors.StandardNormal(2), Likelihood(), Posterior())
    adam = lambda parameters: torch.optim.Adam(parameters, lr=1e-2)  # noqa: E731
    fit(vae, x, optimizer=adam, num_epochs=60, batch_size=200)
    result = pv.evaluate(vae.model, vae.guide, x, num_samples=100, progress=False)
    assert result.log_evidence.mean().item() == pytest.approx(optimum.item(), abs=0.02)
    assert result.gap.mean() < 0.02


def test_any_data_are_taken_and_give_the_same_run(x):
    start = a_vae().state_dict()
    runs = {}
    for name, data in {
        "tensor": x,
        "tuple": (x,),
        "dataset": TensorDataset(x),
        "list of rows": list(x),
        "split": pv.datasets.Split(x),
    }.items():
        vae = a_vae()
        vae.load_state_dict(start)
        runs[name] = fit(vae, data).elbo
    for name, run in runs.items():
        assert run == runs["tensor"], name


def test_a_data_loader_keeps_its_own_batches(x):
    sizes = []
    vae = a_vae()

    class Noting(Trace_ELBO):
        def differentiable_loss(self, model, guide, x):
            sizes.append(len(x))
            return super().differentiable_loss(model, guide, x)

    fit(vae, DataLoader(TensorDataset(x), batch_size=30, shuffle=True), loss=Noting(), num_epochs=1)
    assert sizes[1:] == [30, 20]


def test_conditions_are_arguments_of_both_programs(x):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, FEATURES)

        def forward(self, x, y):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(y, 1).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(y, 1).to_event(1))

    sgd = lambda parameters: torch.optim.SGD(parameters, lr=1e-3)  # noqa: E731
    data = (x, torch.randn(50, 2))
    history = pv.fit(Model(), guide, data, optimizer=sgd, num_epochs=100, progress=False)
    # The ELBO gains about 0.7 and an epoch's noise is 0.05.
    assert sum(history.elbo[-10:]) / 10 > sum(history.elbo[:10]) / 10 + 0.2
    assert history.kl == pytest.approx([0.0] * 100, abs=1e-5)


def test_hand_written_functions_with_pyro_params_train():
    x = 3 + torch.randn(500)

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, scale))

    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.05)  # noqa: E731
    pv.fit(model, guide, x, optimizer=adam, num_epochs=80, progress=False)
    assert pyro.param("loc").item() == pytest.approx(x.mean().item(), abs=0.1)
    assert pyro.param("scale").item() == pytest.approx(math.sqrt(0.5), abs=0.1)


def test_parameters_made_at_the_first_run_are_found(x):
    vae = a_vae()
    guide = AutoNormal(vae.model)
    history = pv.fit(vae.model, guide, x, num_epochs=30, batch_size=50, progress=False)
    assert history.elbo[-1] > history.elbo[0]
    assert guide.locs.z.abs().max() > 0.01


def test_enumerated_sites_train_and_their_parts_are_unknown():
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([-1.0, 1.0]))

        @config_enumerate
        def forward(self, x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(torch.ones(2)))
                pyro.sample("x", dist.Normal(self.loc[k], 1.0), obs=x)

    x = torch.cat([torch.randn(100) - 4, torch.randn(100) + 4])
    mixture = Mixture()
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.1)  # noqa: E731
    history = pv.fit(
        mixture, lambda x: None, x, loss=TraceEnum_ELBO(), optimizer=adam, num_epochs=60, progress=False
    )
    assert mixture.loc.tolist() == pytest.approx([-4, 4], abs=0.3)
    assert history.elbo == pytest.approx([-loss for loss in history.loss])
    assert all(math.isnan(value) for value in history.reconstruction)


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


# ------------------------------------------------------------------------------ bad starts


def test_nothing_to_train_is_refused(x):
    def nothing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(torch.full((FEATURES,), 0.5)).to_event(1), obs=x)

    with pytest.raises(ValueError, match="no trainable parameter in model or guide"):
        pv.fit(nothing, lambda x: None, x, num_epochs=1, progress=False)


def test_nan_in_the_data_names_its_row(x):
    x[37, 2] = math.nan
    with pytest.raises(ValueError, match="NaN in row 37"):
        fit(a_vae(), x, batch_size=8)


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro's own, ahead of the error
def test_an_infinite_loss_stops_before_the_step_and_names_site_and_batch(x):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = LIKELIHOODS["bernoulli"]()
            self.calls = 0

        def forward(self, z):
            self.calls += 1
            p = self.net(z)
            if self.calls == 8:  # one call looks for the parameters, then 5 steps an epoch
                return dist.Bernoulli(logits=p.base_dist.logits * math.inf, validate_args=False).to_event(1)
            return p

    vae = pv.VAE(PRIORS["standard_normal"](), Broken(), a_vae().guide.part)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1: site 'x' of the model") as raised:
        fit(vae, x, batch_size=10)
    assert "\n" not in str(raised.value)
    assert weights_of(vae).isfinite().all()


@pytest.mark.parametrize(
    ("data", "keywords", "error", "message"),
    [
        (torch.zeros(0, FEATURES), {}, ValueError, "the set is empty"),
        (torch.zeros(3, FEATURES), {"num_epochs": 0}, ValueError, "num_epochs is 0: at least 1"),
        (torch.zeros(3, FEATURES), {"batch_size": 0}, ValueError, "batch_size is 0: at least 1"),
        ((torch.zeros(3, 1), torch.zeros(2, 1)), {}, ValueError, r"\[3, 2\] rows, expected equally many"),
        ("digits", {}, TypeError, "expected rows that are tensors, got"),
        (3, {}, TypeError, "expected a tensor, a tuple of tensors, a Dataset or a DataLoader"),
    ],
)
def test_bad_arguments_are_refused(data, keywords, error, message):
    with pytest.raises(error, match=message):
        fit(a_vae(), data, **keywords)


def test_one_row_trains():
    assert len(fit(a_vae(), torch.ones(1, FEATURES))) == 2


def test_interrupting_leaves_what_was_trained(x):
    vae = a_vae()
    before = weights_of(vae)

    def interrupt(training):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(vae, x, callbacks=[interrupt])
    assert not torch.equal(weights_of(vae), before)
