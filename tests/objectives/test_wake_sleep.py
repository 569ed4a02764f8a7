"""Wake-sleep and TVO: gradients against those of a grid, where everything is known.

z ~ N(0, 1), x ~ N(a z, 1), q = N(m, e^(2 s)) for one datum: integrals over z are sums over the grid. Means
are compared in units of their standard error; with 300 draws the bias of normalised weights is far below.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyrovae.objectives import TVO, WakeSleep

X, ROWS, DRAWS, REPEATS = 1.5, 20, 300, 150
Z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
STEP = (Z[1] - Z[0]).log()


class Bent(nn.Module):
    """Programs with three parameters: the model's slope, and the guide's loc and log scale."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.loc, self.log_scale = (
            nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.8, 0.4, -0.1)
        )
        self.parameters_ = [self.slope, self.loc, self.log_scale]

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(Z.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.slope * z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))

    def log_joint(self):
        return dist.Normal(0.0, 1.0).log_prob(Z) + dist.Normal(self.slope * Z, 1.0).log_prob(Z.new_tensor(X))

    def log_q(self):
        return dist.Normal(self.loc, self.log_scale.exp()).log_prob(Z)


def found(loss, pair):
    """Gradients of a row by the objective, ``[repeats, 3]``; None counts as zero."""
    x, taken = torch.full((ROWS,), X, dtype=torch.float64), []
    for _ in range(REPEATS):
        value = loss.differentiable_loss(pair.model, pair.guide, x) / ROWS
        each = torch.autograd.grad(value, pair.parameters_, allow_unused=True)
        taken.append(torch.stack([torch.zeros(()) if g is None else g for g in each]))
    return torch.stack(taken)


def agree(taken, exact, pair, allowance=0.0):
    wanted = torch.autograd.grad(-exact, pair.parameters_, allow_unused=True)
    wanted = torch.stack([torch.zeros(()).double() if g is None else g for g in wanted])
    error = taken.std(0) / REPEATS**0.5
    off = (taken.mean(0) - wanted).abs()
    assert (off < 4.5 * error + allowance).all(), (taken.mean(0), wanted, error)
    assert (wanted.abs() > 10 * (error + allowance)).any()


@pytest.mark.parametrize("wake", [1.0, 0.25])
def test_wake_is_the_posteriors_score_for_the_guide_and_log_p_for_the_model(wake):
    pair = Bent()
    log_joint = pair.log_joint()
    posterior = log_joint.softmax(0).detach()
    exact = (log_joint + STEP).logsumexp(0) + wake * (posterior * pair.log_q()).sum()
    agree(found(WakeSleep(DRAWS, wake=wake), pair), exact, pair, 3e-3)


@pytest.mark.parametrize("sleep", [1.0, 3.0])
def test_sleep_is_the_models_own_draws_for_the_guide(sleep):
    """q is the same for every x, so the dreams' mean of log q is that over the prior."""
    pair = Bent()
    prior = (dist.Normal(0.0, 1.0).log_prob(Z) + STEP).exp().double()
    exact = (pair.log_joint() + STEP).logsumexp(0) + sleep * (prior * pair.log_q()).sum()
    agree(found(WakeSleep(DRAWS, wake=0.0, sleep=sleep), pair), exact, pair, 3e-3)


@pytest.mark.parametrize(
    ("num_draws", "num_partitions", "allowance"), [(2, 1, 0.0), (5, 1, 0.0), (DRAWS, 4, 5e-3)]
)
def test_tvo_has_the_gradient_of_its_integral(num_draws, num_partitions, allowance):
    """With one partition it is the ELBO, without bias, however few the draws."""
    pair, loss = Bent(), TVO(num_draws, num_partitions, first=0.1)
    log_joint, log_q = pair.log_joint(), pair.log_q()
    betas = loss.betas[:-1, None]
    bridge = (betas * log_joint + (1 - betas) * log_q).softmax(-1)
    exact = (loss.betas.diff()[:, None] * bridge * (log_joint - log_q)).sum()
    agree(found(loss, pair), exact, pair, allowance)


@pytest.mark.parametrize("loss", [TVO(4), WakeSleep(4)])
def test_a_weight_on_the_kl_is_refused(loss):
    pair, x = Bent(), torch.zeros(3, dtype=torch.float64)
    both = (poutine.scale(program, 0.25) for program in (pair.model, pair.guide))  # of everything: no weight
    assert loss.loss(*both, x) == pytest.approx(0.25 * loss.loss(pair.model, pair.guide, x), rel=0.5)

    def tempered(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=3.0):
                z = pyro.sample("z", dist.Normal(Z.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(pair.slope * z, 1.0), obs=x)

    with pytest.raises(ValueError, match="site 'z' has a scale of its own, and a weight on the KL"):
        loss.loss(tempered, pair.guide, x)


def test_dreams_of_two_sites_are_refused():
    pair = Bent()

    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(0.5), obs=y)
            z = pyro.sample("z", dist.Normal(Z.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    x, y = torch.zeros(3).double(), torch.ones(3)
    arguments = model, lambda x, y: pair.guide(x), x, y
    assert WakeSleep(4).loss_and_grads(*arguments)
    with pytest.raises(ValueError, match="WakeSleep: the model observes 'y' besides 'x'"):
        WakeSleep(4, sleep=1.0).loss_and_grads(*arguments)


@pytest.mark.parametrize("loss", [TVO(4), WakeSleep(4)])
def test_points_are_refused(loss):
    pair = Bent()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pair.loc.expand(len(x))))

    with pytest.raises(ValueError, match="site 'z' is a point, whose density has no gradient"):
        loss.loss(pair.model, guide, torch.zeros(3).double())
