"""One training step of a VAE: plain PyTorch, stock Pyro, NumPyro, pyrovae, and the floor under all of them.

    python benchmarks/step.py [--rounds 30] [--steps 20] [--nets mlp conv] [--batches 128 1024]
                              [--device cuda] [--numpyro PYTHON] [--only NAME ...] [--json runs/step.json]

The nets are an MLP 784-400-50 and its mirror, and convolutions of 16 and 32 channels (each halving the
image) with 50 latents. The data are bits that stay where they are, so what is timed is loss, gradients and
Adam's step, in float32 where nothing else is said. The contestants take turns, some steps each, within one
process (NumPyro's in a process of its own, which waits for its turn), so that a change of the machine's speed
meets them all. Quote the ratios of the medians: absolute times differ between machines and days. The floor is
the step's matrix products and convolutions by themselves, and a fused Adam of as many parameters. NumPyro
needs an environment of its own (`python -m venv numpyro; numpyro/bin/pip install numpyro`), and is left out
without one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils._python_dispatch import TorchDispatchMode

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.step import TrainStep

LATENTS, SIDE, HIDDEN, CHANNELS = 50, 28, [400], [16, 32]
FEATURES = SIDE * SIDE
Step = Callable[[], object]


def a_vae(net: str, device: str) -> pv.VAE:
    torch.manual_seed(0)
    if net == "mlp":
        encoder: nn.Module = networks.MLP(FEATURES, 2 * LATENTS, hidden=HIDDEN)
        decoder: nn.Module = networks.MLP(LATENTS, FEATURES, hidden=HIDDEN)
    else:
        encoder = networks.ConvEncoder((SIDE, SIDE), 2 * LATENTS, channels=CHANNELS)
        decoder = networks.ConvDecoder(LATENTS, (SIDE, SIDE), channels=CHANNELS[::-1])
    vae = pv.VAE(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder), guides.Normal(encoder))
    return vae.to(device)


def plain_pytorch(net: str, x: Tensor, *, compiled: bool) -> Step:
    vae = a_vae(net, x.device.type)
    encoder, decoder = vae.guide.part.net, vae.likelihood.net
    optimizer = torch.optim.Adam(vae.parameters(), fused=compiled)

    def loss(x: Tensor) -> Tensor:
        loc, log_variance = encoder(x).chunk(2, -1)
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        reconstruction = binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
        return reconstruction + kl

    if compiled:
        loss = torch.compile(loss, mode="reduce-overhead" if x.is_cuda else None)

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step


def stock_pyro(net: str, x: Tensor, *, validate: bool) -> Step:
    vae = a_vae(net, x.device.type)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())

    def step() -> None:
        with pyro.validation_enabled(validate):
            svi.step(x)

    return step


def ours(net: str, x: Tensor, *, compile: bool, precision: str = "float32") -> Step:
    vae = a_vae(net, x.device.type)
    meter = TrackedLoss(vae.model, vae.guide, Trace_ELBO())
    parameters = meter.parameters((x,))
    stepper = TrainStep(
        meter,
        torch.optim.Adam(parameters, fused=True),
        parameters,
        compile=compile,
        precision=precision,
    )

    def step() -> None:  # what fit does for a batch; it looks for edits once an epoch
        stepper.step((x,), "the benchmark", check=False)

    if compile:
        step()
        if stepper.graphs.cause:
            raise RuntimeError(stepper.graphs.cause)
    return step


class _Heavy(TorchDispatchMode):
    """Notes the matrix products and convolutions of a run, with what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "convolution", "convolution_backward"):
            detached = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
            self.calls.append((func, detached, kwargs or {}))
        return func(*args, **(kwargs or {}))


def floor(net: str, x: Tensor) -> Step:
    vae = a_vae(net, x.device.type)
    heavy = _Heavy()
    with heavy:
        Trace_ELBO()(vae.model, vae.guide)(x).backward()
    optimizer = torch.optim.Adam(vae.parameters(), fused=True)

    @torch.no_grad()
    def products() -> None:
        for func, args, kwargs in heavy.calls:
            func(*args, **kwargs)

    run = replayed(products) if x.is_cuda else products

    def step() -> None:
        run()
        optimizer.step()

    return step


def replayed(run: Callable[[], None]) -> Callable[[], None]:
    """On a GPU, without the time that it takes to start each kernel."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        run()
    return lambda run=run: graph.replay()  # what it runs on has to stay


class NumPyro:
    """NumPyro's steps, in a process of its own that waits for its turn."""

    def __init__(self, python: str, net: str, batch: int, steps: int) -> None:
        script = str(Path(__file__).with_name("step_numpyro.py"))
        sizes = [str(each) for each in (net, steps, batch, LATENTS, HIDDEN[0], *CHANNELS)]
        self.process = subprocess.Popen(
            [python, script, *sizes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()  # it has compiled  # type: ignore[union-attr]

    def turn(self, form: str) -> float:
        """Seconds of a step, in one of its two forms."""
        self.process.stdin.write(form + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return float(self.process.stdout.readline())  # type: ignore[union-attr]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


BASELINE, COMPILED = "plain PyTorch, eager", "pyrovae, compiled"
CONTESTANTS: dict[str, Callable[[str, Tensor], Step]] = {
    BASELINE: lambda net, x: plain_pytorch(net, x, compiled=False),
    "plain PyTorch, compiled, fused Adam": lambda net, x: plain_pytorch(net, x, compiled=True),
    "stock Pyro SVI": lambda net, x: stock_pyro(net, x, validate=True),
    "stock Pyro SVI, validation off": lambda net, x: stock_pyro(net, x, validate=False),
    "pyrovae, eager": lambda net, x: ours(net, x, compile=False),
    COMPILED: lambda net, x: ours(net, x, compile=True),
    "pyrovae, compiled, tf32": lambda net, x: ours(net, x, compile=True, precision="tf32"),
    "pyrovae, compiled, bfloat16": lambda net, x: ours(net, x, compile=True, precision="bfloat16"),
    "floor: products and Adam": floor,
}
NUMPYRO = {"NumPyro, jitted update": "update", "NumPyro, 50 steps in a loop": "loop"}


def measure(net: str, batch: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step in each round, by contestant."""
    x = torch.bernoulli(torch.full((batch, FEATURES), 0.3)).to(arguments.device)
    torch.compiler.reset()
    steps = {name: make(net, x) for name, make in CONTESTANTS.items() if name in arguments.only}
    peer = NumPyro(arguments.numpyro, net, batch, arguments.steps) if arguments.numpyro else None
    turns: dict[str, Callable[[], float]] = {
        name: lambda step=step: timed(step, arguments.steps, x.is_cuda) for name, step in steps.items()
    }
    if peer is not None:
        turns |= {name: lambda form=form: peer.turn(form) for name, form in NUMPYRO.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for round_ in range(arguments.rounds + 2):
        for name, turn in turns.items():
            taken = turn()
            if round_ >= 2:  # the first two warm up
                times[name].append(taken)
    if peer is not None:
        peer.close()
    return times


def timed(step: Step, steps: int, on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def machine(device: str) -> str:
    cpu = platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        cpu = found[0].split(":")[1].strip() if found else cpu
    name = f"{cpu}, {torch.get_num_threads()} threads"
    if device != "cpu":
        name = f"{torch.cuda.get_device_name()}, {name}"
    return f"{name}, torch {torch.__version__}, Pyro {pyro.__version__}"


def table(title: str, times: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in times.items()}
    base, mine = medians.get(BASELINE), medians.get(COMPILED)
    lines = [f"{title:<38}{'ms':>9}{'to eager':>10}{'compiled to it':>16}"]
    for name, median in medians.items():
        ratio = f"{median / base:.2f}" if base else ""
        against = f"{mine / median:.2f}" if mine else ""
        lines.append(f"{name:<38}{1e3 * median:>9.3f}{ratio:>10}{against:>16}")
    return "\n".join(lines)


def main() -> None:
    """Take turns, print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--nets", nargs="*", default=["mlp", "conv"], choices=["mlp", "conv"])
    parser.add_argument("--batches", nargs="*", type=int, default=[128, 1024])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--numpyro", metavar="PYTHON", help="of an environment that has NumPyro")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--json", type=Path, default=Path("runs/step.json"))
    arguments = parser.parse_args()
    where = machine(arguments.device)
    if arguments.device == "cpu":
        arguments.only = [name for name in arguments.only if "tf32" not in name]  # which a CPU does not have
    torch.backends.cudnn.allow_tf32 = False  # torch's convolutions are of TF32 otherwise, those of all others
    print(where)
    if not arguments.numpyro:
        print("NumPyro is left out: name the Python of an environment that has it, --numpyro PYTHON")
    results: dict[str, Any] = {
        "machine": where,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "seconds": {},
    }
    for net in arguments.nets:
        for batch in arguments.batches:
            title = f"one step, {net}, batch {batch}"
            results["seconds"][title] = times = measure(net, batch, arguments)
            print(f"\n{table(title, times)}", flush=True)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
