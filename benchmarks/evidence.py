"""Nats of error against seconds: importance sampling, more draws where needed, better proposals, annealing.

    python benchmarks/evidence.py [--epochs 40] [--rows 100] [--temperatures 1000] [--reference 2000]
                                  [--folder runs/evidence]

One trained model, the first contestant of benchmarks/parts.py, and the first rows of mnist-mini's test set.
Nobody knows its log p(x); the reference is annealing with more temperatures than any contestant's, and its
own standard error, and the gap of bidirectional Monte Carlo on as many data of the model's own, say how far
it can be trusted. The trained model and the reference are kept in the folder. The last lines say what
draws where they are needed save: against as many for every row as the hardest row got.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from parts import BASELINE, PRIORS, train, with_prior
from torch import Tensor

import pyrovae as pv
from pyrovae import guides

CHAINS = 16


def a_model(folder: Path, epochs: int) -> pv.VAE:
    """Trained once, and kept."""
    digits = pv.datasets.load("mnist-mini")
    vae = with_prior(PRIORS[BASELINE], digits)
    if (folder / "model").exists():
        return pv.load(folder / "model", vae)
    train(vae, vae.parameters(), digits, epochs)
    pv.save(vae, folder / "model")
    return vae


def contestants(vae: pv.VAE, temperatures: int) -> dict[str, Callable[[Tensor], pv.Evaluation]]:
    """Each gives a result for some rows."""
    refined = pv.VAE(vae.prior, vae.likelihood, vae.guide)
    refined.guide = guides.Refined(vae.guide, vae.model, 20)
    wide = pv.VAE(vae.prior, vae.likelihood, guides.Widened(refined.guide.part, 1.2))

    def by(guide: torch.nn.Module, **keywords: object) -> Callable[[Tensor], pv.Evaluation]:
        return lambda x: pv.evaluate(vae.model, guide, x, progress=False, **keywords)

    return {
        "guide, 1,000 draws": by(vae.guide, num_samples=1000),
        "guide, 16,000 draws": by(vae.guide, num_samples=16_000),
        "guide, to 0.05 nats": by(vae.guide, num_samples=1000, target_se=0.05, max_samples=16_000),
        "refined, 1,000 draws": by(refined.guide, num_samples=1000),
        "refined and widened, 1,000": by(wide.guide, num_samples=1000),
        "refined, to 0.05 nats": by(refined.guide, num_samples=1000, target_se=0.05, max_samples=64_000),
        f"annealed, {temperatures // 10:,}": by(
            vae.guide, method="ais", num_samples=CHAINS, num_temperatures=temperatures // 10
        ),
        f"annealed, {temperatures:,}": by(
            vae.guide, method="ais", num_samples=CHAINS, num_temperatures=temperatures
        ),
    }


def figure(rows: list[tuple[str, float, float]], path: Path) -> None:
    """Error against time, both in logarithms."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    for (name, seconds, error), mark in zip(rows, "osD^v<>P", strict=True):
        axes.loglog(
            seconds, error, mark, color="#0072B2" if "annealed" not in name else "#D55E00", label=name
        )
    axes.set(xlabel="seconds", ylabel="nats from the reference, root mean square")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8)
    drawing.savefig(path, dpi=150)


def main() -> None:
    """Evaluate the same rows by every contestant, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    vae = a_model(arguments.folder, arguments.epochs)
    x = pv.datasets.load("mnist-mini").test[: arguments.rows]
    results, seconds = {}, {}
    for name, evaluate in contestants(vae, arguments.temperatures).items():
        started = time.perf_counter()
        results[name] = evaluate(x)
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    path = arguments.folder / f"reference-{arguments.reference}-{arguments.rows}.nc"
    if not path.is_file():
        annealed = {
            "method": "ais",
            "num_samples": CHAINS,
            "num_temperatures": arguments.reference,
            "seed": 1,
        }
        pv.evaluate(vae.model, vae.guide, x, progress=False, **annealed).save(path)
    reference = pv.Evaluation.load(path)
    bounds = pv.bdmc(
        vae.model, vae.guide, x, num_samples=CHAINS, num_temperatures=arguments.temperatures, seed=2
    )
    known = reference.standard_error.norm() / len(x) ** 0.5
    print(f"mnist-mini test, {len(x)} rows")
    print(
        f"reference {reference.log_evidence.mean():.2f}, {CHAINS} chains of {arguments.reference:,} "
        f"temperatures, known to {known:.2f} a row"
    )
    gap = bounds.gap
    print(
        f"on {len(x)} data of its own, {arguments.temperatures:,} temperatures: bounds {gap.mean():.2f} ± "
        f"{gap.std() / len(gap) ** 0.5:.2f} nats apart"
    )
    columns = (
        f"{'log p(x)':>9}{'difference':>17}{'r.m.s.':>8}{'claimed':>9}{'draws':>9}{'k-hat < 0.7':>13}{'s':>6}"
    )
    print(f"\n{'':<28}{columns}")
    table = []
    for name, result in results.items():
        off = result.log_evidence - reference.log_evidence
        table.append((name, seconds[name], off.square().mean().sqrt().item()))
        print(
            f"{name:<28}{result.log_evidence.mean():>9.2f}"
            f"{f'{off.mean():+.3f} ± {off.std() / len(off) ** 0.5:.3f}':>17}{table[-1][2]:>8.2f}"
            f"{result.standard_error.norm() / len(x) ** 0.5:>9.2f}{result.draws.mean():>9,.0f}"
            f"{(result.khat < 0.7).double().mean():>13.0%}{seconds[name]:>6.0f}"
        )
    for name in ("guide, to 0.05 nats", "refined, to 0.05 nats"):
        result = results[name]
        reached = (result.standard_error <= 0.05).double().mean()
        share = result.draws.sum() / (len(x) * result.draws.max())
        print(f"{name}: {reached:.0%} of the rows are there, with {share:.0%} of the draws of an even spread")
    figure(table, arguments.folder / "evidence.png")


if __name__ == "__main__":
    main()
