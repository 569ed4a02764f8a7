"""One training step of an MLP VAE (784-400-50, batch 128): plain PyTorch, stock Pyro SVI, pyrovae's fit.

    python benchmarks/step.py [rounds]

The contestants take turns within one process, a few steps each, so that a change of the machine's speed
meets them all. Quote the ratios of the medians: absolute times differ between machines and days.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.metering import Meter
from pyrovae.training import _step

LATENTS, FEATURES, HIDDEN, BATCH, STEPS = 50, 784, [400], 128, 5


def a_vae() -> pv.VAE:
    return pv.VAE(
        priors.StandardNormal(LATENTS),
        likelihoods.Bernoulli(networks.MLP(LATENTS, FEATURES, hidden=HIDDEN)),
        guides.Normal(networks.MLP(FEATURES, 2 * LATENTS, hidden=HIDDEN)),
    )


def plain_pytorch(x: torch.Tensor) -> Callable[[], object]:
    vae = a_vae()
    encoder, decoder = vae.guide.part.net, vae.likelihood.net
    optimizer = torch.optim.Adam(vae.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loc, log_variance = encoder(x).chunk(2, -1)
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        reconstruction = binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
        (reconstruction + kl).backward()
        optimizer.step()

    return step


def stock_pyro(x: torch.Tensor, validate: bool) -> Callable[[], object]:
    vae = a_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())

    def step() -> None:
        with pyro.validation_enabled(validate):
            svi.step(x)

    return step


def fit_step(x: torch.Tensor) -> Callable[[], object]:
    vae = a_vae()
    meter = Meter(vae.model, vae.guide, Trace_ELBO())
    parameters = meter.parameters((x,))
    optimizer = torch.optim.Adam(parameters)
    return lambda: _step(meter, optimizer, parameters, (x,), where="")


def main() -> None:
    """Take turns, print medians and ratios."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    x = torch.bernoulli(torch.full((BATCH, FEATURES), 0.3))
    contestants = {
        "plain PyTorch, eager": plain_pytorch(x),
        "stock Pyro SVI, validation off": stock_pyro(x, validate=False),
        "stock Pyro SVI": stock_pyro(x, validate=True),
        "pyrovae fit": fit_step(x),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 2):
        for name, step in contestants.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if round_ >= 2:  # the first two warm up
                times[name].append((time.perf_counter() - start) / STEPS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    plain = medians["plain PyTorch, eager"]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'one training step':<34}{'ms':>8}{'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:<34}{1e3 * median:>8.2f}{median / plain:>8.2f}")


if __name__ == "__main__":
    main()
