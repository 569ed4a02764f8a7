"""What a likelihood's form costs: pyrovae's Bernoulli and Normal, and the simple forms of the same densities.

    python benchmarks/likelihoods.py [--rounds 10] [--steps 20] [--draws 1000] [--device cuda]
                                     [--json runs/likelihoods.json]

The VAE of step.py's MLP. A simple form is what one writes by hand in Pyro: `dist.Bernoulli(logits=...)` or
`dist.Normal(loc, scale)`, then `.to_event(1)`, so that a logarithm is taken of each value. Each pair takes
turns within one process, in a training step of a batch of 128 and in the evidence of 64 rows, eagerly and
compiled; the table has medians, and the ratio of pyrovae's form to the simple one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from step import FEATURES, HIDDEN, LATENTS, machine, timed
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.step import TrainStep


class Simple(nn.Module):
    """A likelihood by hand: a network, and a density of Pyro's."""

    def __init__(self, net: nn.Module, density: Callable[[Tensor, Tensor], object], scale: object) -> None:
        super().__init__()
        self.net, self.density = net, density
        self.log_scale = nn.Parameter(torch.as_tensor(scale).log()) if scale is not None else None

    def forward(self, z: Tensor) -> object:
        """p(x | z)."""
        return self.density(self.net(z), self.log_scale)


def simple_bernoulli(logits: Tensor, _: Tensor | None) -> object:
    return dist.Bernoulli(logits=logits).to_event(1)


def simple_normal(output: Tensor, log_scale: Tensor | None) -> object:
    if log_scale is None:
        output, log_variance = output.chunk(2, -1)
        log_scale = log_variance / 2
    return dist.Normal(output, log_scale.exp()).to_event(1)


def decoder(width: int) -> nn.Module:
    torch.manual_seed(0)
    return networks.MLP(LATENTS, width, hidden=HIDDEN)


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "Bernoulli": (
        lambda: likelihoods.Bernoulli(decoder(FEATURES)),
        lambda: Simple(decoder(FEATURES), simple_bernoulli, None),
    ),
    "Normal, one scale": (
        lambda: likelihoods.Normal(decoder(FEATURES), scale=0.1, learn_scale=True),
        lambda: Simple(decoder(FEATURES), simple_normal, 0.1),
    ),
    "Normal, the network's": (
        lambda: likelihoods.Normal(decoder(2 * FEATURES)),
        lambda: Simple(decoder(2 * FEATURES), simple_normal, None),
    ),
}


def a_step(vae: pv.VAE, x: Tensor, compile: bool) -> Callable[[], object]:
    """A step of training on 128 rows, as fit takes it."""
    x, meter = x[:128], TrackedLoss(vae.model, vae.guide, Trace_ELBO())
    parameters = meter.parameters((x,))
    adam = torch.optim.Adam(parameters, fused=True)
    stepper = TrainStep(meter, adam, parameters, compile=compile, precision="float32")
    return lambda: stepper.step((x,), "the benchmark", check=False)


def an_evaluation(vae: pv.VAE, x: Tensor, compile: bool, *, draws: int) -> Callable[[], object]:
    """The evidence of 64 rows."""
    evaluate = partial(pv.evaluate, num_samples=draws, compile=compile, progress=False)
    return lambda: evaluate(vae.model, vae.guide, x[:64])


def main() -> None:
    """Take turns, print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="of a turn; evaluations are one a turn")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path("runs/likelihoods.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((128, FEATURES), 0.3)).to(arguments.device)
    work = {
        "step": (a_step, arguments.steps),
        "evidence": (partial(an_evaluation, draws=arguments.draws), 1),
    }
    print(f"{machine(arguments.device)}\n\n{'':<44}{'simple, ms':>12}{'pyrovae, ms':>13}{'ratio':>8}")
    found: dict[str, dict[str, list[float]]] = {}
    for name, forms in FORMS.items():
        for doing, (make, steps) in work.items():
            for compile in (False, True):
                torch.compiler.reset()
                runs = [make(a_vae(form(), arguments.device), x, compile) for form in forms]
                times: list[list[float]] = [[], []]
                for round_ in range(arguments.rounds + 2):
                    for taken, run in zip(times, runs, strict=True):
                        seconds = timed(run, steps, x.is_cuda)
                        if round_ >= 2:  # the first two warm up
                            taken.append(seconds)
                title = f"{name}, {doing}, {'compiled' if compile else 'eager'}"
                found[title] = dict(zip(("pyrovae", "simple"), times, strict=True))
                ours, theirs = map(statistics.median, times)
                print(f"{title:<44}{1e3 * theirs:>12.2f}{1e3 * ours:>13.2f}{ours / theirs:>8.2f}", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps({"machine": machine(arguments.device), "seconds": found}, indent=1) + "\n"
    )


def a_vae(likelihood: nn.Module, device: str) -> pv.VAE:
    """The VAE of step.py's MLP, with another likelihood."""
    torch.manual_seed(0)
    guide = guides.Normal(networks.MLP(FEATURES, 2 * LATENTS, hidden=HIDDEN))
    return pv.VAE(priors.StandardNormal(LATENTS), likelihood, guide).to(device)


if __name__ == "__main__":
    main()
