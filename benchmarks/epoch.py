"""An epoch over 60,000 rows of 784 bits, everything included: plain PyTorch, stock Pyro, pyrovae, pythae.

    python benchmarks/epoch.py [--rows 60000] [--batch 128] [--hidden 512] [--latents 16] [--rounds 3]
                               [--pythae PYTHON] [--only NAME ...] [--json runs/epoch.json]

The contestants take turns, a round each. What is timed is an epoch as a user gets it: order, batches, steps
and what is kept of them. Plain PyTorch and stock Pyro draw their batches from a DataLoader, as their
tutorials do. pyrovae's time is that of the later epochs of one fit, by its history; what compiling took is
told beside it, since it is paid once a run. pythae trains by its own trainer, in a process of its own, in an
environment that holds it (`python -m venv pythae; pythae/bin/pip install pythae`), left out without one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors

FEATURES = 784
EPOCHS = 2
"""Of a fit, after the first, which compiles."""

PYTHAE = """
import sys, time, torch
from pythae.models import VAE, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.data.datasets import BaseDataset
rows, batch, latents, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
x = torch.bernoulli(torch.full((rows, 1, 28, 28), 0.2))
data = BaseDataset(x, torch.ones(rows))
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=latents, reconstruction_loss="bce"))
config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=batch, num_epochs=1, no_cuda=True)
trainer = BaseTrainer(model, train_dataset=data, training_config=config)
trainer.prepare_training()
for line in sys.stdin:
    started = time.perf_counter()
    trainer.train_step(epoch=1)
    print(time.perf_counter() - started, flush=True)
"""


def a_vae(latents: int, hidden: int) -> pv.VAE:
    torch.manual_seed(0)
    encoder = networks.MLP(FEATURES, 2 * latents, hidden=[hidden])
    decoder = networks.MLP(latents, FEATURES, hidden=[hidden])
    return pv.VAE(priors.StandardNormal(latents), likelihoods.Bernoulli(decoder), guides.Normal(encoder))


def plain_pytorch(vae: pv.VAE, x: Tensor, batch: int) -> Callable[[], float]:
    encoder, decoder = vae.guide.part.net, vae.likelihood.net
    optimizer = torch.optim.Adam(vae.parameters())
    loader = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True)

    def epoch() -> float:
        started, total = time.perf_counter(), 0.0
        for (rows,) in loader:
            loc, log_variance = encoder(rows).chunk(2, -1)
            z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
            loss = binary_cross_entropy_with_logits(decoder(z), rows, reduction="sum")
            loss = loss + 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return time.perf_counter() - started

    return epoch


def stock_pyro(vae: pv.VAE, x: Tensor, batch: int) -> Callable[[], float]:
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    loader = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True)

    def epoch() -> float:
        started, total = time.perf_counter(), 0.0
        with pyro.validation_enabled(False):
            for (rows,) in loader:
                total += svi.step(rows)
        return time.perf_counter() - started

    return epoch


def ours(
    vae: pv.VAE, x: Tensor, batch: int, compiling: list[float], **keywords: object
) -> Callable[[], float]:
    def epoch() -> float:
        history = pv.fit(
            vae.model, vae.guide, x, num_epochs=1 + EPOCHS, batch_size=batch, progress=False, **keywords
        )
        compiling.append(history.compile_seconds)
        return (history.seconds[-1] - history.seconds[0]) / EPOCHS

    return epoch


class Pythae:
    """Its trainer, in a process of its own that waits for its turn."""

    def __init__(self, python: str, rows: int, batch: int, latents: int) -> None:
        command = [python, "-c", PYTHAE, *map(str, (rows, batch, latents)), tempfile.mkdtemp()]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self) -> float:
        """Seconds of an epoch."""
        self.process.stdin.write("epoch\n")
        self.process.stdin.flush()
        while True:
            said = self.process.stdout.readline()
            try:
                return float(said)
            except ValueError:
                if not said:
                    raise RuntimeError("pythae ended without a word") from None


def main() -> None:
    """Let the contestants take turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pythae")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--json", type=Path, default=Path("runs/epoch.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((arguments.rows, FEATURES), 0.2))
    compiling: list[float] = []

    def vae() -> pv.VAE:
        return a_vae(arguments.latents, arguments.hidden)

    ways: dict[str, Callable[[], float]] = {
        "plain PyTorch, DataLoader": plain_pytorch(vae(), x, arguments.batch),
        "stock Pyro SVI, DataLoader": stock_pyro(vae(), x, arguments.batch),
        "pyrovae, eager": ours(vae(), x, arguments.batch, [], compile=False),
        "pyrovae, compiled": ours(vae(), x, arguments.batch, compiling, compile=True),
        "pyrovae, compiled, bfloat16": ours(
            vae(), x, arguments.batch, [], compile=True, precision="bfloat16"
        ),
    }
    if arguments.only:
        ways = {name: way for name, way in ways.items() if name in arguments.only}
    if arguments.pythae:
        ways["pythae"] = Pythae(arguments.pythae, arguments.rows, arguments.batch, arguments.latents)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(
        f"{machine}: an epoch of {arguments.rows:,} x {FEATURES}, batch {arguments.batch}, "
        f"{arguments.hidden} hidden"
    )
    if not arguments.pythae:
        print("pythae: left out, name its python by --pythae")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = next(iter(medians.values()))
    print(f"\n{'':<30}{'seconds':>10}{'to the first':>14}")
    for name, median in medians.items():
        print(f"{name:<30}{median:>10.2f}{median / base:>14.2f}")
    if compiling:
        print(f"compiling took {compiling[0]:.1f} s at first, {min(compiling):.1f} s from the cache")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
