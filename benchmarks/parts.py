"""Which prior gives the better log p(x), and which guide the smaller gap, on real digits.

    python benchmarks/parts.py [--epochs 80] [--draws 1000] [--folder runs/parts] [--only NAME ...]

The same VAE throughout: mnist-mini, dynamic binarisation, 16 latents, one hidden layer of 400 each way,
Adam at 3e-3 falling to 3e-4, seed 0. Each prior is trained with decoder and guide of its own. Each guide
is trained for the first line's model, which stands still: log p(x) is then the same, and what a guide
gains in ELBO it takes off the gap. The last three guides are the first line's, wrapped, and not trained.
Differences are paired: per row, against the first line. Results are kept in the folder, and a contestant
found there is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import flows, guides, likelihoods, networks, priors

LATENTS, FEATURES, HIDDEN = 16, 784, 400
BASELINE = "standard normal prior, normal guide"


def encoder(outputs: int) -> nn.Module:
    return networks.MLP(FEATURES, outputs, hidden=[HIDDEN])


def full_rank() -> nn.Module:
    return guides.FullRankNormal(encoder(2 * LATENTS + LATENTS * (LATENTS - 1) // 2), LATENTS)


def mixture(components: int = 4) -> nn.Module:
    width = components * (1 + 2 * LATENTS)
    return guides.GaussianMixture(encoder(width), LATENTS, components=components)


def inverse_autoregressive(context: int = 64) -> nn.Module:
    flow = flows.IAF(LATENTS, context, transforms=2, hidden_features=(128,))
    return guides.Flow(encoder(context), flow)


PRIORS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    BASELINE: lambda q, rows: priors.StandardNormal(LATENTS),
    "prior: mixture of 50 normals": lambda q, rows: priors.GaussianMixture(LATENTS, 50),
    "prior: VampPrior, 200 inputs": lambda q, rows: priors.VampPrior(q, rows[:200]),
    "prior: MAF": lambda q, rows: flows.MAF(LATENTS, transforms=2, hidden_features=(128,)),
    "prior: neural spline flow": lambda q, rows: flows.NSF(
        LATENTS, transforms=2, bins=8, hidden_features=(128,)
    ),
}
GUIDES: dict[str, Callable[[], nn.Module]] = {
    "guide: normal, trained again": lambda: guides.Normal(encoder(2 * LATENTS)),
    "guide: low-rank normal, rank 4": lambda: guides.LowRankNormal(encoder(6 * LATENTS), LATENTS, rank=4),
    "guide: full-rank normal": full_rank,
    "guide: mixture of 4 normals": mixture,
    "guide: IAF": inverse_autoregressive,
}
WRAPPED: dict[str, Callable[[pv.VAE], nn.Module]] = {
    "proposal: widened by 1.2": lambda vae: guides.Widened(vae.guide.part, 1.2),
    "proposal: defensive, 0.1 prior": lambda vae: guides.Defensive(vae.guide.part, vae.prior, 0.1),
    "proposal: refined, 20 steps": lambda vae: guides.Refined(vae.guide.part, vae.model, 20),
}


def run(name: str, folder: Path, epochs: int, draws: int) -> pv.Evaluation:
    """Train what there is to train of one contestant, and evaluate it."""
    digits = pv.datasets.load("mnist-mini")
    if name in PRIORS:
        vae = with_prior(PRIORS[name], digits)
        train(vae, vae.parameters(), digits, epochs)
        if name == BASELINE:
            pv.save(vae, folder / "model")
    else:
        vae = pv.load(folder / "model", with_prior(PRIORS[BASELINE], digits))
        vae.model.requires_grad_(False)
        torch.manual_seed(1)
        vae.guide = GUIDES[name]() if name in GUIDES else WRAPPED[name](vae)
        if name in GUIDES:
            train(vae, vae.guide.parameters(), digits, epochs)
    return pv.evaluate(vae.model, vae.guide, digits.test, num_samples=draws)


def with_prior(make: Callable[[nn.Module, Tensor], nn.Module], digits: pv.datasets.Dataset) -> pv.VAE:
    """The VAE with this prior, which is made of the guide and some training rows."""
    torch.manual_seed(0)
    rows = digits.train[:1000]
    decoder = networks.MLP(LATENTS, FEATURES, hidden=[HIDDEN])
    q = guides.Normal(encoder(2 * LATENTS))
    return pv.VAE(make(q, rows), likelihoods.Bernoulli(decoder, data_mean=rows.mean(0)), q)


def train(
    vae: pv.VAE, parameters: object, digits: pv.datasets.Dataset, epochs: int, loss: ELBO | None = None
) -> None:
    """Adam at a rate that falls to a tenth."""
    optimizer = torch.optim.Adam(list(parameters), lr=3e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / epochs))
    pv.fit(
        vae.model,
        vae.guide,
        digits.train,
        loss=loss,
        num_epochs=epochs,
        optimizer=optimizer,
        callbacks=[lambda _: schedule.step()],
        compile=True,
    )


def tables(results: dict[str, pv.Evaluation]) -> str:
    """Priors by log p(x), then guides of one model by ELBO, each with paired differences."""
    first = results[BASELINE]
    said = first.conventions
    head = f"{said['dataset']} {said['split']}, {len(first):,} rows, binarisation {said['binarisation']}"
    lines = [f"{head}, K = {first.num_samples:,}, nats per datum"]
    parts = [name for name in results if name in PRIORS], [name for name in results if name not in PRIORS]
    for names, column in zip(parts, ("log p(x)", "ELBO"), strict=True):
        lines += ["", f"{'':<37}{column:>9}{'difference':>16}{'gap':>7}{'draws':>7}{'k-hat < 1':>11}"]
        for name in (BASELINE, *(name for name in names if name != BASELINE)):
            field = "log_evidence" if column == "log p(x)" else "elbo"
            result, values = results[name], getattr(results[name], field)
            difference = values - getattr(first, field)
            error = difference.std() / len(difference) ** 0.5
            against = "" if name == BASELINE else f"{difference.mean():+.2f} ± {error:.2f}"
            lines.append(
                f"{name:<37}{values.mean():>9.2f}{against:>16}{result.gap.mean():>7.2f}"
                f"{result.ess.median():>7.0f}{(result.khat < 1).double().mean():>11.0%}"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, print the tables of what is."""
    everyone = [*PRIORS, *GUIDES, *WRAPPED]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("runs/parts"))
    parser.add_argument("--only", nargs="*", default=everyone, choices=everyone)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in dict.fromkeys([BASELINE, *arguments.only]):
        path = arguments.folder / f"{name.replace(' ', '-').replace(':', '').replace(',', '')}.nc"
        if not path.is_file():
            started = time.perf_counter()
            run(name, arguments.folder, arguments.epochs, arguments.draws).save(path)
            print(f"{name}: {time.perf_counter() - started:.0f} s")
        results[name] = pv.Evaluation.load(path)
    print(tables(results))


if __name__ == "__main__":
    main()
