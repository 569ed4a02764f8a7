"""Time and peak memory against draws, data, latents, chunk and batch: linear in work, flat in memory.

    python benchmarks/scaling.py [--json runs/scaling.json]

One size is changed at a time, each in a process of its own, whose largest resident memory is taken. The time
is that of evaluate alone, by draws of a datum; of the batch sizes, that of an epoch of fit, by rows. What
should be seen: time for each that stays, and memory that does not grow with K or with the number of data.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

BASE = {"draws": 1000, "data": 256, "latents": 16, "chunk": 128, "batch": 128}
SIZES = {
    "draws": [250, 1000, 4000],
    "data": [64, 256, 1024],
    "latents": [4, 16, 64],
    "chunk": [16, 64, 128],
    "batch": [64, 256, 1024],
}
RUN = """
import resource, sys, time, torch, pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
draws, data, latents, chunk, batch = map(int, sys.argv[2:])
torch.manual_seed(0)
vae = pv.VAE(
    priors.StandardNormal(latents),
    likelihoods.Bernoulli(networks.MLP(latents, 784, hidden=[400])),
    guides.Normal(networks.MLP(784, 2 * latents, hidden=[400])),
)
x = torch.bernoulli(torch.full((data, 784), 0.2))
rows = x.repeat(64, 1) if sys.argv[1] == "batch" else x
pv.evaluate(vae.model, vae.guide, x[:64], num_samples=10, progress=False)
if sys.argv[1] == "batch":
    pv.fit(vae.model, vae.guide, rows[:batch], num_epochs=1, batch_size=batch, compile=False, progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
if sys.argv[1] == "batch":
    pv.fit(vae.model, vae.guide, rows, num_epochs=1, batch_size=batch, compile=False, progress=False)
else:
    pv.evaluate(vae.model, vae.guide, x, num_samples=draws, chunk_size=chunk, progress=False)
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def main() -> None:
    """Run every size, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("runs/scaling.json"))
    parser.add_argument("--only", nargs="+", default=list(SIZES))
    arguments = parser.parse_args()
    found = []
    print(f"{platform.machine()}; beside {', '.join(f'{name} {size}' for name, size in BASE.items())}\n")
    print(f"{'':<10}{'size':>8}{'seconds':>10}{'us for each':>12}{'memory, MiB':>14}")
    for name in arguments.only:
        for size in SIZES[name]:
            setting = {**BASE, name: size}
            command = [sys.executable, "-c", RUN, name, *map(str, setting.values())]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds, memory = map(float, said.split())
            work = 64 * setting["data"] if name == "batch" else setting["draws"] * setting["data"]
            each = 1e6 * seconds / work
            print(f"{name:<10}{size:>8,}{seconds:>10.2f}{each:>12.2f}{memory:>14.0f}", flush=True)
            found.append({**setting, "seconds": seconds, "memory": memory})
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
