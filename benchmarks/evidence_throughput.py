"""Importance draws per second: pythae, plain PyTorch, pyrovae in both precisions, and the floor.

    python benchmarks/evidence_throughput.py [--draws 5000] [--images 64] [--rounds 3] [--device cuda]
                                             [--latents 16] [--hidden 512] [--activation ReLU]
                                             [--pythae PYTHON] [--only NAME ...] [--check FOLDER]
                                             [--json runs/evidence_throughput.json]

One network for all: an MLP decoder, latents to 784 logits, and its mirror as encoder, untrained. Each
contestant estimates log p(x) of the same images with K draws a datum; they take turns within one process
(pythae in one of its own, which waits for its turn), and the table has medians and their ratios. The floor is
the decoder's matrix products by themselves, on as many rows at once. pythae needs an environment of its own
(`python -m venv pythae; pythae/bin/pip install pythae`), and is left out without one. With --check, log p(x)
of the run in that folder in bfloat16 is held against float32.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors

FEATURES, ROWS = 784, 8192
"""Rows are what the decoder sees at once on a CPU; on a GPU 2**19."""

Way = Callable[[], Tensor]


def a_vae(latents: int, hidden: list[int], activation: str, device: str) -> pv.VAE:
    torch.manual_seed(0)
    between = getattr(torch.nn, activation)
    encoder = networks.MLP(FEATURES, 2 * latents, hidden=hidden, activation=between)
    decoder = networks.MLP(latents, FEATURES, hidden=hidden[::-1], activation=between)
    vae = pv.VAE(priors.StandardNormal(latents), likelihoods.Bernoulli(decoder), guides.Normal(encoder))
    return vae.to(device)


def plain_pytorch(vae: pv.VAE, x: Tensor, draws: int, rows: int, *, compiled: bool) -> Way:
    encoder, decoder = vae.guide.part.net, vae.likelihood.net

    def weigh(x: Tensor, loc: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        z = loc + scale * noise
        logits = decoder(z)
        log_likelihood = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
            -1
        )
        return log_likelihood + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)

    if compiled:
        weigh = torch.compile(weigh, mode="reduce-overhead" if x.is_cuda else None)

    @torch.no_grad()
    def way() -> Tensor:
        found = []
        for image in x.split(64):
            loc, log_variance = encoder(image).chunk(2, -1)
            scale, at_once = (log_variance / 2).exp(), rows // len(image)
            weights = [
                weigh(image, loc, scale, torch.randn(at_once, *loc.shape, device=x.device)).double()
                for _ in range(-(-draws // at_once))
            ]
            found.append(torch.cat(weights)[:draws].logsumexp(0) - math.log(draws))
        return torch.cat(found)

    return way


def ours(vae: pv.VAE, x: Tensor, draws: int, **keywords: object) -> Way:
    return lambda: (
        pv.evaluate(vae.model, vae.guide, x, num_samples=draws, progress=False, **keywords).log_evidence
    )


def floor(vae: pv.VAE, x: Tensor, draws: int, rows: int, dtype: torch.dtype) -> Way:
    layers = [layer for layer in vae.likelihood.net.layers if isinstance(layer, torch.nn.Linear)]
    weights = [layer.weight.detach().to(dtype).T for layer in layers]
    inputs = [torch.randn(rows, weight.shape[0], device=x.device, dtype=dtype) for weight in weights]

    @torch.no_grad()
    def way() -> Tensor:
        for _ in range(-(-draws * len(x) // rows)):
            for each, weight in zip(inputs, weights, strict=True):
                product = each @ weight
        return product

    return way


class Pythae:
    """get_nll of pythae on a network of the same widths, in a process of its own."""

    CODE = """
import sys, time, torch
from pythae.models import VAE, VAEConfig
latents, draws, images = map(int, sys.argv[1:4])
torch.manual_seed(0)
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=latents, reconstruction_loss="bce")).eval()
x = torch.bernoulli(torch.full((images, 1, 28, 28), 0.2))
for line in sys.stdin:
    started = time.perf_counter()
    with torch.no_grad():
        model.get_nll(x, n_samples=draws, batch_size=int(line))
    print(time.perf_counter() - started, flush=True)
"""

    def __init__(self, python: str, latents: int, draws: int, images: int) -> None:
        command = [python, "-c", self.CODE, str(latents), str(draws), str(images)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def turn(self, batch_size: int) -> float:
        """Seconds of one estimate."""
        self.process.stdin.write(f"{batch_size}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def timed(way: Way, device: str) -> float:
    started = time.perf_counter()
    way()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def check(folder: Path, device: str) -> None:
    """The difference that a precision makes to log p(x) of a trained run."""
    vae, x = pv.load(folder).to(device), pv.datasets.load("mnist-mini").test

    def log_evidence(precision: str) -> Tensor:
        found = pv.evaluate(
            vae.model, vae.guide, x, num_samples=1000, precision=precision, device=device, progress=False
        )
        return found.log_evidence

    exact = log_evidence("float32")
    print(f"{folder}: log p(x) {exact.mean():.3f}")
    for precision in ("tf32", "bfloat16") if device == "cuda" else ("bfloat16",):
        off = log_evidence(precision) - exact
        rms = off.square().mean().sqrt()
        print(f"in {precision} {off.mean():+.4f} nats, root mean square over {len(off):,} data {rms:.3f}")


def main() -> None:
    """Let the contestants take turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512])
    parser.add_argument("--activation", default="ReLU", help="a module of torch.nn, such as Tanh")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pythae")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--check", type=Path)
    parser.add_argument("--json", type=Path, default=Path("runs/evidence_throughput.json"))
    arguments = parser.parse_args()
    device, draws = arguments.device, arguments.draws
    rows = 2**19 if device == "cuda" else ROWS
    vae = a_vae(arguments.latents, arguments.hidden, arguments.activation, device)
    x = torch.bernoulli(torch.full((arguments.images, FEATURES), 0.2, device=device))
    ways: dict[str, Way] = {
        "plain PyTorch, eager": plain_pytorch(vae, x, draws, rows, compiled=False),
        "plain PyTorch, compiled": plain_pytorch(vae, x, draws, rows, compiled=True),
        "pyrovae, eager": ours(vae, x, draws),
        "pyrovae, compiled": ours(vae, x, draws, compile=True),
        "pyrovae, compiled, tf32": ours(vae, x, draws, compile=True, precision="tf32"),
        "pyrovae, compiled, bfloat16": ours(vae, x, draws, compile=True, precision="bfloat16"),
        "floor: products, float32": floor(vae, x, draws, rows, torch.float32),
        "floor: products, bfloat16": floor(vae, x, draws, rows, torch.bfloat16),
    }
    if device == "cpu":
        del ways["pyrovae, compiled, tf32"]  # which a CPU does not have
    if arguments.only:
        ways = {name: way for name, way in ways.items() if name in arguments.only}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # compiles, and warms up
    pythae = None
    if arguments.pythae:
        pythae = Pythae(arguments.pythae, arguments.latents, draws, arguments.images)
        seconds = {"pythae get_nll": [], **seconds}
        pythae.turn(500)
    for _ in range(arguments.rounds):
        if pythae is not None:
            seconds["pythae get_nll"].append(pythae.turn(500))
        for name, way in ways.items():
            seconds[name].append(timed(way, device))
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(
        f"{name}, torch {torch.__version__}: {arguments.images} images x {draws:,} draws, decoder "
        f"{arguments.latents}-{'-'.join(map(str, arguments.hidden[::-1]))}-{FEATURES}"
    )
    if pythae is None:
        print("pythae: left out, name its python by --pythae")
    total = arguments.images * draws
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = medians.get("floor: products, float32", min(medians.values()))
    print(f"\n{'':<30}{'draws per second':>18}{'seconds':>10}{'of the floor':>14}")
    for name, median in medians.items():
        print(f"{name:<30}{total / median:>18,.0f}{median:>10.2f}{base / median:>14.2f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    said = {"machine": name, "torch": torch.__version__, "draws": total, "seconds": seconds}
    arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    if arguments.check:
        check(arguments.check, device)


if __name__ == "__main__":
    main()
