"""Where the time of pyrovae's own compiled work goes: matrix products, fused loops, draws, Adam, the rest.

    python benchmarks/shares.py [--repeats 200] [--json runs/shares.json]

A step of step.py (its MLP and its convolutions, batch 128), and importance weights of evidence_throughput.py,
each run under torch's profiler on a CPU; an epoch of epoch.py by the clock. Shares are of the wall time; what
no kernel accounts for is Python and starting kernels. The profiler costs a few per cent itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from epoch import a_vae as epoch_vae
from evidence_throughput import a_vae as evidence_vae
from evidence_throughput import ours as evidence_of
from step import FEATURES, machine, ours
from torch.profiler import ProfilerActivity, profile

import pyrovae as pv
from pyrovae.training.step import TrainStep

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "mkl", "mkldnn::_linear"),
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution", "convolution"),
    "fused loops": ("cpp_fused", "graph_"),
    "draws": ("aten::normal", "aten::randn", "aten::bernoulli", "aten::rand"),
    "Adam": ("adam",),
}


def shares(run: Callable[[], object], repeats: int) -> tuple[float, dict[str, float]]:
    """Seconds of a run, and the share of each kind of kernel in them."""
    for _ in range(3):
        run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        taken = time.perf_counter() - started
    spent = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), None)
        if kind is not None:
            spent[kind] += event.self_cpu_time_total / 1e6 / taken
    return taken / repeats, {**spent, "the rest": 1 - sum(spent.values())}


def epoch(rows: int) -> tuple[float, float]:
    """Seconds of an epoch of epoch.py, the second one, and of them those within steps."""
    inside, taken, step = [0.0], [], TrainStep.step

    def timed(self: TrainStep, *args: object, **keywords: object) -> object:
        started = time.perf_counter()
        try:
            return step(self, *args, **keywords)
        finally:
            inside[0] += time.perf_counter() - started

    def note(training: object) -> None:
        taken.append((time.perf_counter(), inside[0]))

    vae, x = epoch_vae(16, 512), torch.bernoulli(torch.full((rows, FEATURES), 0.2))
    with patch.object(TrainStep, "step", timed):
        pv.fit(vae.model, vae.guide, x, num_epochs=3, compile=True, callbacks=[note], progress=False)
    (first, before), (last, after) = taken[-2:]
    return last - first, after - before


def main() -> None:
    """Print a line for each kind of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200, help="steps; a hundredth of them evaluations")
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=60_000, help="of an epoch")
    parser.add_argument("--json", type=Path, default=Path("runs/shares.json"))
    arguments = parser.parse_args()
    torch._inductor.config.cpp.enable_kernel_profile = True
    x = torch.bernoulli(torch.full((128, FEATURES), 0.3))
    vae = evidence_vae(16, [512], "ReLU", "cpu")
    few = max(arguments.repeats // 100, 1)
    work: dict[str, tuple[Callable[[], object], int]] = {
        "step, MLP, batch 128": (ours("mlp", x, compile=True), arguments.repeats),
        "step, convolutions, batch 128": (ours("conv", x, compile=True), arguments.repeats // 4 or 1),
        "evidence, float32": (evidence_of(vae, x[:64], arguments.draws, compile=True), few),
        "evidence, bfloat16": (
            evidence_of(vae, x[:64], arguments.draws, compile=True, precision="bfloat16"),
            few,
        ),
    }
    print(f"{machine('cpu')}\n\n{'':<31}{'ms':>9}{''.join(f'{kind:>17}' for kind in (*KINDS, 'the rest'))}")
    results = {}
    for name, (run, repeats) in work.items():
        seconds, found = shares(run, repeats)
        results[name] = {"seconds": seconds, "shares": found}
        print(f"{name:<31}{1e3 * seconds:>9.2f}{''.join(f'{part:>17.0%}' for part in found.values())}")
    whole, steps = epoch(arguments.rows)
    results["epoch"] = {"seconds": whole, "in steps": steps}
    print(f"\nan epoch of {arguments.rows:,} rows: {whole:.2f} s, {steps / whole:.0%} of it within steps")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine("cpu"), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
