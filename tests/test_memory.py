"""What a computation takes of memory, and draws that come in chunks that fit into what there is."""

from __future__ import annotations

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import memory
from pyrovae.memory import fitting, free_bytes, peak_bytes
from pyrovae.reductions import log_evidence

FLOAT = 4


def test_bytes_are_those_alive_at_once():
    x = torch.zeros(1000)
    assert peak_bytes(lambda: x + 1) == 1000 * FLOAT
    assert peak_bytes(lambda: x.view(10, 100).T) == 0  # views hold nothing
    assert peak_bytes(lambda: x.add_(1)) == 0

    def chain():
        y = x
        for _ in range(10):
            y = y + 1
        return y

    assert peak_bytes(chain) == 2 * 1000 * FLOAT

    def held():
        kept = [x + number for number in range(10)]
        del kept[5:]
        return kept

    assert peak_bytes(held) == 10 * 1000 * FLOAT


def test_what_gradients_need_is_counted():
    net = nn.Sequential(nn.Linear(10, 500), nn.Softplus(), nn.Linear(500, 1))
    x = torch.zeros(64, 10)
    with torch.no_grad():
        assert peak_bytes(lambda: net(x)) == 64 * 1000 * FLOAT  # before softplus, and after it
    assert peak_bytes(lambda: net(x)) == 64 * 1001 * FLOAT


def test_counting_leaves_the_noise_alone():
    torch.manual_seed(0)
    wanted = torch.randn(3)
    torch.manual_seed(0)
    peak_bytes(lambda: torch.randn(100))
    assert torch.equal(torch.randn(3), wanted)


def test_as_many_as_half_of_it_holds(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2000)
    assert [fitting(size, 100, "cpu") for size in (1, 10, 11, 400, 1001)] == [100, 100, 64, 2, 1]


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "cached"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_may_have_less(folder, limit, usage, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    whole = free_bytes()
    assert whole > 2**24
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / "memory.stat").write_text(f"anon 7\n{cached} 1000\n")
    (group / usage).write_text("5000\n")
    (group / limit).write_text(f"{2**20}\n")
    assert free_bytes() == 2**20 - 4000
    (group / limit).write_text("2000\n")
    assert free_bytes() == 0
    (group / limit).write_text("max\n")
    assert free_bytes() > 2**24


class Watched(nn.Module):
    """A wide decoder that notes how many draws it sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.seen = nn.Sequential(nn.Linear(2, 1000), nn.Tanh(), nn.Linear(1000, 6)), []

    def model(self, x):
        pyro.module("watched", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.seen.append(z.shape[0] if z.dim() == 3 else 1)
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 10, 0.8).to_event(1))


ONE = 64 * 2000 * FLOAT
"""About the bytes of one draw of a tile: the hidden layer, before tanh and after it."""


@pytest.fixture
def watched():
    return Watched()


def test_draws_come_in_chunks_that_fit(watched, monkeypatch):
    x = torch.randn(100, 6)

    def found(**keywords):
        watched.seen.clear()
        result = pv.evaluate(
            watched.model, watched.guide, x, num_samples=200, progress=False, **keywords
        ).log_evidence
        return result, max(watched.seen)

    usual, most = found()
    assert most == 128
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2 * 10.5 * ONE))
    few, most = found()
    assert most == 8
    torch.testing.assert_close(few, usual, rtol=0, atol=1e-4)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    single, most = found()
    assert most == 1
    torch.testing.assert_close(single, usual, rtol=0, atol=1e-4)
    asked, most = found(chunk_size=50)  # who names a size has it
    assert most == 50
    torch.testing.assert_close(asked, usual, rtol=0, atol=1e-4)


def test_weights_by_hand_too(watched, monkeypatch):
    x = torch.randn(64, 6)

    def found():
        watched.seen.clear()
        torch.manual_seed(0)
        weights = pv.log_weights(watched.model, watched.guide, x, num_samples=100)
        return log_evidence(weights), max(watched.seen)

    with torch.no_grad():
        usual, most = found()
        assert most == 100
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(2 * 10.5 * ONE))
        few, most = found()
        assert most == 8
    torch.testing.assert_close(few, usual, rtol=0, atol=1e-4)
    assert found()[1] == 100  # a graph keeps all draws alive anyhow


def test_chains_too_with_a_warning(watched, monkeypatch):
    x = torch.randn(64, 6)
    keywords = {"num_samples": 4, "num_temperatures": 3}
    usual = pv.ais_log_weights(watched.model, watched.guide, x, **keywords)
    watched.seen.clear()
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2 * 7 * ONE))
    with pytest.warns(
        UserWarning, match="4 chains, or draws, are moved 2 at once, as memory holds, where 16"
    ):
        few = pv.ais_log_weights(watched.model, watched.guide, x, **keywords)
    assert sorted(set(watched.seen)) == [1, 2]
    assert (few - usual).abs().median() < 1e-3  # all but where a move was decided otherwise


LIMITED = """
import resource
import torch, pyrovae as pv
from pyrovae import guides, likelihoods, memory, networks, priors
vae = pv.VAE(
    priors.StandardNormal(2),
    likelihoods.Bernoulli(networks.MLP(2, 10, hidden=[8000])),
    guides.Normal(networks.MLP(10, 4)),
)
x = torch.bernoulli(torch.full((64, 10), 0.5))
pv.evaluate(vae.model, vae.guide, x, num_samples=128, chunk_size=1, progress=False)
memory.free_bytes = lambda device: 200 * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pv.evaluate(vae.model, vae.guide, x, num_samples=128, progress=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_a_process_keeps_within_it():
    said = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True).stdout
    assert float(said) < 120  # MiB; 128 draws at once take 500
