"""Training and evaluation by two processes against one, and what that says about 8 and 512 GPUs.

    python benchmarks/distributed.py [--rounds 10] [--steps 20] [--json runs/distributed.json]
    python benchmarks/distributed.py --model [--json runs/distributed.json]

Two processes of one thread each, with gloo on 127.0.0.1, take turns with one of them alone while the other
waits, so that a change of the machine's speed meets all. Quote the ratios. Of a step of two processes it says
how long the rows take alone, how long the processes tell each other their sums (a small all-reduce before the
gradients), and how long an all-reduce of as many bytes as there are gradients takes by itself. Small
all-reduces of 2 to 16 processes show how gloo's grow with their number (of more processes than cores: a bound
from above).

``--model`` prints the tables of docs/scaling.md: the formulas are in :func:`step`, what they assume in
:data:`ASSUMED`, and what was measured here is taken from the JSON file where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FEATURES, LATENTS, HIDDEN, BATCH = 784, 50, [400], 128
SIZES = [2**k for k in (12, 16, 20, 24)]
GROUPS = [2, 4, 8, 16]

ASSUMED = {
    "flops": 0.35 * 989e12,  # of an H100 in bfloat16, dense, at 35% of NVIDIA's 989 TFLOPS
    "launch": 0.23e-3,  # s: the small MLP's step on an H200 (README), all launches and no work
    "nvlink": 0.8
    * 450e9,  # bytes/s each way in a machine of 8: 18 links of 25 GB/s (NVIDIA), four fifths of them
    "network": 0.8 * 50e9,  # of one 400 Gb/s adapter; a machine has 8, one a GPU, or a single one
    "hop": 5e-6,  # s, a hop of NCCL's tree
    "gloo hop": 50e-6,  # s, a hop of gloo's ring over TCP; measured below where there is a JSON file
    "disk": 2e9,  # bytes/s of one writer
    "failures": 1
    / 50_000,  # a GPU-hour: 419 in 54 days of 16,384 GPUs (Llama 3, arXiv:2407.21783, sec. 3.3.4)
    "tiles": 157,  # 10,000 test images
}


def step(parameters: float, gpus: int, adapters: int, assumed: dict[str, float]) -> dict[str, float]:
    """Seconds of one step, 128 rows a GPU: compute 6 P B / F, all-reduce 4 P 2 (n - 1) / n / bandwidth.

    Eager steps hide the all-reduce behind the backward pass, two thirds of the compute: all of it from "rows"
    a GPU on.
    """
    compute = assumed["launch"] + 6 * parameters * BATCH / assumed["flops"]
    volume = 4 * parameters * 2 * (gpus - 1) / gpus
    bandwidth = assumed["nvlink"]
    if gpus > 8:  # each machine's ring goes out by its adapters
        bandwidth = min(bandwidth, adapters * assumed["network"])
    reduce = volume / bandwidth + 2 * math.log2(gpus) * assumed["hop"]
    sums = 2 * math.log2(gpus) * assumed["hop"]
    hidden = max(compute + sums, compute / 3 + sums + reduce)
    enough = (reduce + sums) * 1.5 * assumed["flops"] / (6 * parameters)
    return {"compute": compute, "all-reduce": reduce, "sums": sums, "step": hidden, "rows": enough}


def print_model(assumed: dict[str, float], tiles: list[float]) -> None:
    print("| decoder | GPUs | adapters | compute | all-reduce | sums | step | efficiency | rows to hide it |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for parameters, name in ((1e7, "10M"), (1e9, "1B")):
        for gpus, adapters in ((8, 8), (512, 8), (512, 1)):
            found = step(parameters, gpus, adapters, assumed)
            times = " | ".join(
                f"{1e3 * found[key]:.2f} ms" for key in ("compute", "all-reduce", "sums", "step")
            )
            part, rows = found["compute"] / found["step"], found["rows"]
            print(f"| {name} | {gpus} | {adapters} | {times} | {part:.0%} | {rows:,.0f} |")
    print("\n| processes | sums by gloo's ring | by NCCL's tree |")
    print("| --: | --: | --: |")
    for gpus in (2, 8, 64, 512):
        ring, tree = 2 * (gpus - 1) * assumed["gloo hop"], 2 * math.log2(gpus) * assumed["hop"]
        print(f"| {gpus} | {1e3 * ring:.2f} ms | {1e3 * tree:.2f} ms |")
    print("\n| GPUs | rounds of 157 tiles | even tiles | uneven tiles | hours to a failure |")
    print("| --: | --: | --: | --: | --: |")
    for gpus in (2, 8, 64, 512):
        rounds = math.ceil(assumed["tiles"] / gpus)
        even, uneven = assumed["tiles"] / gpus / rounds, spread(tiles, gpus, int(assumed["tiles"]))
        hours = 1 / (gpus * assumed["failures"])
        print(f"| {gpus} | {rounds} | {even:.0%} | {uneven:.0%} | {hours:,.0f} |")
    print("\n| decoder | bytes a GPU (weights, gradients, Adam, DDP's buckets) | a checkpoint | written in |")
    print("| --- | --: | --: | --: |")
    for parameters, name in ((1e7, "10M"), (1e9, "1B")):
        held, kept = 20 * parameters / 1e9, 12 * parameters
        print(f"| {name} | {held:.1f} GB | {kept / 1e9:.2f} GB | {kept / assumed['disk']:.2f} s |")


def spread(tiles: list[float], gpus: int, count: int) -> float:
    """Efficiency where a round takes as long as its slowest tile, by resampling the tiles' times."""
    chance, work, taken = random.Random(0), 0.0, 0.0
    for _ in range(50):
        drawn = [chance.choice(tiles) for _ in range(count)]
        work += sum(drawn) / gpus
        taken += sum(max(drawn[i : i + gpus]) for i in range(0, count, gpus))
    return work / taken


def worker(rounds: int, steps: int) -> dict[str, Any]:
    """Both processes: turns of one alone and of both."""
    import torch
    import torch.distributed as dist
    from pyro.infer import Trace_ELBO

    import pyrovae as pv
    from pyrovae import distributed, guides, likelihoods, networks, priors
    from pyrovae.evaluation import estimator as estimates
    from pyrovae.training.data_parallel import SharedLoss
    from pyrovae.training.loss import TrackedLoss
    from pyrovae.training.step import TrainStep

    torch.set_num_threads(1)
    where = distributed.join()
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((BATCH, FEATURES), 0.2))

    def a_stepper(shared: bool) -> TrainStep:
        vae = pv.VAE(
            priors.StandardNormal(LATENTS),
            likelihoods.Bernoulli(networks.MLP(LATENTS, FEATURES, hidden=HIDDEN)),
            guides.Normal(networks.MLP(FEATURES, 2 * LATENTS, hidden=HIDDEN)),
        )
        meter = TrackedLoss(vae.model, vae.guide, Trace_ELBO())
        parameters = meter.parameters((x,))
        optimizer = torch.optim.Adam(parameters, fused=True)
        both = SharedLoss(meter, parameters, None) if shared else None
        return TrainStep(meter, optimizer, parameters, compile=False, precision="float32", shared=both)

    told: list[float] = []

    def timed(function: Any) -> Any:
        def run(*args: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                told.append(time.perf_counter() - started)

        return run

    one, two = a_stepper(False), a_stepper(True)
    two.shared.settle = timed(two.shared.settle)
    size = sum(each.numel() for each in two.parameters)

    def turn(stepper: TrainStep, rows: int, whole: int) -> float:
        distributed.barrier()
        started = time.perf_counter()
        for _ in range(steps):
            stepper.step((x[:rows],), "the benchmark", check=False, rows=whole)
        return (time.perf_counter() - started) / steps

    def alone(rows: int) -> float:
        distributed.barrier()
        if where.rank == 0:
            with by_itself(distributed):
                started = time.perf_counter()
                for _ in range(steps):
                    one.step((x[:rows],), "the benchmark", check=False)
                taken = (time.perf_counter() - started) / steps
        distributed.barrier()
        return taken if where.rank == 0 else math.nan

    def reduced(numbers: int, times: int = 10) -> float:
        values = torch.zeros(numbers)
        distributed.barrier()
        started = time.perf_counter()
        for _ in range(times):
            dist.all_reduce(values)
        return (time.perf_counter() - started) / times

    model, guide = two.meter.model.program, two.meter.guide.program  # the same on both
    data = x.repeat(8, 1)

    def evaluated(lonely: bool) -> float:
        distributed.barrier()
        started = time.perf_counter()
        if not lonely:
            pv.evaluate(model, guide, data, num_samples=200, progress=False)
        elif where.rank == 0:
            with by_itself(distributed):
                pv.evaluate(model, guide, data, num_samples=200, progress=False)
        taken = time.perf_counter() - started
        distributed.barrier()
        return taken

    found: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        told.clear()
        times = {
            "one": alone(BATCH),
            "one, half": alone(BATCH // 2),
            "two, 128 each": turn(two, BATCH, 2 * BATCH),
        }
        times["sums"] = statistics.mean(told)
        times |= {
            "two, 64 each": turn(two, BATCH // 2, BATCH),
            "gradients alone": reduced(size),
            "evaluate, one": evaluated(True),
            "evaluate, two": evaluated(False),
            **{f"all-reduce of {4 * each} bytes": reduced(each) for each in SIZES},
        }
        for name, seconds in times.items() if i else ():  # the first warms up
            found.setdefault(name, []).append(seconds)
    tiles: list[float] = []
    estimates.Estimator.columns = timed(estimates.Estimator.columns)
    told.clear()
    with by_itself(distributed):
        pv.evaluate(model, guide, data[:256], num_samples=100, target_se=0.3, max_samples=400, progress=False)
    tiles += told
    return {"rank": where.rank, "parameters": size, "seconds": found, "tiles": tiles}


def latency() -> dict[str, Any]:
    """One of several processes that tell each other seven numbers, again and again."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    values, times = torch.zeros(7, dtype=torch.float64), []
    for _ in range(200):
        started = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - started)
    return {"rank": dist.get_rank(), "seconds": statistics.median(times)}


@contextmanager
def by_itself(distributed: Any):
    """Inside, this process takes itself for the only one."""
    before, distributed.world = distributed.world, lambda: distributed.World(0, 1)
    try:
        yield
    finally:
        distributed.world = before


def group(size: int, *words: str) -> dict[str, Any]:
    """What the first of so many processes prints; none may take ten minutes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    processes = []
    for rank in range(size):
        place = {
            "RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_RANK": rank,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        here = os.environ | {name: str(value) for name, value in place.items()} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *words]
        processes.append(subprocess.Popen(command, env=here, stdout=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return json.loads(said[0].splitlines()[-1])


def print_measured(kept: dict[str, Any]) -> None:
    seconds = {name: statistics.median(times) for name, times in kept["seconds"].items()}
    rounds = len(kept["seconds"]["one"])
    print(f"{platform.machine()}, one thread a process, {kept['parameters']:,} parameters, {rounds} rounds\n")
    print(f"{'':<44}{'ms':>10}{'rows a second':>16}{'ratio':>8}")
    lines = (
        ("a step of one process, 128 rows", "one", 128),
        ("of two, 128 rows each", "two, 128 each", 256),
        ("of two, 64 rows each", "two, 64 each", 128),
    )
    for said, name, rows in lines:
        speed = rows / seconds[name]
        print(f"{said:<44}{1e3 * seconds[name]:>10.2f}{speed:>16,.0f}{speed * seconds['one'] / 128:>8.2f}")
    ratio = seconds["evaluate, one"] / seconds["evaluate, two"]
    for name, factor in (("one", 1.0), ("two", ratio)):
        taken, said = seconds[f"evaluate, {name}"], f"evaluation by {name}, 1,024 rows x 200 draws"
        print(f"{said:<44}{1e3 * taken:>10.0f}{1024 / taken:>16,.0f}{factor:>8.2f}")
    whole = seconds["two, 128 each"]
    print("\nwhere a step of two, 128 rows each, goes")
    parts = {
        "its rows, by one process alone": seconds["one"],
        "exchanging sums, and waiting": seconds["sums"],
        f"all-reduce of {4 * kept['parameters'] / 1e6:.1f} MB, by itself": seconds["gradients alone"],
    }
    for name, taken in parts.items():
        print(f"{name:<44}{1e3 * taken:>10.2f}{taken / whole:>16.0%}")
    rest = whole - sum(parts.values())
    print(f"{'the rest (overlap makes it negative)':<44}{1e3 * rest:>10.2f}{rest / whole:>16.0%}")
    print("\nall-reduces of two: bytes, ms, GB/s of the bus")
    for size in SIZES:
        taken = seconds[f"all-reduce of {4 * size} bytes"]
        print(f"{4 * size:>12,}{1e3 * taken:>10.3f}{4 * size / taken / 1e9:>10.2f}")
    print("\nall-reduces of seven numbers: processes, ms, us a hop of the ring")
    for size, taken in kept["latency"].items():
        print(f"{size:>12}{1e3 * taken:>10.3f}{1e6 * taken / (2 * (int(size) - 1)):>10.1f}")


def main() -> None:
    """Measure, and print the tables; or print the model's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    parser.add_argument("--json", type=Path, default=Path("runs/distributed.json"))
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--part", choices=["worker", "latency"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        found = worker(arguments.rounds, arguments.steps) if arguments.part == "worker" else latency()
        print(json.dumps(found))
        return
    if arguments.model:
        assumed, tiles = dict(ASSUMED), [1.0, 1.0, 1.0, 3.0]
        if arguments.json.exists():
            kept = json.loads(arguments.json.read_text())
            assumed["gloo hop"] = kept["latency"]["2"] / 2  # of as many processes as cores
            tiles = kept["tiles"]
        print_model(assumed, tiles)
        return
    kept = group(2, "--part", "worker", f"--rounds={arguments.rounds}", f"--steps={arguments.steps}")
    kept["latency"] = {str(size): group(size, "--part", "latency")["seconds"] for size in arguments.groups}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    print_measured(kept)


if __name__ == "__main__":
    main()
