"""The steps of NumPyro, for benchmarks/step.py, which starts this in an environment of its own.

    python benchmarks/step_numpyro.py mlp|conv STEPS BATCH LATENTS HIDDEN CHANNELS CHANNELS

For each line on standard input, "update" or "loop", it takes steps in that form (jitted svi.update, one
call a step; 50 of them within one fori_loop) and prints the seconds of one.
"""

from __future__ import annotations

import math
import sys
import time

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.infer import SVI, Trace_ELBO

SIDE = 28
FEATURES = SIDE * SIDE
LOOP = 50


def uniform(name: str, shape: tuple[int, ...], fan_in: int):
    """A parameter in torch's initial range."""
    bound = 1 / math.sqrt(fan_in)
    return numpyro.param(name, lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound))


def linear(name: str, x, outputs: int):
    inputs = x.shape[-1]
    return x @ uniform(f"{name}.w", (inputs, outputs), inputs) + uniform(f"{name}.b", (outputs,), inputs)


def conv(name: str, x, channels: int, stride: int, bias: bool = True):
    fan_in = 9 * x.shape[1]
    kernel = uniform(f"{name}.w", (channels, x.shape[1], 3, 3), fan_in)
    y = lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)))
    return y + uniform(f"{name}.b", (channels, 1, 1), fan_in) if bias else y


def double(x):
    return x.repeat(2, axis=2).repeat(2, axis=3)


def encoder(net: str, x, latents: int, hidden: int, channels: list[int]):
    if net == "mlp":
        return linear("e2", jax.nn.relu(linear("e1", x, hidden)), 2 * latents)
    h = jax.nn.silu(conv("e1", x.reshape(-1, 1, SIDE, SIDE), channels[0], 2))
    h = jax.nn.silu(conv("e2", h, channels[1], 2))
    return linear("e3", h.reshape(len(h), -1), 2 * latents)


def decoder(net: str, z, hidden: int, channels: list[int]):
    if net == "mlp":
        return linear("d2", jax.nn.relu(linear("d1", z, hidden)), FEATURES)
    h = linear("d1", z, channels[1] * (SIDE // 4) ** 2).reshape(-1, channels[1], SIDE // 4, SIDE // 4)
    h = conv("d2", double(jax.nn.silu(h)), channels[0], 1)
    h = conv("d3", double(jax.nn.silu(h)), 1, 1, bias=False)
    return h.reshape(len(h), -1) + uniform("d4.b", (FEATURES,), FEATURES)


def main() -> None:
    """Compile, say so, and take steps when asked."""
    net, sizes = sys.argv[1], [int(each) for each in sys.argv[2:]]
    updates, batch, latents, hidden, *channels = sizes

    def model(x):
        with numpyro.plate("data", batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latents), 1.0).to_event(1))
            logits = decoder(net, z, hidden, channels)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        loc, log_variance = jnp.split(encoder(net, x, latents, hidden, channels), 2, axis=-1)
        with numpyro.plate("data", batch):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_variance / 2)).to_event(1))

    x = jax.random.bernoulli(jax.random.PRNGKey(0), 0.3, (batch, FEATURES)).astype(jnp.float32)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(1), x)
    update = jax.jit(svi.update)
    loop = jax.jit(lambda state, x: lax.fori_loop(0, LOOP, lambda _, state: svi.update(state, x)[0], state))
    state, _ = update(state, x)
    state = jax.block_until_ready(loop(state, x))
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        if line.strip() == "update":
            for _ in range(updates):
                state, _ = update(state, x)
        else:
            state = loop(state, x)
        jax.block_until_ready(state)
        steps = updates if line.strip() == "update" else LOOP
        print((time.perf_counter() - started) / steps, flush=True)


if __name__ == "__main__":
    main()
