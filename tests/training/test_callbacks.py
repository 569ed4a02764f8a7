"""KeepBest: the epoch with the best validation ELBO, and its weights to the bit."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary
from torch import nn

import pyrovae as pv
from pyrovae.objectives import ELBO, kl_weight

RATES = [3e-3, 3e-3, 0.3, 1e-3]


class Spoiling:
    """Raises the learning rate in the third epoch so far that the fit is lost."""

    def __init__(self):
        self.snapshots = []

    def __call__(self, training):
        self.snapshots.append({k: v.clone() for k, v in training.model.state_dict().items()})
        training.optimizer.param_groups[0]["lr"] = RATES[min(training.epoch + 1, 3)]


def test_restores_the_weights_of_the_best_epoch():
    vae, x = a_vae(), binary(200)
    best, spoiling = pv.KeepBest(), Spoiling()
    history = pv.fit(
        vae.model,
        vae.guide,
        x,
        loss=ELBO(terms=[kl_weight(0.1)]),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATES[0]),
        num_epochs=4,
        validation=x,
        callbacks=[best, spoiling],
        progress=False,
    )
    assert best.elbo == max(history.validation_elbo) > history.validation_elbo[-1]
    assert best.epoch == history.validation_elbo.index(best.elbo) < 3
    best.restore()
    kept = spoiling.snapshots[best.epoch]
    assert all(torch.equal(value, kept[name]) for name, value in vae.model.state_dict().items())


def test_stops_when_patience_is_out():
    vae, x = a_vae(), binary(20)
    still = torch.optim.SGD(vae.parameters(), lr=0.0)  # the same noise at every epoch: the first is best
    best = pv.KeepBest(patience=2)
    arguments = {"optimizer": still, "validation": x, "callbacks": [best], "progress": False}
    assert len(pv.fit(vae.model, vae.guide, x, num_epochs=20, **arguments)) == 3
    assert best.epoch == 0


def test_keeps_running_statistics_and_parameters_of_plain_functions():
    weight, norm, x = nn.Parameter(torch.zeros(())), nn.BatchNorm1d(1), torch.randn(50, 1) + 3

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.norm(x), 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + weight, 1.0).to_event(1), obs=x)

    best, seen = pv.KeepBest(), []

    def spoil(training):
        seen.append((weight.item(), norm.running_mean.item()))
        training.optimizer.param_groups[0]["lr"] = 50.0

    pv.fit(model, Guide(), x, num_epochs=2, validation=x, callbacks=[best, spoil], progress=False)
    assert best.epoch == 0
    best.restore()
    assert (weight.item(), norm.running_mean.item()) == seen[0] != seen[1]


def test_says_what_is_missing():
    vae, x = a_vae(), binary(20)
    with pytest.raises(ValueError, match="KeepBest: there is no validation ELBO: pass fit validation data"):
        pv.fit(vae.model, vae.guide, x, num_epochs=1, callbacks=[pv.KeepBest()], progress=False)
    with pytest.raises(RuntimeError, match="nothing to restore"):
        pv.KeepBest().restore()
    with pytest.raises(ValueError, match="patience is 0"):
        pv.KeepBest(patience=0)
