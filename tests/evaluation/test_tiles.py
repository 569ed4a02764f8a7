"""The same answer to the last bit, whatever surrounds a datum; what a kill leaves; memory that runs out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.evaluation.results import FIELDS
from pyrovae.evaluation.tiles import ROWS_IN_A_TILE, Memory, spaced, tiles

WAYS = {
    "is": {"num_samples": 40},
    "adaptive": {"num_samples": 100, "target_se": 0.1, "max_samples": 500},
    "adapted": {"num_samples": 30, "proposal": "adapted"},
    "ais": {"method": "ais", "num_samples": 3, "num_temperatures": 6},
}


def same(a, b, rows=slice(None)):
    return all(
        torch.equal(
            getattr(a, name)[rows].nan_to_num(), getattr(b, name)[: len(getattr(a, name)[rows])].nan_to_num()
        )
        for name in FIELDS
    )


@pytest.fixture
def vae():
    return a_vae()


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_depends_on_neither_batches_nor_the_rest_of_the_data(vae, way):
    x = binary(150)

    def found(data, **keywords):
        return pv.evaluate(vae.model, vae.guide, data, progress=False, **WAYS[way], **keywords)

    whole = found(x)
    for other in (
        found(x, batch_size=7),
        found(x, batch_size=1000),
        found(DataLoader(TensorDataset(x), batch_size=33)),
    ):
        assert same(whole, other)
    assert same(found(x[:70]), whole)
    assert same(found(x[:10]), whole)
    assert same(found(x[:1]), whole)
    changed = x.clone()
    changed[1:64:2] = binary(32)
    changed[64:] = binary(86)
    other, kept = found(changed), torch.arange(0, 64, 2)
    for name in FIELDS:
        a, b = (getattr(found, name)[kept].nan_to_num() for found in (whole, other))  # no k-hat of few draws
        assert torch.equal(a, b), name


def test_tiles_are_whole_and_in_order():
    x = torch.arange(150.0)[:, None]
    for size in (None, 1, 64, 100, 1000):
        cut = list(tiles(x, 0, batch_size=size))
        assert [tile.rows for tile in cut] == [64, 64, 22]
        assert torch.equal(torch.cat([tile.arguments[0][: tile.rows] for tile in cut]), x)
        assert all(len(tile.arguments[0]) == ROWS_IN_A_TILE for tile in cut)
        assert (cut[-1].arguments[0][22:] == 149).all()
    with pytest.raises(ValueError, match="batch_size is 0"):
        pv.evaluate(*a_pair(), x, batch_size=0, progress=False)


def a_pair():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))

    return model, guide


@pytest.mark.parametrize("way", WAYS)
def test_what_is_finished_is_not_computed_again(vae, way, tmp_path):
    x, path = binary(200), tmp_path / "evaluation.jsonl"
    keywords = {"progress": False, "seed": 4, **WAYS[way]}
    whole = pv.evaluate(vae.model, vae.guide, x, **keywords)
    assert same(whole, pv.evaluate(vae.model, vae.guide, x, resume=path, **keywords))
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 1 + 4 + 1
    torn = b"\n".join([*lines[:3], lines[3][:100]])  # two tiles, and a line that a kill cut short
    path.write_bytes(torn)
    third = json.loads(lines[3])["columns"]["elbo"]
    lines[1] = lines[1].replace(lines[1].split(b'"elbo": [')[1].split(b",")[0], b"-12345.5", 1)
    path.write_bytes(b"\n".join([*lines[:3], lines[3][:100]]))
    again = pv.evaluate(vae.model, vae.guide, x, resume=path, **keywords)
    assert again.elbo[0] == -12345.5  # taken from the file
    assert again.elbo[128:192].tolist() == third
    assert torch.equal(again.log_evidence, whole.log_evidence)
    assert again.conventions == whole.conventions


def test_a_file_of_something_else_is_refused(vae, tmp_path):
    x, path = binary(70), tmp_path / "evaluation.jsonl"

    def found(data=x, **keywords):
        return pv.evaluate(
            vae.model, vae.guide, data, resume=path, progress=False, **{"num_samples": 5, **keywords}
        )

    found()
    with pytest.raises(
        ValueError, match="is of num_samples 5, and this evaluation of 6: finish that one, or"
    ):
        found(num_samples=6)
    with pytest.raises(
        ValueError, match="is of num_samples 5, and this evaluation of 6: finish that one, or"
    ):
        found(num_samples=6, proposal="auto")  # and not of why which proposal was chosen
    with pytest.raises(ValueError, match="is of proposal unset, and this evaluation of adapted"):
        found(proposal="adapted")
    with pytest.raises(ValueError, match="is of seed 0, and this evaluation of 1"):
        found(seed=1)
    with pytest.raises(ValueError, match="data rows 64 to 69 are not those that"):
        found(torch.cat([x[:64], 1 - x[64:]]))
    with pytest.raises(ValueError, match="is of first weights"):
        found(1 - x)
    with torch.no_grad():
        next(vae.parameters()).add_(1.0)
    with pytest.raises(ValueError, match=r"is of (first )?weights "):
        found()
    path.write_text("<html>\n")
    with pytest.raises(ValueError, match="holds no evaluation: name another file to resume from"):
        found()


KILLED = """
import sys, torch, pyrovae as pv
torch.set_num_threads(1)
from pyrovae.testing import LinearGaussian
pair = LinearGaussian(torch.ones(5, 2), widen=2.0)
keywords = {"num_samples": 1500, "resume": sys.argv[1], "progress": False}
result = pv.evaluate(pair.model, pair.guide, pair.sample(1280), **keywords)
result.save(sys.argv[2])
"""


def test_killed_evaluations_go_on_and_end_the_same(tmp_path):
    """Kill -9 once some tiles are on the disk; the second run ends where an undisturbed one does."""
    ledger = tmp_path / "killed.jsonl"

    def start(ledger, result):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(ledger), str(tmp_path / result)])

    assert start(tmp_path / "whole.jsonl", "whole.nc").wait() == 0
    running = start(ledger, "killed.nc")
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 4:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.nc").exists()
    assert start(ledger, "killed.nc").wait() == 0
    whole, killed = (pv.Evaluation.load(tmp_path / f"{name}.nc") for name in ("whole", "killed"))
    assert same(whole, killed)
    assert whole.conventions == killed.conventions


class Greedy(torch.nn.Module):
    """A model that runs out of memory above so many draws at once."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = a_vae(), most, error

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.inner.prior())
            if z.dim() > 2 and len(z) > self.most:
                raise self.error
            pyro.sample("x", self.inner.likelihood(z), obs=x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("way", ["is", "ais"])
def test_out_of_memory_halves_the_chunk_and_repeats(error, way):
    keywords = {"num_samples": 40, "progress": False}
    if way == "ais":
        keywords |= {"method": "ais", "num_samples": 12, "num_temperatures": 4}
    greedy, x = Greedy(5, error), binary(70)
    with pytest.warns(UserWarning, match="draws at once do not fit into memory, going on with"):
        found = pv.evaluate(greedy, greedy.inner.guide, x, **keywords)
    whole = pv.evaluate(greedy.inner.model, greedy.inner.guide, x, **keywords)
    torch.testing.assert_close(found.log_evidence, whole.log_evidence, rtol=0, atol=1e-4)


def test_one_draw_that_does_not_fit_is_said():
    def compute(chunk_size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="one draw of 64 rows does not fit into memory"):
        Memory(1).run(compute, 128)
    with pytest.raises(RuntimeError, match="something else"):
        Memory(None).run(lambda chunk_size: (_ for _ in ()).throw(RuntimeError("something else")), 128)


def test_a_plate_that_is_not_the_datas_is_refused():
    def program(x, observed):
        steps = x.shape[1]
        with pyro.plate("time", steps, dim=-2), pyro.plate("rows", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            if observed:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    pair = [lambda x: program(x, True), lambda x: program(x, False)]
    with pytest.raises(
        ValueError, match="plate 'time', which all sites share, has 5 rows where the data have"
    ):
        pv.evaluate(*pair, torch.randn(100, 5), num_samples=5, progress=False)


@pytest.mark.parametrize(
    "loader",
    [
        lambda d: DataLoader(d, shuffle=True),
        lambda d: DataLoader(d, sampler=torch.utils.data.SubsetRandomSampler(range(9))),
        lambda d: DataLoader(d, batch_sampler=[[3, 1], [0]]),
    ],
)
def test_loaders_of_an_order_of_their_own_are_refused(loader):
    with pytest.raises(ValueError, match="the DataLoader shuffles, so no result would belong to a known row"):
        pv.evaluate(*a_pair(), loader(TensorDataset(torch.randn(9, 3))), num_samples=5, progress=False)


def test_programs_that_hold_no_parameters_are_known_by_their_weights(tmp_path):
    model, guide = a_pair()
    x, path = torch.randn(5, 3), tmp_path / "evaluation.jsonl"
    pv.evaluate(model, guide, x, num_samples=5, resume=path, progress=False)

    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1) + 1, 0.5))

    with pytest.raises(ValueError, match="is of first weights "):
        pv.evaluate(model, other, x, num_samples=5, resume=path, progress=False)
    pv.evaluate(model, guide, x, num_samples=5, resume=path, progress=False)


def test_evenly_spaced_rows_are_of_those_that_come():
    x = torch.arange(150.0)[:, None]
    for data, last in ((x, 149), (DataLoader(x, 40, drop_last=True), 119)):
        rows, (found,) = spaced(data, 4, seed=0)
        assert rows.tolist() == [0, round(last / 3), round(2 * last / 3), last]
        assert torch.equal(found[:, 0], rows.float())
