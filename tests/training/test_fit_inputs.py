"""fit takes any programs and any data, and says what is wrong with the rest."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, PRIORS, a_vae
from helpers import all_moved, snapshot
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal, AutoNormalMessenger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.data.batches import _send
from pyrovae.testing import LinearGaussian


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((50, FEATURES), 0.4))


def fit(vae, data, **keywords):
    return pv.fit(vae.model, vae.guide, data, **{"num_epochs": 2, "progress": False, **keywords})


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

    class RecordingClock(Trace_ELBO):
        def differentiable_loss(self, model, guide, x):
            sizes.append(len(x))
            return super().differentiable_loss(model, guide, x)

    fit(vae, DataLoader(TensorDataset(x), batch_size=30, shuffle=True), loss=RecordingClock(), num_epochs=1)
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


def test_parameters_in_closures_train_too(x):
    net = nn.Linear(LATENTS, FEATURES)
    likelihood = lambda z: dist.Bernoulli(logits=net(z)).to_event(1)  # noqa: E731
    vae = pv.VAE(PRIORS["standard_normal"].make(), likelihood, a_vae().guide.part)
    before = snapshot(net)
    fit(vae, x)
    assert all_moved(before, net)


def test_sequential_enumeration_leaves_its_parts_unknown(x):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([0.1, 0.2]))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pass
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(self.loc[k], 1.0), obs=x)

    def guide(x):
        pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "sequential"})

    history = pv.fit(Model(), guide, torch.randn(20), loss=TraceEnum_ELBO(), num_epochs=2, progress=False)
    assert history.elbo == pytest.approx([-loss for loss in history.loss])
    assert all(math.isnan(value) for value in history.kl)


def test_point_guides_and_global_latents_validate_as_they_train(x):
    vae = a_vae()
    guide = AutoDelta(vae.model)
    history = pv.fit(vae.model, guide, x, validation=x, num_epochs=2, batch_size=50, progress=False)
    assert len(history.validation_elbo) == 2


def test_running_statistics_count_each_batch_once(x):
    vae = a_vae()
    vae.likelihood.net.layers.append(nn.BatchNorm1d(FEATURES))
    fit(vae, x, num_epochs=1, batch_size=25)
    assert vae.likelihood.net.layers[-1].num_batches_tracked == 2


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


def test_an_infinite_loss_stops_before_the_step_and_names_site_and_batch(x):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = LIKELIHOODS["bernoulli"].make()
            self.calls = 0

        def forward(self, z):
            self.calls += 1
            p = self.net(z)
            if self.calls == 8:  # one call looks for the parameters, then 5 steps an epoch
                return dist.Bernoulli(logits=p.base_dist.logits * math.inf, validate_args=False).to_event(1)
            return p

    vae = pv.VAE(PRIORS["standard_normal"].make(), Broken(), a_vae().guide.part)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1: site 'x' of the model") as raised:
        fit(vae, x, batch_size=10)
    assert "\n" not in str(raised.value)
    assert all(p.isfinite().all() for p in vae.parameters())


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
    before = snapshot(vae)

    def interrupt(training):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(vae, x, callbacks=[interrupt])
    assert all_moved(before, vae)


def test_a_gradient_that_is_not_finite_is_named_before_the_step(x):
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(LATENTS, FEATURES)
            self.rate = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return dist.Bernoulli(logits=self.net(z) + self.rate.sqrt()).to_event(1)

    vae = pv.VAE(PRIORS["standard_normal"].make(), Root(), a_vae().guide.part)
    with pytest.raises(FloatingPointError, match=r"'likelihood.rate' is not finite at epoch 0, batch 0"):
        fit(vae, x)
    assert all(parameter.isfinite().all() for parameter in vae.parameters())


def test_optimisers_that_would_leave_something_untrained_are_refused(x):
    vae = a_vae()
    for optimizer, error, message in (
        (
            torch.optim.Adam(vae.guide.parameters()),
            ValueError,
            "does not hold 'likelihood.net.layers.0.weight'",
        ),
        (torch.optim.Adam(a_vae().parameters()), ValueError, "holds no parameter of model or guide"),
        (pyro.optim.Adam({"lr": 1e-2}), TypeError, "is one of Pyro's: pass torch's"),
    ):
        with pytest.raises(error, match=message):
            fit(vae, x, optimizer=optimizer)


def test_effect_guides_are_refused(x):
    vae = a_vae()
    with pytest.raises(ValueError, match=r"the guide is an effect handler: .* AutoNormal"):
        pv.fit(vae.model, AutoNormalMessenger(vae.model), x, num_epochs=1, progress=False)


def test_a_batch_goes_to_a_gpu_without_waiting_and_comes_back_only_once_it_is_there():
    here, there = Mock(device=torch.device("cpu")), Mock(device=torch.device("cuda"))
    assert _send(here, "cuda") is here.pin_memory.return_value.to.return_value
    here.pin_memory.return_value.to.assert_called_once_with("cuda", non_blocking=True)
    _send(there, "cpu")
    there.to.assert_called_once_with("cpu")  # without waiting it would be read before it came
    there.pin_memory.assert_not_called()
