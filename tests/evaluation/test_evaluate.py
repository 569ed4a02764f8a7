"""evaluate: exact where it can be, the same whatever the chunks, and a table that says what it is."""

from __future__ import annotations

import math
from zlib import crc32

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from components import FEATURES, a_vae
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Subset, TensorDataset

import pyrovae as pv
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.weights import khat_threshold
from pyrovae.storage.tensors import hash_of
from pyrovae.testing import LinearGaussian


@pytest.fixture
def oracle():
    weight = torch.randn(4, 2, dtype=torch.float64)
    return LinearGaussian(weight, noise=1.0, shift=0.2, widen=1.1)


def evaluate(pair, data, **keywords) -> pv.Evaluation:
    return pv.evaluate(pair.model, pair.guide, data, progress=False, **keywords)


def test_linear_gaussian_within_its_errors(oracle):
    x = oracle.sample(100)
    result = evaluate(oracle, x, num_samples=500)
    assert len(result) == 100
    z_scores = (result.log_evidence - oracle.log_evidence(x)) / result.standard_error
    assert z_scores.abs().max() < 5
    assert z_scores.square().mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 100))
    elbo_scores = (result.elbo - oracle.log_evidence(x) + oracle.gap(x)) / result.elbo_error
    assert elbo_scores.square().mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 100))
    q, p = (
        oracle.posterior(x),
        torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
    )
    q = torch.distributions.MultivariateNormal(q.loc + 0.2, scale_tril=1.1 * q.scale_tril)
    kl_scores = (result.kl - torch.distributions.kl_divergence(q, p)) / result.kl_error
    assert kl_scores.square().mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 100))


def test_gap_and_reconstruction_are_the_exact_ones(oracle):
    x = oracle.sample(100)
    result = evaluate(oracle, x, num_samples=2000)
    torch.testing.assert_close(result.reconstruction, result.elbo + result.kl)
    gap_scores = (result.gap - oracle.gap(x)) / (
        result.elbo_error.square() + result.standard_error.square()
    ).sqrt()
    assert gap_scores.abs().max() < 5
    q = oracle.posterior(x)
    loc, covariance = q.loc + 0.2, 1.1**2 * q.covariance_matrix
    p = torch.distributions.Normal(loc @ oracle.weight.T + oracle.mean, oracle.noise.sqrt())
    spread = (oracle.weight @ covariance @ oracle.weight.mT).diagonal(dim1=-2, dim2=-1)
    exact = (p.log_prob(x) - spread / (2 * oracle.noise)).sum(-1)
    scores = (result.reconstruction - exact) / result.reconstruction_error
    assert scores.square().mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 100))


def test_printed_errors_cover_the_truth():
    """Over 60 repeats, mean log p(x) less its bias is within two Monte Carlo errors at the normal's rate."""
    oracle = LinearGaussian(torch.randn(4, 2, dtype=torch.float64), noise=1.0, shift=0.2, widen=1.2)
    x = oracle.sample(128)
    exact = oracle.log_evidence(x).mean()
    scores = []
    for seed in range(60):
        result = evaluate(oracle, x, num_samples=50, seed=seed)
        error = result.standard_error.norm() / len(x)
        scores.append((result.log_evidence.mean() - result.bias.mean() - exact) / error)
    inside = (torch.stack(scores).abs() < 2).double().mean()
    assert 0.85 <= inside <= 1  # 0.954 expected; 51 of 60 or fewer: one time in 2,000


def test_test_set_error_is_that_of_the_data_alone(oracle):
    same = oracle.sample(1).expand(1000, -1)
    _, _, evidence, bound, *_ = str(evaluate(oracle, same, num_samples=10)).splitlines()
    for line in (evidence, bound):
        test_set, monte_carlo = (float(word) for word in line.split("±")[1:])
        assert test_set < monte_carlo / 2


def test_a_likelihood_of_zero_leaves_the_kl_alone():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    result = pv.evaluate(model, guide, torch.tensor([0.0, 0.5]), num_samples=2000, progress=False)
    assert result.kl.tolist() == pytest.approx([0.0, 0.125], abs=0.06)
    assert result.elbo.isneginf().all()
    exact = [
        math.log(0.5 * math.erf(1 / math.sqrt(2))),
        math.log(0.25 * (math.erf(1.5 / 2**0.5) + math.erf(0.5 / 2**0.5))),
    ]
    assert result.log_evidence.tolist() == pytest.approx(exact, abs=0.1)


def test_weights_that_are_nan_are_refused_by_row():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + x.sqrt(), 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    x = torch.ones(70).index_fill(0, torch.tensor([66]), -1.0)
    with pytest.raises(ValueError, match="data row 66: its log-weights are NaN"):
        pv.evaluate(model, guide, x, num_samples=30, progress=False)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: Subset(s, range(70)), lambda s: DataLoader(s, 30, drop_last=True)]
)
def test_redrawn_data_conventions_and_rows_through_subsets_and_loaders(wrap):
    conventions = {"dataset": "coins", "split": "train", "binarisation": "dynamic"}
    coins = torch.full((80, FEATURES), 128, dtype=torch.uint8)
    vae, results = a_vae(), []
    for seed in (0, 0, 1):
        split = pv.datasets.Split(coins, scale=255, redraw=True, seed=seed, conventions=conventions)
        first = split[:3]
        again = pv.datasets.Split(coins, scale=255, redraw=True, seed=seed)
        results.append(evaluate(vae, wrap(split), num_samples=5))
        assert torch.equal(again[:3], first)
        assert torch.equal(again[:3], split[:3])  # the split goes on where it was
    assert torch.equal(results[0].log_evidence, results[1].log_evidence)
    assert not torch.equal(results[0].log_evidence, results[2].log_evidence)
    assert results[0].conventions["binarisation"] == "dynamic"
    assert results[0].conventions["rows"] == len(results[0])


def test_a_shuffling_loader_is_refused():
    loader = DataLoader(TensorDataset(torch.eye(FEATURES)), shuffle=True)
    with pytest.raises(ValueError, match="shuffles, so no result would belong to a known row"):
        evaluate(a_vae(), loader)


def test_guides_of_a_fixed_number_of_rows_are_evaluated():
    vae = a_vae()
    guide = AutoNormal(vae.model)
    x = torch.eye(FEATURES)
    guide(x)
    result = pv.evaluate(vae.model, guide, x, num_samples=50, progress=False)
    assert (result.gap > 0).all()


def test_columns_are_the_reductions_of_the_log_weights():
    """With one block of 64 rows the draws can be made again from the block's stream."""
    from pyrovae.core.random import stream

    vae = a_vae()
    x = torch.bernoulli(torch.full((64, FEATURES), 0.4))
    result = evaluate(vae, x, num_samples=300, seed=3)
    with stream("evaluate", 3, 0), torch.no_grad():
        weights = pv.log_weights(vae.model, vae.guide, x, num_samples=300)
    for name, reduction in {
        "log_evidence": pv.log_evidence,
        "elbo": pv.elbo,
        "ess": pv.ess,
        "standard_error": pv.standard_error,
        "khat": pv.pareto_khat,
    }.items():
        torch.testing.assert_close(getattr(result, name), reduction(weights), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result.elbo_error, weights.std(0) / math.sqrt(300), rtol=1e-6, atol=0)


@pytest.mark.parametrize("chunk_size", [1, 5, 128, 1000])
def test_chunk_size_changes_nothing(chunk_size):
    vae = a_vae()
    x = torch.bernoulli(torch.full((70, FEATURES), 0.4))
    whole, chunked = (evaluate(vae, x, num_samples=150, chunk_size=c) for c in (None, chunk_size))
    torch.testing.assert_close(chunked.log_evidence, whole.log_evidence, rtol=0, atol=1e-5)


def test_the_rest_of_the_data_changes_nothing():
    vae = a_vae()
    x = torch.bernoulli(torch.full((150, FEATURES), 0.4))
    alone, among = evaluate(vae, x[:70], num_samples=20), evaluate(vae, x, num_samples=20)
    assert torch.equal(alone.log_evidence, among.log_evidence[:70])


def test_any_data_are_taken_and_give_the_same_result():
    vae = a_vae()
    x = torch.bernoulli(torch.full((70, FEATURES), 0.4))
    expected = evaluate(vae, x, num_samples=5).log_evidence
    for data in (
        (x,),
        TensorDataset(x),
        DataLoader(TensorDataset(x), batch_size=33),
        DataLoader(TensorDataset(x), batch_size=200),
        pv.datasets.Split(x),
    ):
        assert torch.equal(evaluate(vae, data, num_samples=5).log_evidence, expected)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_callers_state():
    vae = a_vae()
    x = torch.eye(FEATURES)
    before = torch.get_rng_state()
    first, again, other = (evaluate(vae, x, num_samples=10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.log_evidence, again.log_evidence)
    assert not torch.equal(first.log_evidence, other.log_evidence)


def test_blocks_have_noise_of_their_own(oracle):
    x = oracle.sample(1).expand(128, -1)
    result = evaluate(oracle, x, num_samples=5)
    assert len(result.log_evidence.unique()) == 128


def test_dropout_is_off_meanwhile_and_back_on_after():
    vae = a_vae()
    vae.likelihood.net.layers.append(nn.Dropout(0.9))
    vae.train()
    x = torch.eye(FEATURES)
    plain = evaluate(vae, x, num_samples=5).log_evidence
    assert plain.min() > -20
    assert vae.likelihood.net.layers[-1].training
    for model in (poutine.scale(vae.model, 0.5), vae.model.forward):
        found = pv.evaluate(model, vae.guide, x, num_samples=5, progress=False)
        assert torch.equal(found.log_evidence, plain)
    with pytest.raises(ValueError, match="site 'x': its density changes from run to run"):
        pv.evaluate(lambda x: vae.model(x), vae.guide, x, num_samples=5, progress=False)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor made while it is on."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.nbytes = max(self.nbytes, out.untyped_storage().nbytes())
        return out


def test_memory_does_not_grow_with_draws():
    largest = {}
    for num_samples in (256, 4096):
        with LargestTensor() as watch:
            evaluate(a_vae(), torch.eye(FEATURES), num_samples=num_samples)
        largest[num_samples] = watch.nbytes
    assert largest[4096] < 1.5 * largest[256]


def test_table_tells_what_it_is_of():
    digits = pv.datasets.load("mnist-mini")
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.networks.MLP(2, 784), data_mean=digits.train.mean),
        pv.guides.Normal(pv.networks.MLP(784, 4)),
    )
    result = evaluate(vae, digits.test, num_samples=2)
    assert result.conventions == {
        "dataset": "mnist-mini",
        "split": "test",
        "binarisation": "dynamic",
        "dequantisation": "none",
        "binarisation_seed": 0,
        "values": "{0, 1}",
        "dims": 784,
        "rows": 1000,
        "fingerprint": f"{crc32(digits.test[:].numpy().tobytes()):08x}",
        "num_samples": 2,
        "method": "importance sampling",
        "measure": "probability",
        "seed": 0,
        "precision": "float32",
        "dtype": str(torch.get_default_dtype())[6:],
        "torch": torch.__version__,
        "weights": hash_of([vae.model, vae.guide]),
    }
    first, header, evidence, *_ = str(result).splitlines()
    assert first == "mnist-mini test, 1,000 rows, binarisation dynamic, K = 2 draws, importance sampling"
    assert header.split() == ["nats", "per", "datum", "mean", "test", "set", "Monte", "Carlo"]
    hashes = f"weights hash {hash_of([vae.model, vae.guide])}, data hash {result.conventions['fingerprint']}"
    assert str(result).splitlines()[-1] == f"{hashes}, computed in {result.conventions['dtype']}"
    mean, spread, error = (float(word) for word in evidence.replace("±", "").split()[2:])
    assert mean == pytest.approx(result.log_evidence.mean().item(), abs=6e-4)
    drawn = result.standard_error.square().mean()
    assert spread == pytest.approx(((result.log_evidence.var() - drawn) / 1000).sqrt().item(), abs=6e-4)
    assert error == pytest.approx((drawn / 1000).sqrt().item(), abs=6e-4)


def test_a_damaged_file_of_results_is_never_read_as_other_numbers(oracle, tmp_path):
    """HDF5 takes most flipped bytes for other numbers, and some without an end; the file's hash is first."""
    path = tmp_path / "räksmörgås and spaces.nc"
    result = evaluate(oracle, oracle.sample(200), num_samples=2)
    result.save(path)
    whole = path.read_bytes()
    seen = 0
    for place in torch.randint(len(whole), (60,)).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            found = pv.Evaluation.load(path)
        except ValueError as error:
            seen += 1
            said = str(error)
        else:
            for name in FIELDS:
                assert torch.equal(getattr(found, name).nan_to_num(-1), getattr(result, name).nan_to_num(-1))
            assert found.conventions == result.conventions
            continue
        assert said.startswith(f"{path} holds no results that can be read (")
        assert said.endswith("): evaluate again")
        assert "\n" not in said
    assert seen > 50
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"holds no results that can be read \(.*truncated file"):
        pv.Evaluation.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty: evaluate again"), (b"<html>", "is a web page"), (b"CDF", "holds no results")],
)
def test_a_file_that_holds_no_results_is_named(tmp_path, content, message):
    with pytest.raises(FileNotFoundError, match=r"there are no results"):
        pv.Evaluation.load(tmp_path / "evaluation.nc")
    (tmp_path / "evaluation.nc").write_bytes(content)
    with pytest.raises(ValueError, match=f"evaluation.nc {message}"):
        pv.Evaluation.load(tmp_path / "evaluation.nc")


def test_netcdf_round_trip_keeps_numbers_units_and_conventions(oracle, tmp_path):
    result = evaluate(oracle, oracle.sample(10), num_samples=30)
    result.save(tmp_path / "result.nc")
    back = pv.Evaluation.load(tmp_path / "result.nc")
    for name in FIELDS:
        assert torch.equal(getattr(back, name), getattr(result, name)), name
    assert back.num_samples == 30
    assert back.conventions == result.conventions
    assert result.to_xarray()["log_evidence"].attrs["units"] == "nat"
    assert [path.name for path in tmp_path.iterdir()] == ["result.nc"]
    older = xarray.load_dataset(tmp_path / "result.nc").drop_vars("draws")
    older.to_netcdf(tmp_path / "older.nc", engine="h5netcdf")
    assert torch.equal(pv.Evaluation.load(tmp_path / "older.nc").draws, result.draws)


def test_one_row_and_one_draw_have_no_made_up_errors():
    result = evaluate(a_vae(), torch.ones(1, FEATURES), num_samples=1)
    assert result.log_evidence.isfinite().all()
    assert result.standard_error.isnan().all()
    assert "±" not in str(result)
    assert "data of unrecorded origin" in str(result)
    assert "k-hat: needs 25 draws" in str(result)


@pytest.mark.parametrize(
    ("data", "keywords", "message"),
    [
        (torch.zeros(0, FEATURES), {}, "the set is empty"),
        (torch.zeros(3, FEATURES), {"num_samples": 0}, "num_samples is 0"),
        (torch.zeros(3, FEATURES), {"chunk_size": 0}, "chunk_size is 0"),
        (torch.full((100, FEATURES), 0.0).index_fill(0, torch.tensor([70]), math.nan), {}, "NaN in row 70"),
        (
            torch.full((100, FEATURES), 0.0).index_fill(0, torch.tensor([70]), 0.3),
            {},
            "data rows 64 to 99: site 'x': value 0.3 in row 6 of the batch",
        ),
    ],
)
def test_bad_input_is_refused(data, keywords, message):
    with pytest.raises(ValueError, match=message):
        evaluate(a_vae(), data.to(torch.get_default_dtype()), **keywords)


def test_correction_and_the_worst_rows():
    pair = LinearGaussian(torch.randn(4, 3), widen=2.0)
    x = pair.sample(2000)
    result = pv.evaluate(pair.model, pair.guide, x, num_samples=30, progress=False)
    exact = pair.log_evidence(x).double()
    plain, corrected = (values.mean() - exact.mean() for values in (result.log_evidence, result.corrected))
    noise = result.standard_error.norm() / 2000
    assert plain < -4.5 * noise  # log of a mean is too low
    assert abs(corrected) < 0.4 * abs(plain)
    worst = result.worst(7)
    assert len(worst) == 7
    assert (result.khat[worst].diff() <= 0).all()
    assert result.khat[worst[0]] == result.khat.max()
    few = pv.evaluate(pair.model, pair.guide, x[:50], num_samples=10, progress=False)  # no k-hat: by error
    assert few.worst(1).item() == few.standard_error.argmax().item()


@pytest.mark.parametrize(
    "change", [lambda x: x.bfloat16(), lambda x: x.clone().requires_grad_(), lambda x: x.T.contiguous().T]
)
def test_rows_of_any_kind_have_a_fingerprint(change):
    class Model(torch.nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x.float())

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.float().mean(-1), 0.7))

    x = change(torch.randn(70, 3))
    result, again = (pv.evaluate(Model(), guide, x, num_samples=4, progress=False) for _ in range(2))
    assert result.conventions["fingerprint"] == again.conventions["fingerprint"]
    other = pv.evaluate(Model(), guide, x.flip(0), num_samples=4, progress=False)
    assert other.conventions["fingerprint"] != result.conventions["fingerprint"]


def test_reliable_rows_have_a_khat_below_the_threshold_of_their_own_draws():
    zeros = {name: torch.zeros(5, dtype=torch.float64) for name in FIELDS}
    khat = torch.tensor([0.55, 0.55, torch.nan, -torch.inf, 1.2], dtype=torch.float64)
    draws = torch.tensor([100.0, 1000.0, 1000.0, 1000.0, 1000.0])
    result = Evaluation(**zeros | {"khat": khat, "draws": draws}, num_samples=100)
    assert result.khat_threshold.tolist() == [khat_threshold(100)] + 4 * [khat_threshold(1000)]
    assert result.reliable.tolist() == [False, True, False, True, False]
    assert "k-hat: 2 rows reliable (below 0.50 to 0.67), 2 doubtful, 1 beyond 1, where log" in str(result)
