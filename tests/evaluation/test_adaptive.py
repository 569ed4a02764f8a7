"""target_se: draws go where they are needed, count once, and the answer stays right."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.core.programs import inspect
from pyrovae.evaluation.importance import weigh
from pyrovae.evaluation.moments import Moments
from pyrovae.testing import LinearGaussian

ROWS = 70  # a block and a ragged one


class Mixed:
    """Linear-Gaussian programs whose guide is exact for even rows and too wide for odd ones."""

    def __init__(self, widen: float = 4.0) -> None:
        self.oracle, self.widen = LinearGaussian(torch.randn(5, 3)), widen
        self.model = self.oracle.model
        self.x = self.oracle.sample(ROWS)
        self.x[:, -1] = torch.where(torch.arange(ROWS) % 2 == 0, -abs(self.x[:, -1]), abs(self.x[:, -1]))

    def guide(self, x):
        q = self.oracle.posterior(x)
        last = x[:, -1]
        widen = torch.where(last > 0, self.widen * (1 + 0.2 * last.clamp(max=2)), 1.0)[:, None, None]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=widen * q.scale_tril))

    def evaluate(self, x=None, **keywords):
        return pv.evaluate(self.model, self.guide, self.x if x is None else x, progress=False, **keywords)


def test_only_the_rows_that_need_draws_get_them():
    pair = Mixed(widen=2.5)
    result = pair.evaluate(num_samples=100, target_se=0.1)
    hard = pair.x[:, -1] > 0
    assert (result.draws[~hard] == 100).all()
    assert (result.draws[hard] > 100).all()
    assert (result.standard_error <= 0.1).all()
    assert len(result.draws.unique()) > 2
    plain = pair.evaluate(num_samples=100)
    assert torch.equal(plain.log_evidence[~hard], result.log_evidence[~hard])
    assert (plain.standard_error[hard] > 0.1).all()


@pytest.mark.parametrize(("sets", "least"), [(2, 0.85), pytest.param(10, 0.90, marks=pytest.mark.slow)])
def test_estimates_are_within_their_errors_as_often_as_these_say(sets, least):
    """Of the hard rows of some data sets, 35 in each: an interval of two errors covers 95%."""
    within = []
    for seed in range(sets):
        pyro.set_rng_seed(seed)
        pair = Mixed()
        result = pair.evaluate(num_samples=100, target_se=0.05, seed=seed)
        off = (result.log_evidence - pair.oracle.log_evidence(pair.x).double()).abs()
        within.append((off < 2 * result.standard_error)[pair.x[:, -1] > 0])
    share = torch.cat(within).double().mean()
    assert least < share < 0.99, share


@pytest.mark.parametrize("copies", [64, pytest.param(320, marks=pytest.mark.slow)])
def test_stopping_by_the_draws_biases_less_than_the_stated_error(copies):
    """One row many times over: the mean of p-hat / p, and what is left is below the target."""
    pair = Mixed()
    row = pair.x[pair.x[:, -1] > 0][:1].expand(copies, -1)
    exact = pair.oracle.log_evidence(row).double()
    result = pair.evaluate(row, num_samples=100, target_se=0.1, max_samples=20_000)
    ratio = (result.log_evidence - exact).exp()
    noise = (ratio.std() / copies**0.5).item()
    assert len(result.draws.unique()) > 1  # it did stop by the draws
    assert abs(ratio.mean().item() - 1) < 0.1 + 4 * noise
    assert noise < 0.03 * (320 / copies) ** 0.5


def test_a_rows_draws_depend_on_no_other_row():
    pair = Mixed()
    whole = pair.evaluate(num_samples=100, target_se=0.05)
    others = pair.x.clone()
    others[:40:2] = pair.x[1]  # other easy rows are now hard ones
    changed = pair.evaluate(others, num_samples=100, target_se=0.05)
    kept = torch.arange(1, ROWS, 2)
    assert torch.equal(whole.draws[kept], changed.draws[kept])
    torch.testing.assert_close(whole.log_evidence[kept], changed.log_evidence[kept], rtol=0, atol=1e-4)
    chunked = pair.evaluate(num_samples=100, target_se=0.05, chunk_size=3)
    torch.testing.assert_close(whole.log_evidence, chunked.log_evidence, rtol=0, atol=1e-4)


def test_the_most_is_the_most_and_what_was_missed_is_said():
    pair = Mixed(widen=50.0)
    result = pair.evaluate(num_samples=100, target_se=0.01, max_samples=800)
    assert result.draws.max() <= 800
    missed = int((result.standard_error > 0.01).sum())
    assert missed > 20
    said = str(result)
    assert f"standard error: {missed} rows above the target of 0.01 nats" in said
    assert f"K = 100 to {int(result.draws.max())} draws, {result.draws.mean():,.0f} on average" in said
    assert result.conventions["target_se"] == 0.01
    assert result.conventions["max_samples"] == 800


def test_it_comes_back_from_disk(tmp_path):
    result = Mixed().evaluate(num_samples=100, target_se=0.05)
    result.save(tmp_path / "r.nc")
    assert torch.equal(pv.Evaluation.load(tmp_path / "r.nc").draws, result.draws)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_samples": 200}, "max_samples limits what target_se asks for"),
        ({"target_se": 0.0}, "target_se must be positive, got 0"),
        ({"target_se": 0.1, "num_samples": 10}, "target_se needs num_samples of 100 or more, got 10"),
        (
            {"target_se": 0.1, "num_samples": 100, "max_samples": 20},
            "max_samples is 20, below num_samples",
        ),
    ],
)
def test_arguments_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixed().evaluate(**arguments)


def test_tallies_of_parts_are_those_of_the_whole():
    pair = Mixed()
    structure = inspect(pair.model, pair.guide, pair.x)
    pieces = weigh(pair.model, pair.guide, (pair.x,), {}, structure, 300)
    weights, kl = map(torch.cat, zip(*pieces, strict=True))
    whole = Moments.of([(weights, kl)], 300).columns()
    joined = Moments.of([(weights[:100], kl[:100])], 300).join(
        Moments.of([(weights[100:], kl[100:])], 300), 300
    )
    for name, values in joined.columns().items():
        torch.testing.assert_close(values, whole[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(joined.row(3).columns()[name], values[3:4], rtol=1e-12, atol=1e-12)
