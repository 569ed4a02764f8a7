"""Which prior and which guide is better on real digits: equal networks, data and number of steps.

    python benchmarks/parts.py [--epochs 80] [--draws 1000] [--folder runs/parts] [--only NAME ...]

Each contestant changes one part of the same VAE (mnist-mini, dynamic binarisation, 16 latents, one
hidden layer of 400 each way, Adam at 3e-3 falling to 3e-4, seed 0) and is judged on the same test rows.
Differences are paired: per row, against the first line. Results are kept in the folder, and a
contestant found there is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import flows, guides, likelihoods, networks, priors

LATENTS, FEATURES, HIDDEN = 16, 784, 400
BASELINE = "standard normal prior, normal guide"


def encoder(outputs: int) -> nn.Module:
    return networks.MLP(FEATURES, outputs, hidden=[HIDDEN])


def with_prior(make: Callable[[nn.Module, Tensor], nn.Module]) -> Callable[[Tensor], pv.VAE]:
    """A VAE with this prior, made of the guide and some training rows, and the normal guide."""

    def build(rows: Tensor) -> pv.VAE:
        decoder = networks.MLP(LATENTS, FEATURES, hidden=[HIDDEN])
        q = guides.Normal(encoder(2 * LATENTS))
        return pv.VAE(make(q, rows), likelihoods.Bernoulli(decoder, data_mean=rows.mean(0)), q)

    return build


def with_guide(make: Callable[[], nn.Module]) -> Callable[[Tensor], pv.VAE]:
    """A VAE with the standard normal prior and this guide."""

    def build(rows: Tensor) -> pv.VAE:
        decoder = networks.MLP(LATENTS, FEATURES, hidden=[HIDDEN])
        likelihood = likelihoods.Bernoulli(decoder, data_mean=rows.mean(0))
        return pv.VAE(priors.StandardNormal(LATENTS), likelihood, make())

    return build


def full_rank() -> nn.Module:
    return guides.FullRankNormal(encoder(2 * LATENTS + LATENTS * (LATENTS - 1) // 2), LATENTS)


def mixture(components: int = 4) -> nn.Module:
    width = components * (1 + 2 * LATENTS)
    return guides.GaussianMixture(encoder(width), LATENTS, components=components)


def inverse_autoregressive(context: int = 32) -> nn.Module:
    flow = flows.IAF(LATENTS, context, transforms=2, hidden_features=(128,))
    return guides.Flow(encoder(context), flow)


CONTESTANTS: dict[str, Callable[[Tensor], pv.VAE]] = {
    BASELINE: with_prior(lambda q, rows: priors.StandardNormal(LATENTS)),
    "prior: mixture of 50 normals": with_prior(lambda q, rows: priors.GaussianMixture(LATENTS, 50)),
    "prior: VampPrior, 200 inputs": with_prior(lambda q, rows: priors.VampPrior(q, rows[:200])),
    "prior: MAF": with_prior(lambda q, rows: flows.MAF(LATENTS, transforms=2, hidden_features=(128,))),
    "prior: neural spline flow": with_prior(
        lambda q, rows: flows.NSF(LATENTS, transforms=2, bins=8, hidden_features=(128,))
    ),
    "guide: low-rank normal, rank 4": with_guide(
        lambda: guides.LowRankNormal(encoder(6 * LATENTS), LATENTS, rank=4)
    ),
    "guide: full-rank normal": with_guide(full_rank),
    "guide: mixture of 4 normals": with_guide(mixture),
    "guide: IAF": with_guide(inverse_autoregressive),
}


def run(build: Callable[[Tensor], pv.VAE], epochs: int, draws: int) -> pv.Evaluation:
    """Train and evaluate one contestant."""
    torch.manual_seed(0)
    digits = pv.datasets.load("mnist-mini")
    vae = build(digits.train[:1000])
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / epochs))
    pv.fit(
        vae.model,
        vae.guide,
        digits.train,
        num_epochs=epochs,
        optimizer=optimizer,
        callbacks=[lambda _: schedule.step()],
    )
    return pv.evaluate(vae.model, vae.guide, digits.test, num_samples=draws)


def table(results: dict[str, pv.Evaluation]) -> str:
    """Means with their errors, and paired differences from the first line."""
    first = next(iter(results.values()))
    said = first.conventions
    head = f"{said['dataset']} {said['split']}, {len(first):,} rows, binarisation {said['binarisation']}"
    lines = [f"{head}, K = {first.num_samples:,}, nats per datum"]
    lines.append(f"{'':<38}{'log p(x)':>9}{'difference':>16}{'gap':>7}{'draws':>7}{'k-hat<1':>9}")
    for name, result in results.items():
        difference = result.log_evidence - first.log_evidence
        error = difference.std() / len(difference) ** 0.5
        against = "" if result is first else f"{difference.mean():+.2f} ± {error:.2f}"
        lines.append(
            f"{name:<38}{result.log_evidence.mean():>9.2f}{against:>16}{result.gap.mean():>7.2f}"
            f"{result.ess.median():>7.0f}{(result.khat < 1).double().mean():>9.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, print the table of what is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("runs/parts"))
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in arguments.only:
        path = arguments.folder / f"{name.replace(' ', '-').replace(':', '').replace(',', '')}.nc"
        if not path.is_file():
            started = time.perf_counter()
            run(CONTESTANTS[name], arguments.epochs, arguments.draws).save(path)
            print(f"{name}: {time.perf_counter() - started:.0f} s")
        results[name] = pv.Evaluation.load(path)
    print(table(results))


if __name__ == "__main__":
    main()
