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
from pyrovae.core import memory
from pyrovae.core.memory import fitting, free_bytes, peak_bytes
from pyrovae.evaluation.weights import log_evidence

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


def test_what_has_no_storage_of_its_own_is_passed_over():
    sparse = torch.eye(3).to_sparse()
    found = peak_bytes(lambda: torch.sparse.mm(sparse, torch.ones(3, 5)) + 1)
    assert 2 * 15 * FLOAT <= found <= 3 * 15 * FLOAT


def free(monkeypatch, size):
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(size))


def test_as_many_as_half_of_it_holds(monkeypatch):
    free(monkeypatch, 2000 * FLOAT)

    def fit(width, most=100):
        return fitting(lambda draws: torch.zeros(draws, width), most, "cpu")

    assert [fit(width) for width in (1, 10, 11, 500, 501, 5000)] == [100, 100, 64, 2, 1, 1]
    assert fit(5000, most=4) == 4  # too few to measure


def test_what_is_taken_once_is_not_taken_for_each(monkeypatch):
    free(monkeypatch, 2 * 2000 * FLOAT)
    found = fitting(lambda draws: (torch.zeros(1000), torch.zeros(draws, 10)), 100, "cpu")
    assert found == 100
    found = fitting(lambda draws: (torch.zeros(1000), torch.zeros(draws, 20)), 100, "cpu")
    assert found == 32  # (2000 - 1000) / 20 = 50


V1 = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "9:memory:"
V2 = "sys/fs/cgroup", "memory.max", "memory.current", "", "0::"


@pytest.mark.parametrize(("base", "limit", "usage", "prefix", "line"), [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("place", ["", "jobs", "jobs/7"], ids=["root", "above", "own"])
def test_containers_and_jobs_may_have_less(base, limit, usage, prefix, line, place, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    assert free_bytes() > 2**24
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"3:cpuset:/\n{line}/jobs/7\n")
    assert free_bytes() > 2**24
    group = tmp_path / base / place
    group.mkdir(parents=True)
    (group / "memory.stat").write_text(f"anon 7\n{prefix}inactive_file 1000\n{prefix}active_file 500\n")
    (group / usage).write_text("5000\n")
    (group / limit).write_text(f"{2**20}\n")
    assert free_bytes() == 2**20 - 3500
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes() == (2**20 - 3500) // 4
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
    free(monkeypatch, 2 * 10.5 * ONE)
    with pytest.warns(UserWarning, match="memory holds 8 draws of 64 rows at once, where 128 are usual"):
        few, most = found()
    assert most == 8
    torch.testing.assert_close(few, usual, rtol=0, atol=1e-4)
    free(monkeypatch, 0)
    with pytest.warns(UserWarning, match="memory holds 1 draw of 64 rows"):
        single, _ = found()
    assert watched.seen.count(1) > 400
    torch.testing.assert_close(single, usual, rtol=0, atol=1e-4)
    asked, most = found(chunk_size=50)  # who names a size has it
    assert most == 50
    torch.testing.assert_close(asked, usual, rtol=0, atol=1e-4)


def test_what_does_not_fit_all_the_same_is_halved_from_there(watched, monkeypatch):
    free(monkeypatch, 2 * 10.5 * ONE)
    model, tried = watched.model, []

    def failing(x):
        model(x)
        tried.append(watched.seen[-1])
        if watched.seen[-1] > 4:
            raise MemoryError

    with pytest.warns(UserWarning, match="memory") as said:
        pv.evaluate(failing, watched.guide, torch.randn(64, 6), num_samples=200, progress=False)
    assert [
        "8 draws of 64 rows" in str(said[0].message),
        "8 draws at once do not fit" in str(said[1].message),
    ]
    assert len(said) == 2
    assert max(tried) == 8


def test_a_network_that_refuses_a_dim_of_draws_is_evaluated_by_one():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            assert z.dim() == 2
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    result = pv.evaluate(model, guide, torch.randn(10, 2), num_samples=1, progress=False)
    assert result.log_evidence.isfinite().all()


def test_a_model_of_sparse_tensors_is_evaluated(watched, monkeypatch):
    matrix = torch.eye(6).to_sparse()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = torch.sparse.mm(matrix, watched.net(z).reshape(-1, 6).T).T.reshape(*z.shape[:-1], 6)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    x = torch.randn(10, 6)
    found, wanted = (
        pv.evaluate(each, watched.guide, x, num_samples=20, progress=False) for each in (model, watched.model)
    )
    torch.testing.assert_close(found.log_evidence, wanted.log_evidence, rtol=0, atol=1e-4)


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
        free(monkeypatch, 2 * 10.5 * ONE)
        few, most = found()
        assert most == 8
    torch.testing.assert_close(few, usual, rtol=0, atol=1e-4)
    assert found()[1] == 100  # a graph keeps all draws alive anyhow


def test_chains_too_with_a_warning(watched, monkeypatch):
    x = torch.randn(64, 6)
    keywords = {"num_samples": 4, "num_temperatures": 3}
    usual = pv.ais_log_weights(watched.model, watched.guide, x, **keywords)
    watched.seen.clear()
    free(monkeypatch, 2 * 4 * ONE)
    with pytest.warns(UserWarning, match="2 chains are moved at once, as memory holds, where 16"):
        few = pv.ais_log_weights(watched.model, watched.guide, x, **keywords)
    assert set(watched.seen) == {1, 2, 4}  # 4, where few are measured
    assert (few - usual).abs().median() < 1e-3  # all but where a move was decided otherwise


LIMITED = """
import resource
import torch, pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.core import memory
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
