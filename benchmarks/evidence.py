"""Nats of error against seconds: importance sampling, better proposals, draws where needed, annealing.

    python benchmarks/evidence.py [--epochs 40] [--rows 100] [--temperatures 1000] [--reference 50000]
                                  [--folder runs/evidence]

One trained model, the first contestant of benchmarks/parts.py, and the first rows of mnist-mini's test set.
Nobody knows its log p(x); the reference is a proposal fitted to each row, with more draws than any
contestant's. Annealing, which shares nothing with it but the model, has to agree, and the bounds of
bidirectional Monte Carlo on as many data of the model's own say what both may have missed. The trained model
is kept in the folder. The last lines say what draws where they are needed save: against as many for every
row as the hardest row got, and against as many of the guide's as its hardest row would need.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from parts import BASELINE, PRIORS, train, with_prior
from torch import Tensor

import pyrovae as pv
from pyrovae.evaluation import adaptive as adapting

CHAINS = 16
TARGET = 0.05


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

    def by(proposal: str | None = None, **keywords: object) -> Callable[[Tensor], pv.Evaluation]:
        return lambda x: pv.evaluate(vae.model, vae.guide, x, proposal=proposal, progress=False, **keywords)

    few, annealed = max(temperatures // 10, 1), {"method": "ais", "num_samples": CHAINS}
    target = {"num_samples": 250, "target_se": TARGET}
    return {
        "guide, 1,000 draws": by(num_samples=1000),
        "guide, 16,000 draws": by(num_samples=16_000),
        "guide, to 0.05 nats": by(**target, max_samples=64_000),
        "refined, 1,000 draws": by("refined", num_samples=1000),
        "refined, to 0.05 nats": by("refined", **target, max_samples=64_000),
        "adapted, 1,000 draws": by("adapted", num_samples=1000),
        "adapted, to 0.05 nats": by("adapted", **target, max_samples=64_000),
        f"annealed, {few:,}": by(**annealed, num_temperatures=few),
        f"annealed, {temperatures:,}": by(**annealed, num_temperatures=temperatures),
    }


class Counting:
    """The draws that fitting proposals scores, a row: they are no part of any result."""

    def __init__(self) -> None:
        self.draws = 0
        self.score = adapting._target

    def __enter__(self) -> Counting:
        def counted(path: object, z: Tensor) -> Tensor:
            self.draws += z.shape[0] * z.shape[1]
            return self.score(path, z)

        adapting._target = counted
        return self

    def __exit__(self, *error: object) -> None:
        adapting._target = self.score


def figure(rows: list[tuple[str, float, float]], path: Path) -> None:
    """Error against time, both in logarithms."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    colours = {"guide": "#0072B2", "refined": "#009E73", "adapted": "#000000", "annealed": "#D55E00"}
    for (name, seconds, error), mark in zip(rows, "osD^v<>P*", strict=True):
        axes.loglog(seconds, error, mark, color=colours[name.split(",")[0]], label=name)
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
    parser.add_argument("--reference", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    vae = a_model(arguments.folder, arguments.epochs)
    x = pv.datasets.load("mnist-mini").test[: arguments.rows]
    results, seconds, fitting = {}, {}, {}
    for name, evaluate in contestants(vae, arguments.temperatures).items():
        started = time.perf_counter()
        with Counting() as counting:
            results[name] = evaluate(x)
        seconds[name], fitting[name] = time.perf_counter() - started, counting.draws / len(x)
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    reference = pv.evaluate(
        vae.model, vae.guide, x, proposal="adapted", num_samples=arguments.reference, seed=1, progress=False
    )
    bounds = pv.bdmc(
        vae.model,
        adapting.Adapted(vae.model, vae.guide),
        x,
        num_samples=CHAINS,
        num_temperatures=max(arguments.temperatures // 5, 1),
        seed=2,
    )
    known = reference.standard_error.norm() / len(x) ** 0.5
    print(f"mnist-mini test, {len(x)} rows")
    print(
        f"reference {reference.log_evidence.mean():.2f}: adapted, {arguments.reference:,} draws, known to "
        f"{known:.3f} a row, k-hat {reference.khat.max():.2f} at most"
    )
    gap = bounds.gap
    print(
        f"on {len(x)} data of its own, {max(arguments.temperatures // 5, 1):,} temperatures from the same "
        f"proposal: bounds {gap.mean():.2f} ± {gap.std() / len(gap) ** 0.5:.2f} nats apart"
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
    print()
    hardest = results["guide, to 0.05 nats"].draws.max()
    for name in ("guide, to 0.05 nats", "refined, to 0.05 nats", "adapted, to 0.05 nats"):
        result = results[name]
        reached, spent = (result.standard_error <= TARGET).sum(), result.draws.mean() + fitting[name]
        print(
            f"{name}: {reached} of {len(x)} rows are there, {result.draws.mean():,.0f} draws a row and "
            f"{fitting[name]:,.0f} to fit: {result.draws.mean() / result.draws.max():.0%} of an even spread "
            f"of its own, {spent / hardest:.0%} of one of the guide's {hardest:,.0f}"
        )
    figure(table, arguments.folder / "evidence.png")


if __name__ == "__main__":
    main()
