"""Which objective trains the better model, and the better guide, on real digits; and what draws cost.

    python benchmarks/objectives.py [--epochs 40] [--draws 300] [--rows 1000] [--rounds 12]
                                    [--folder runs/objectives] [--only NAME ...]

The first contestant of benchmarks/parts.py throughout: mnist-mini, dynamic binarisation, 16 latents, one
hidden layer of 400 each way, Adam at 3e-3 falling to 3e-4, seed 0, equal epochs; an objective of several
draws takes longer, and the last column says how much. log p(x) is estimated with one proposal for all, the
guide refined by 20 steps on each digit, so that a model is not judged by the guide it was trained with;
the ELBO, and with it the gap, are of the guide as trained. Differences are paired: per row, against the
first line. Results are kept in the folder, and a contestant found there is not run again. Times are of loss
and gradient of one batch of 128, medians of turns taken within one process; at the end, those of IWAE
against its draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro.infer
from parts import BASELINE, PRIORS, train, with_prior
from torch import Tensor
from torch.utils.data import Subset

import pyrovae as pv
from pyrovae import guides
from pyrovae.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    TVO,
    Renyi,
    WakeSleep,
    free_bits,
    kl_weight,
    mmd,
    total_correlation,
    warmup,
)

FIRST = "ELBO"
STEPS = 3
OBJECTIVES: dict[str, Callable[[int], pyro.infer.ELBO]] = {  # of the number of epochs
    FIRST: lambda epochs: ELBO(),
    "ELBO, stl": lambda epochs: ELBO(gradient="stl"),
    "ELBO, KL warm-up": lambda epochs: ELBO(terms=[kl_weight(warmup(epochs / 4, unit="epochs"))]),
    "ELBO, free bits 0.25": lambda epochs: ELBO(terms=[free_bits(0.25)]),
    "ELBO, beta 2": lambda epochs: ELBO(terms=[kl_weight(2.0)]),
    "ELBO, beta-TC 2": lambda epochs: ELBO(terms=[total_correlation(2.0, num_data=5000)]),
    "ELBO, KL 0.5 and MMD": lambda epochs: ELBO(terms=[kl_weight(0.5), mmd(10.0)]),
    "ELBO of 6 draws": lambda epochs: ELBO(6),
    "IWAE of 6": lambda epochs: IWAE(6),
    "IWAE of 6, dreg": lambda epochs: IWAE(6, gradient="dreg"),
    "Renyi 0.5 of 6, dreg": lambda epochs: Renyi(0.5, 6, gradient="dreg"),
    "CIWAE 0.5 of 6, dreg": lambda epochs: CIWAE(0.5, 6, gradient="dreg"),
    "MIWAE 2 x 3, dreg": lambda epochs: MIWAE(2, 3, gradient="dreg"),
    "PIWAE 2 x 3, dreg": lambda epochs: PIWAE(2, 3, gradient="dreg"),
    "wake-wake of 6": lambda epochs: WakeSleep(6),
    "TVO of 6": lambda epochs: TVO(6),
}


def run(name: str, folder: Path, epochs: int, draws: int, rows: int) -> None:
    """Train and evaluate one contestant, and keep the results."""
    digits = pv.datasets.load("mnist-mini")
    vae = with_prior(PRIORS[BASELINE], digits)
    train(vae, vae.parameters(), digits, epochs, OBJECTIVES[name](epochs))
    units = pv.diagnostics.active_units(vae.guide, digits.test)
    test = Subset(digits.test, range(rows))
    pv.evaluate(vae.model, vae.guide, test, num_samples=draws).save(folder / "trained.nc")
    vae.guide = guides.Refined(vae.guide.part, vae.model, 20)
    pv.evaluate(vae.model, vae.guide, test, num_samples=draws).save(folder / "refined.nc")
    (folder / "units.json").write_text(json.dumps(units))


def table(folders: dict[str, Path], times: dict[str, float]) -> str:
    """A line for each contestant, with paired differences against the first."""
    refined = {name: pv.Evaluation.load(folder / "refined.nc") for name, folder in folders.items()}
    first = refined[FIRST]
    said = first.conventions
    head = f"{said['dataset']} {said['split']}, {len(first):,} rows, binarisation {said['binarisation']}"
    lines = [f"{head}, K = {first.num_samples:,}, nats per datum", ""]
    columns = f"{'log p(x)':>9}{'difference':>16}{'ELBO':>9}{'gap':>14}{'k-hat < 1':>11}"
    lines.append(f"{'':<22}{columns}{'units':>7}{'time':>6}")
    for name, folder in folders.items():
        result, trained = refined[name], pv.Evaluation.load(folder / "trained.nc")
        units = json.loads((folder / "units.json").read_text())
        against = "" if name == FIRST else _shown(result.log_evidence - first.log_evidence, "+")
        gap = _shown(result.log_evidence - trained.elbo)
        lines.append(
            f"{name:<22}{result.log_evidence.mean():>9.2f}{against:>16}{trained.elbo.mean():>9.2f}{gap:>14}"
            f"{(result.khat < 1).double().mean():>11.0%}{units:>7}{times[name]:>6.1f}"
        )
    return "\n".join(lines)


def _shown(values: Tensor, sign: str = "") -> str:
    return f"{values.mean():{sign}.2f} ± {values.std() / len(values) ** 0.5:.2f}"


def step_times(objectives: dict[str, pyro.infer.ELBO], rounds: int) -> dict[str, float]:
    """The time of loss and gradient in units of the first's, the contestants taking turns."""
    digits = pv.datasets.load("mnist-mini")
    vae, x = with_prior(PRIORS[BASELINE], digits), digits.train[:128]
    losses = {name: objective(vae.model, vae.guide) for name, objective in objectives.items()}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for round_ in range(rounds + 2):
        for name, loss in losses.items():
            loss(x).backward()  # the caches hold the last contestant's tensors
            started = time.perf_counter()
            for _ in range(STEPS):
                loss(x).backward()
            if round_ >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = next(iter(medians.values()))
    return {name: median / first for name, median in medians.items()}


def cost(rounds: int) -> str:
    """IWAE's time against its draws."""
    times = step_times({str(k): IWAE(k) for k in (1, 2, 4, 8, 16, 32, 64)}, rounds)
    lines = ["loss and gradient of IWAE(K), batch 128", "", f"{'K':>4}{'time':>8}{'time / K':>10}"]
    lines += [f"{k:>4}{ratio:>8.2f}{ratio / int(k):>10.2f}" for k, ratio in times.items()]
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, print the table of what is, and the cost of draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--only", nargs="*", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    arguments = parser.parse_args()
    folders = {}
    for name in dict.fromkeys([FIRST, *arguments.only]):
        folders[name] = folder = arguments.folder / name.replace(",", "").replace(" ", "-")
        if not (folder / "units.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            run(name, folder, arguments.epochs, arguments.draws, arguments.rows)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    times = step_times({name: OBJECTIVES[name](arguments.epochs) for name in folders}, arguments.rounds)
    print(table(folders, times), "", cost(arguments.rounds), sep="\n")


if __name__ == "__main__":
    main()
