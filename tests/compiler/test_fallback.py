"""What no fixed graph can do runs as before, with one warning that names it; what one can do is found."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiling import assert_same, compiled_of, gradients_of
from components import FEATURES, LATENTS, PRIORS, a_vae, binary
from pyro import poutine
from pyro.infer import (
    Trace_ELBO,
)
from torch import nn

import pyrovae as pv


def branches(z):
    return z if z.mean() > 0 else -z  # here


class Turning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENTS, FEATURES)

    def forward(self, z):
        return dist.Bernoulli(logits=self.net(branches(z))).to_event(1)


class Counting(Turning):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return dist.Bernoulli(logits=self.net(z) / self.calls).to_event(1)


class Keeping(Turning):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(LATENTS)

    def forward(self, z):
        self.mean.add_(z.detach().mean(0))
        return dist.Bernoulli(logits=self.net(z - self.mean)).to_event(1)


class Beginning(Turning):
    """Takes its mean from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(LATENTS))
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, z):
        if not self.begun:
            self.mean.copy_(z.detach().mean(0))
            self.begun.fill_(True)
        return dist.Bernoulli(logits=self.net(z - self.mean)).to_event(1)


class Begun(Beginning):
    """Writes to its flag what the flag says already."""

    def __init__(self) -> None:
        super().__init__()
        self.begun.fill_(True)

    def forward(self, z):
        found = super().forward(z)
        self.begun.fill_(True)
        return found


class Statistics(Turning):
    """Decides by running statistics, whose changes torch does not note."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(LATENTS)

    def forward(self, z):
        z = self.norm(z) if self.norm.running_var.mean() > 0.5 else z
        return dist.Bernoulli(logits=self.net(z)).to_event(1)


class Written(Turning):
    """Decides by a constant that was written to, through a view of it."""

    def forward(self, z):
        constant = torch.zeros(3)
        constant[0] = z.detach().mean()
        return dist.Bernoulli(logits=self.net(z if constant.sum() > 0 else -z)).to_event(1)


class Unpacked(Turning):
    """Decides by a constant that was written to, through one of the views that unpacking gives."""

    def forward(self, z):
        constant = torch.zeros(2)
        first, _ = constant
        first.copy_(z.detach().mean())
        return dist.Bernoulli(logits=self.net(z if constant.sum() > 0 else -z)).to_event(1)


class Hidden(Beginning):
    """Writes to its flag past the count of its changes."""

    def forward(self, z):
        turned = z if self.begun else -z
        self.begun.data.fill_(False)
        return dist.Bernoulli(logits=self.net(turned)).to_event(1)


class Choosing(Turning):
    """As many of the draws as are positive."""

    def forward(self, z):
        return dist.Bernoulli(logits=self.net(z) + z[z > 0].sum()).to_event(1)


class Selecting(Turning):
    def forward(self, z):
        return dist.Bernoulli(logits=self.net(z) + z.masked_select(z > 0).sum()).to_event(1)


class Seeding(Turning):
    def forward(self, z):
        torch.manual_seed(0)
        return dist.Bernoulli(logits=self.net(z + torch.randn(LATENTS))).to_event(1)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (
            Turning,
            r"the value of a tensor decides what runs, test_fallback.py:\d+: return z if z.mean",
        ),
        (Counting, "'likelihood.calls' is changed by the run itself"),
        (Keeping, r"shape \(4,\) that is no buffer of a module is changed in place"),
        (Beginning, r"a buffer of shape \(\) decides what runs and is changed by the run itself"),
        (Begun, r"a buffer of shape \(\) decides what runs and is changed by the run itself"),
        (Statistics, "the value of a tensor decides what runs, .* if self.norm.running_var.mean"),
        (Written, "the value of a tensor decides what runs, .* constant.sum"),
        (Unpacked, "the value of a tensor decides what runs, .* constant.sum"),
        (Hidden, r"a buffer of shape \(\) decides what runs and is changed by the run itself"),
        (Choosing, r"a mask whose values are not known chooses from a tensor, .* z\[z > 0\]"),
        (Selecting, "aten.masked_select.default gives a shape that depends on the values"),
        (Seeding, "does it seed torch's generator itself"),
    ],
)
def test_what_no_graph_can_do_runs_as_before_with_one_warning(likelihood, message):
    vae, x = pv.VAE(PRIORS["standard_normal"].make(), likelihood(), a_vae().guide.part), binary(5)
    loss = Trace_ELBO()(vae.model, vae.guide)
    with pytest.warns(UserWarning, match=message) as caught:
        compiled = pv.compile(loss, (x,), backend="none")
    assert len(caught) == 1
    compiled(x).backward()  # and no further warning
    assert all(parameter.grad is not None for parameter in vae.parameters())


def test_an_argument_decides_nothing_though_it_is_a_buffer():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(FEATURES, 2 * LATENTS)
            self.register_buffer("data", torch.ones(5, FEATURES, dtype=torch.long))

        def forward(self, x):
            return self.net(x.float()) * (3 if x.sum() > 8 else 1)

    encoder = Encoder()
    vae = pv.VAE(PRIORS["standard_normal"].make(), a_vae().likelihood, pv.guides.Normal(encoder))
    with pytest.warns(UserWarning, match="the value of a tensor decides what runs"):
        pv.compile(Trace_ELBO()(vae.model, vae.guide), (encoder.data,), backend="none")


def test_sites_that_change_run_as_before_with_one_warning():
    turns = iter(range(100))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample(f"x{next(turns) % 2}", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    loc, x = nn.Parameter(torch.tensor(0.0)), torch.randn(5)
    with pytest.warns(UserWarning, match="the sites change from run to run: 'x"):
        compiled = pv.compile(Trace_ELBO()(model, guide), (x,), backend="none")
    assert compiled(x).requires_grad


def test_values_that_are_the_same_in_every_run_may_decide():
    class Wide(Turning):
        def __init__(self) -> None:
            super().__init__()
            self.flag = torch.tensor(1)

        def forward(self, z):
            total = torch.arange(4).sum()
            logits = self.net(z) if total > 3 and self.flag > 0 else z
            return dist.Bernoulli(logits=logits * total.item()).to_event(1)

    vae, x = pv.VAE(PRIORS["standard_normal"].make(), Wide(), a_vae().guide.part), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)
    assert_same(eager, compiled, x)
    vae.likelihood.flag.fill_(2)  # a value that was looked at: captured anew
    graph = next(iter(compiled.graphs._graphs.values()))
    assert_same(eager, compiled, x)
    assert next(iter(compiled.graphs._graphs.values())) is not graph


def test_tensors_outside_of_modules_are_read_at_each_call():
    shift = torch.zeros(FEATURES)
    likelihood = lambda z: dist.Bernoulli(logits=net(z) + shift).to_event(1)  # noqa: E731
    net = nn.Linear(LATENTS, FEATURES)
    vae, x = pv.VAE(PRIORS["standard_normal"].make(), likelihood, a_vae().guide.part), binary(5)
    eager = Trace_ELBO()(vae.model, vae.guide)
    compiled = compiled_of(eager, x)
    assert_same(eager, compiled, x)
    shift += 3
    assert_same(eager, compiled, x)


def test_handlers_about_the_call_are_heard():
    vae, x = a_vae(), binary(5)
    compiled = compiled_of(Trace_ELBO()(vae.model, vae.guide), x)
    whole = gradients_of(compiled, x)[0]
    with poutine.scale(scale=0.5):
        half = gradients_of(compiled, x)[0]
    assert half.item() == pytest.approx(0.5 * whole.item(), rel=1e-6)
