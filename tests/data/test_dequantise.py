"""Noise between levels, and nats as bits per dimension: exact values, the bound, and what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.data import dequantise as dequantisation
from pyrovae.evaluation.results import FIELDS

K = torch.arange(256)


def draws_at(monkeypatch, place: int) -> None:
    """Let every draw of u be the one at this place, of PLACES."""
    monkeypatch.setattr(
        torch, "randint", lambda high, size, *, dtype, **_: torch.full(size, place % high, dtype=dtype)
    )


# ----------------------------------------------------------------------------- dequantise


@pytest.mark.parametrize("levels", [2, 3, 32, 255, 256])
@pytest.mark.parametrize("place", [0, -1])
def test_the_extreme_draws_stay_strictly_inside_and_within_their_level(levels, place, monkeypatch):
    draws_at(monkeypatch, place)
    k = torch.arange(levels)
    x = dequantisation.dequantise(k, levels=levels)
    assert x.dtype == torch.get_default_dtype()
    assert x.min() > 0
    assert x.max() < 1
    assert x.float().max() < 1
    assert torch.equal((levels * x).floor().long(), k)


def test_8_bit_values_are_the_same_in_float32_and_in_float64():
    before = torch.get_default_dtype()
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        found.append(dequantisation.dequantise(K.repeat(100), generator=torch.Generator().manual_seed(0)))
    torch.set_default_dtype(before)
    assert torch.equal(found[0].double(), found[1])


def test_noise_is_uniform_on_the_unit_interval():
    draws = 100_000
    noise = 256 * dequantisation.dequantise(torch.full((draws,), 200)).double() - 200
    counts = torch.histc(noise, 20, 0, 1)
    chi_square = ((counts - draws / 20).square() / (draws / 20)).sum()
    assert chi_square < 44  # chi-square of 19 degrees: above 43.8 one time in 1,000
    assert len(noise.unique()) > 31_000  # 31,218 ± 38 of the 32,768 places expected


def test_a_generator_gives_the_noise_again_and_leaves_torchs_own():
    before = torch.get_rng_state()
    first, again = (
        dequantisation.dequantise(K, generator=torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("values", "levels", "message"),
    [
        (torch.tensor([0, 256]), 256, "256 among the values, expected whole numbers from 0 to 255"),
        (torch.tensor([0, -1]), 256, "-1 among the values"),
        (torch.tensor([0.0, 0.25]), 256, "0.25 among the values, .*: pass 8-bit values undivided"),
        (torch.tensor([0.0, math.nan]), 256, "nan among the values"),
        (torch.tensor([0, 1]), 1, "1 levels, 2 to 256 are possible"),
        (torch.tensor([0, 1]), 65536, "65536 levels, 2 to 256 are possible"),
    ],
)
def test_values_that_are_no_levels_are_refused(values, levels, message):
    with pytest.raises(ValueError, match=message):
        dequantisation.dequantise(values, levels=levels)


# ---------------------------------------------------------------------------- bits_per_dim


def test_fair_coins_have_one_bit_and_the_uniform_density_eight():
    coins = dist.Bernoulli(probs=torch.full((784,), 0.5, dtype=torch.float64)).to_event(1)
    bits = pv.bits_per_dim(coins.log_prob(torch.ones(3, 784, dtype=torch.float64)), 784)
    torch.testing.assert_close(bits, torch.ones(3, dtype=torch.float64), rtol=1e-14, atol=0)
    uniform = dist.Uniform(torch.zeros(784), 1.0).to_event(1)
    x = dequantisation.dequantise(torch.randint(256, (3, 784)))
    assert torch.equal(
        pv.bits_per_dim(uniform.log_prob(x), 784, levels=256), torch.full((3,), 8.0, dtype=torch.float64)
    )
    assert pv.bits_per_dim(torch.zeros(2, 4), 7, levels=32).tolist() == [[5.0] * 4] * 2


def test_a_piecewise_constant_density_has_the_bits_of_its_levels():
    """Where p(x) is constant within each level the bound is tight: bits are the entropy, for any u."""
    probabilities = torch.rand(2, 256, dtype=torch.float64).softmax(-1)  # two pixels, independent
    k = torch.cartesian_prod(K, K)
    x = dequantisation.dequantise(k)
    cell = (256 * x).floor().long()
    log_density = (256 * probabilities).log()
    nats = log_density[0, cell[:, 0]] + log_density[1, cell[:, 1]]
    weight = probabilities[0, k[:, 0]] * probabilities[1, k[:, 1]]
    entropy = -(probabilities * probabilities.log2()).sum()
    mean = (weight * pv.bits_per_dim(nats, 2, levels=256)).sum()
    torch.testing.assert_close(mean, entropy / 2, rtol=1e-12, atol=0)


def test_a_density_gives_an_upper_bound_on_the_bits_of_its_levels(monkeypatch):
    """p(x) = 2x has P(k) = (2k + 1) / 65536, and E_u[log p] is known: by Jensen its bits are more."""
    places = range(32, dequantisation.PLACES, 64)
    bits = torch.zeros(256, dtype=torch.float64)
    for place in places:
        draws_at(monkeypatch, place)
        x = dequantisation.dequantise(K).double()
        bits += pv.bits_per_dim((2 * x).log(), 1, levels=256) / len(places)
    # E[ln(k + u)] is the integral of ln from k to k + 1; p(x) = (k + u) / 128.
    k = K.double()
    mean_log = torch.xlogy(k + 1, k + 1) - torch.xlogy(k, k) - 1
    # The midpoint rule on 512 draws of u is off by 1.2e-3 at the logarithm's pole, k = 0.
    torch.testing.assert_close(bits, 15 - mean_log / math.log(2), rtol=0, atol=2e-3)
    assert (bits > 16 - (2 * k + 1).log2()).all()


def test_less_evidence_is_more_bits():
    bits = pv.bits_per_dim(torch.tensor([-3.0, -2.0, -math.inf]), 10)
    assert bits.dtype == torch.float64
    assert bits.tolist() == pytest.approx([0.3 / math.log(2), 0.2 / math.log(2), math.inf])


# ----------------------------------------------------------------- results and their records


def evaluation(said: dict) -> pv.Evaluation:
    columns = {name: torch.tensor([-2.0, -4.0]).double() for name in FIELDS}
    return pv.Evaluation(**columns, num_samples=1, conventions=said)


DEQUANTISED = {"dequantisation": "uniform", "levels": 256, "dims": 4, "values": "(0, 1)"}
GREY = {"levels": 256, "dims": 4, "values": "[0, 1]"}
BITS = {"values": "{0, 1}", "dims": 4}
NATS = torch.tensor([-2.0, -4.0])


@pytest.mark.parametrize(
    ("said", "keywords", "levels"),
    [
        (DEQUANTISED, {}, 256),
        (DEQUANTISED, {"num_dims": 4, "levels": 256, "density": True}, 256),
        (BITS, {}, None),
        (BITS, {"density": False}, None),
        ({"values": "{0, 1}"}, {"num_dims": 4}, None),
        (GREY, {"density": False}, None),
        ({}, {"num_dims": 4, "density": False}, None),
        ({}, {"num_dims": 4, "levels": 32}, 32),
    ],
)
def test_a_result_is_read_by_its_record(said, keywords, levels):
    expected = pv.bits_per_dim(NATS, 4, levels=levels)
    assert torch.equal(pv.bits_per_dim(evaluation(said), **keywords), expected)


@pytest.mark.parametrize(
    ("nats", "keywords", "message"),
    [
        (NATS, {}, "num_dims is neither given nor recorded: pass the number"),
        (NATS, {"num_dims": 0}, "num_dims is 0: at least 1"),
        (NATS, {"num_dims": 4, "levels": 1}, "levels is 1: at least 2"),
        (NATS, {"num_dims": 4, "density": True}, "only where the data were dequantised: pass levels="),
        (NATS, {"num_dims": 4, "density": False, "levels": 256}, "leave out the wrong one"),
        (GREY, {}, r"data in \[0, 1\] that were not dequantised .*: load them with dequantise=True, or pass"),
        (GREY, {"density": True}, "not dequantised"),
        (GREY, {"levels": 256}, "not dequantised"),
        (GREY, {"density": False, "levels": 256}, "leave out the wrong one"),
        (DEQUANTISED, {"density": False}, "so log p.x. is a density: leave density=False out"),
        (DEQUANTISED, {"num_dims": 5}, "num_dims is 5, the result records 4: leave num_dims out"),
        (DEQUANTISED, {"levels": 32}, "levels is 32, the result records 256: leave levels out"),
        (BITS, {"levels": 256}, "the data are bits"),
        (BITS, {"density": True}, "the data are bits"),
        ({"values": "{0, 1}"}, {}, "num_dims is neither given nor recorded"),
        ({"values": "real", "dims": 4}, {"density": False}, "real numbers, .*: report nats"),
        ({}, {"num_dims": 4}, "does not record what its data are: pass density=False"),
        ({}, {"num_dims": 4, "density": True}, "does not record what its data are: pass density=False"),
    ],
)
def test_what_has_no_bits_is_refused(nats, keywords, message):
    with pytest.raises(ValueError, match=message) as raised:
        pv.bits_per_dim(evaluation(nats) if isinstance(nats, dict) else nats, **keywords)
    assert "\n" not in str(raised.value)


def test_a_number_is_refused_with_its_mend():
    with pytest.raises(TypeError, match=r"an Evaluation, got float: wrap numbers in torch.tensor"):
        pv.bits_per_dim(-3.0, 4)


def test_a_saved_result_of_dequantised_digits_knows_its_bits(tmp_path):
    """Under the uniform density, whatever the latent, the digits have 8 bits each pixel."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(x[0]), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    digits = pv.datasets.load("mnist-mini", dequantise=True, seed=2)
    result = pv.evaluate(model, guide, digits.test, num_samples=2, progress=False)
    first = str(result).splitlines()[0]
    assert first.startswith("mnist-mini test, 1,000 rows, binarisation none, uniform dequantisation, K = 2")
    result.save(tmp_path / "result.nc")
    back = pv.Evaluation.load(tmp_path / "result.nc")
    assert digits.test.conventions.items() <= back.conventions.items()
    assert back.conventions["dequantisation_seed"] == 2
    expected = torch.full((1000,), 8.0, dtype=torch.float64)
    torch.testing.assert_close(pv.bits_per_dim(back), expected, rtol=0, atol=1e-9)
