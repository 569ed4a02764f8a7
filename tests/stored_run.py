"""The run in data/run_format_1, and how it was made, once for each format: python stored_run.py FOLDER."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, priors
from pyrovae.training.callbacks import Averaged, KeepBest


class CutError(Exception):
    """As a kill between two steps."""


def fit_the_stored_run(folder: Path, cut: int = 0):
    """Two epochs of 3 steps, on numbers that depend on no generator; cut in the given step, if any."""
    values = ((37 * torch.arange(28 * 3)) % 256).reshape(28, 3).to(torch.uint8)
    train = pv.datasets.Split(values[:20], scale=255, redraw=True)
    vae = pv.VAE(
        priors.GaussianMixture(2, 2),
        likelihoods.Bernoulli(networks.MLP(2, 3, hidden=[3])),
        guides.Normal(networks.MLP(3, 4, hidden=[3])),
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    best, averaged, steps = KeepBest(), Averaged(0.9), []

    class Cut:
        def __call__(self, training):
            pass

        def step(self, training):
            steps.append(1)
            if len(steps) == cut:
                raise CutError

    history = pv.fit(
        *(vae.model, vae.guide, train),
        loss=objectives.IWAE(2, terms=[objectives.kl_weight(objectives.warmup(9))]),
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1], 0.5),
        **{"clip": 5.0, "num_epochs": 2, "batch_size": 8, "validation": (values[20:] > 127).float()},
        **{"callbacks": [best, averaged, Cut()], "on_failure": "rollback", "seed": 5},
        **{"compile": False, "progress": False, "resume": folder, "checkpoint_every": 0.0},
    )
    return history, best, averaged


if __name__ == "__main__":
    torch.set_num_threads(1)
    made, scratch = Path(sys.argv[1]), Path(f"{sys.argv[1]}.whole")
    try:
        fit_the_stored_run(made, cut=5)
    except CutError:
        (made / "lock").unlink()
    history, best, averaged = fit_the_stored_run(scratch)
    shutil.rmtree(scratch)
    for old in sorted((made / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(old)
    said = {name: getattr(history, name) for name in ("elbo", "validation_elbo", "learning_rate")}
    said |= {"best": best.epoch, "averages": averaged._averages[0].flatten()[:3].tolist()}
    (made / "expected.json").write_text(json.dumps(said, indent=1) + "\n")
