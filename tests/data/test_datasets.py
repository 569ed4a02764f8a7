"""Data sets: what is in them, how they are binarised, and what is said when they are not there."""

from __future__ import annotations

import gzip
import io
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch.utils.data import DataLoader

import pyrovae as pv
from pyrovae import datasets
from pyrovae.core.registry import DATASETS
from pyrovae.data import files as sources


def write_idx(path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_mnist_mini_is_the_first_digits_of_mnist():
    digits = datasets.load("mnist-mini")
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [5000, 1000, 1000]
    assert digits.train.shape == (28, 28)
    # MNIST's labels begin 5 0 4 1 9 2 1 3 1 4 (training) and 7 2 1 0 4 1 4 9 5 9 (test).
    assert digits.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    grey = datasets.load("mnist-mini", binarisation="none").train
    assert grey.mean.mean().item() == pytest.approx(0.1307, abs=0.003)  # of all 60,000
    assert grey[0].reshape(28, 28)[5, 12].item() == pytest.approx(3 / 255)


@pytest.mark.parametrize("index", [0, slice(3), [1, 2], torch.tensor([4, 5, 6])])
def test_rows_come_as_floats_by_any_index(index):
    rows = datasets.load("mnist-mini").test[index]
    assert rows.dtype == torch.get_default_dtype()
    assert rows.shape[-1] == 784
    assert {*rows.unique().tolist()} == {0.0, 1.0}


def test_dynamic_binarisation_draws_training_rows_anew_with_the_right_means():
    train = datasets.load("mnist-mini").train
    first, second = train[:50], train[:50]
    assert not torch.equal(first, second)
    grey = train.values[:50].float() / 255
    draws = torch.stack([train[:50] for _ in range(400)]).double()
    error = (grey * (1 - grey) / 400).sqrt()
    inside = grey * (1 - grey) > 0.01
    z_scores = ((draws.mean(0) - grey) / error)[inside]
    assert z_scores.square().mean() == pytest.approx(1, abs=0.1)
    assert torch.equal(draws[:, grey == 0], torch.zeros_like(draws[:, grey == 0]))


def test_dynamic_binarisation_draws_test_rows_once():
    digits = datasets.load("mnist-mini")
    for split in (digits.validation, digits.test):
        assert torch.equal(split[:50], split[:50])
    assert torch.equal(digits.test[:50], datasets.load("mnist-mini").test[:50])
    assert not torch.equal(digits.test[:50], datasets.load("mnist-mini", seed=1).test[:50])


def test_a_splits_stream_is_its_own_and_goes_on_after_a_keyed_one():
    train, same = (datasets.load("mnist-mini").train for _ in range(2))
    torch.rand(5)
    assert torch.equal(train[:20], same[:20])
    with train.drawing("test", 3):
        first = train[:20]
    with train.drawing("test", 3):
        assert torch.equal(train[:20], first)
    with train.drawing("test", 4):
        assert not torch.equal(train[:20], first)
    assert torch.equal(train[:20], same[:20])
    assert not torch.equal(train[:20], datasets.load("mnist-mini", seed=1).train[:20])


def test_workers_of_a_loader_draw_apart_and_anew_each_epoch():
    split = datasets.Split(torch.full((8, 500), 128, dtype=torch.uint8), scale=255, redraw=True)
    loader = DataLoader(split, batch_size=4, num_workers=2)
    first, second = (torch.cat(list(loader)) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:4], first[4:])


@pytest.mark.parametrize("binarisation", ["static", "threshold", "none"])
def test_other_binarisations_hold_still(binarisation):
    digits = datasets.load("mnist-mini", binarisation=binarisation)
    assert torch.equal(digits.train[:20], digits.train[:20])
    binary = {*digits.train[:200].unique().tolist()} == {0.0, 1.0}
    assert binary == (binarisation != "none")
    assert digits.train.conventions["binarisation"] == binarisation


def test_threshold_is_one_half():
    grey = datasets.load("mnist-mini", binarisation="none").test[:100]
    assert torch.equal(
        datasets.load("mnist-mini", binarisation="threshold").test[:100], (grey > 0.5).to(grey)
    )


# ------------------------------------------------------------------------- dequantised greys


@pytest.fixture(scope="module")
def grey():
    return datasets.load("mnist-mini", binarisation="none")


def test_dequantised_rows_are_their_levels_and_uniform_noise(grey):
    digits = datasets.load("mnist-mini", dequantise=True)
    for part in ("train", "validation", "test"):
        rows, k = getattr(digits, part)[:200], getattr(grey, part).values[:200].to(torch.get_default_dtype())
        assert rows.min() > 0
        assert rows.max() < 1
        noise = 256 * rows - k
        assert torch.equal(noise.floor(), torch.zeros_like(k))
        # Uniform on 156,800 pixels: the standard error of the mean is 0.0007, of the square's 0.0008.
        assert noise.mean().item() == pytest.approx(1 / 2, abs=0.004)
        assert noise.square().mean().item() == pytest.approx(1 / 3, abs=0.004)
    assert not torch.equal((256 * digits.validation[:]).frac(), (256 * digits.test[:]).frac())


def test_dequantised_training_rows_are_drawn_anew_and_the_others_once():
    digits, same, other = (datasets.load("mnist-mini", dequantise=True, seed=seed) for seed in (0, 0, 1))
    first, second = digits.train[:50], digits.train[:50]
    assert not torch.equal(first, second)
    assert torch.equal((256 * first).floor(), (256 * second).floor())
    assert torch.equal(same.train[:50], first)
    assert torch.equal(same.train[:50], second)
    assert not torch.equal(other.train[:50], first)
    for part in ("validation", "test"):
        rows = getattr(digits, part)[:50]
        assert torch.equal(getattr(digits, part)[:50], rows)
        assert torch.equal(getattr(same, part)[:50], rows)
        assert not torch.equal(getattr(other, part)[:50], rows)
    with digits.train.drawing("test", 3):
        first = digits.train[:20]
    with digits.train.drawing("test", 3):
        assert torch.equal(digits.train[:20], first)


def test_workers_of_a_loader_dequantise_apart_and_anew_each_epoch():
    pixels = torch.full((8, 500), 128, dtype=torch.uint8)
    split = datasets.Split(pixels, scale=255, redraw=True, dequantise=True)
    loader = DataLoader(split, batch_size=4, num_workers=2)
    first, second = (torch.cat(list(loader)) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:4], first[4:])


def test_means_are_those_of_what_is_drawn(grey):
    digits = datasets.load("mnist-mini", dequantise=True)
    torch.testing.assert_close(digits.test.mean, digits.test[:].mean(0))
    expected = (grey.train.values.double().mean(0) + 0.5) / 256
    torch.testing.assert_close(digits.train.mean.double(), expected, rtol=1e-5, atol=0)
    # A mean of n draws has the standard error 1 / (256 sqrt(12 n)), and 784 of them stay within 5.
    error = 1 / (256 * math.sqrt(12 * 5000))
    assert (digits.train[:].double().mean(0) - expected).abs().max() < 5 * error


def test_dequantisation_is_among_the_conventions(grey):
    recorded = {"dataset": "mnist-mini", "split": "test", "binarisation": "none", "rows": 1000}
    grey_ones = {"dequantisation": "none", "values": "[0, 1]", "levels": 256, "dims": 784}
    assert grey.test.conventions == {**recorded, **grey_ones}
    digits = datasets.load("mnist-mini", binarisation="none", dequantise=True, seed=3)
    how = {"dequantisation": "uniform", "dequantisation_seed": 3, "values": "(0, 1)", "levels": 256}
    for split in (digits.train, digits.validation, digits.test):
        assert how.items() <= split.conventions.items()
    assert digits.test.conventions == {**recorded, **how, "dims": 784}


def test_a_split_of_ones_own_says_how_it_was_dequantised():
    split = datasets.Split(torch.tensor([[0, 31], [7, 8]]), scale=31, dequantise=True, seed=5)
    assert torch.equal((32 * split[:]).floor().long(), torch.tensor([[0, 31], [7, 8]]))
    assert split.conventions == {
        "dequantisation": "uniform",
        "dequantisation_seed": 5,
        "values": "(0, 1)",
        "levels": 32,
        "dims": 2,
        "rows": 2,
    }


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize(
    ("values", "scale", "message"),
    [
        (torch.tensor([[0.0, 0.5]]), 255, "dequantise: 0.5 among the values, .* undivided"),
        (torch.tensor([[0, 200]]), 1, "dequantise: 200 among the values, .* to a Split scale=255"),
        (torch.tensor([[0, 200]]), 254.5, "dequantise: 255.5 levels, 2 to 256 are possible"),
    ],
)
def test_values_that_are_no_levels_are_refused_at_once(redraw, values, scale, message):
    with pytest.raises(ValueError, match=message):
        datasets.Split(values, scale=scale, redraw=redraw, dequantise=True)


@pytest.mark.parametrize(
    ("name", "binarisation", "message"),
    [
        ("mnist-mini", "dynamic", "mnist-mini: .* binarisation 'dynamic' makes bits: choose 'none'"),
        ("mnist", "threshold", "mnist: .* binarisation 'threshold' makes bits: choose 'none'"),
        ("mnist-mini", "non", "unknown binarisation 'non': did you mean 'none'"),
        ("static-mnist", None, "static-mnist: .* these are bits: leave it out, or load mnist"),
        ("linear-gaussian", "none", "linear-gaussian: .* these are real numbers: leave it out"),
    ],
)
def test_what_cannot_be_dequantised(name, binarisation, message):
    with pytest.raises(ValueError, match=message) as raised:
        datasets.load(name, binarisation=binarisation, dequantise=True)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------- any split


def test_conventions_travel_with_each_split():
    digits = datasets.load("mnist-mini")
    said = {**digits.train.conventions}
    assert said["split"] == "train"
    assert said["rows"] == 5000
    assert digits.test.conventions["split"] == "test"


def test_a_split_feeds_a_data_loader():
    (batch, *_) = DataLoader(datasets.load("mnist-mini").test, batch_size=10)
    assert batch.shape == (10, 784)


def test_linear_gaussian_comes_with_its_exact_evidence():
    found = datasets.load("linear-gaussian")
    exact = found.oracle.log_evidence(found.test[:])
    result = pv.evaluate(found.oracle.model, found.oracle.guide, found.test, num_samples=5, progress=False)
    torch.testing.assert_close(result.log_evidence, exact.double(), rtol=1e-5, atol=1e-4)
    covariance = found.oracle.weight @ found.oracle.weight.T + found.oracle.noise.diag()
    sample = torch.cov(found.train[:].T)
    assert ((sample - covariance).norm() / covariance.norm()) < 8 * math.sqrt(2 / 2000)
    assert not torch.equal(found.train[:500], found.test[:])


# ------------------------------------------------------------------- files of the user's own


@pytest.fixture
def static_rows():
    return {name: np.random.default_rng(0).integers(0, 2, (n, 784), np.uint8) for name, n in
            {"train": 5, "valid": 3, "test": 4}.items()}  # fmt: skip


def test_static_mnist_from_npz_and_from_text_are_the_same(tmp_path, static_rows):
    packed = {name: np.packbits(rows, axis=1) for name, rows in static_rows.items()}
    (tmp_path / "npz").mkdir()
    (tmp_path / "amat").mkdir()
    np.savez(tmp_path / "npz" / "static_binarized_mnist.npz", **packed)
    for name, rows in static_rows.items():
        np.savetxt(tmp_path / "amat" / f"binarized_mnist_{name}.amat", rows, fmt="%d")
    for folder in ("npz", "amat"):
        found = datasets.load("static-mnist", tmp_path / folder)
        assert torch.equal(found.validation[:], torch.tensor(static_rows["valid"]).to(found.test[:]))
        assert len(found.train) == 5
        assert found.test.conventions["binarisation"] == "static"


def test_data_folder_by_environment(tmp_path, static_rows, monkeypatch):
    np.savez(tmp_path / "static_binarized_mnist.npz", **{
        name: np.packbits(rows, axis=1) for name, rows in static_rows.items()
    })  # fmt: skip
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    assert len(datasets.load("static-mnist").test) == 4


def test_static_mnist_missing_says_where_it_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"neither .*npz nor .* in {tmp_path}: put either there"):
        datasets.load("static-mnist", tmp_path)


def packed(rows: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **rows)
    return content.getvalue()


WHOLE = {name: np.full((3, 98), 255, np.uint8) for name in ("train", "valid", "test")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "npz is empty"),
        (b"PK\x03\x04 half a file", r"npz is damaged \(File is not a zip file\)"),
        (packed(WHOLE)[:300], r"npz is damaged \(File is not a zip file\)"),
        (b"<html>not found</html>", "npz is a web page"),
        (b"<!DOCTYPE html>", "npz is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "npz is a Git LFS pointer"),
        (b"\x80\x04K\x01.", r"npz is damaged \(.*pickle"),
        (packed(WHOLE | {"valid": np.array([None])}), "npz is damaged .Object arrays cannot be loaded"),
        (packed({"train": WHOLE["train"]}), "npz is damaged .'valid is not a file"),
        (packed(WHOLE | {"test": np.zeros((3, 98))}), "npz is damaged .Expected an input array of unsigned"),
        (packed(WHOLE | {"test": np.zeros((3, 97), np.uint8)}), r"npz is damaged .test has shape \(3, 776\)"),
        (packed(WHOLE | {"test": np.zeros((0, 98), np.uint8)}), r"npz is damaged .test has shape \(0, 784\)"),
    ],
)
def test_static_mnist_damaged_is_named(tmp_path, content, message):
    (tmp_path / "static_binarized_mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"static_binarized_mnist.{message}.*: fetch it again") as raised:
        datasets.load("static-mnist", tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "message"), [("0 1 0\n0 1", "damaged"), ("<html>", "is a web page")])
def test_a_damaged_text_file_is_the_one_that_is_named(tmp_path, static_rows, content, message):
    for name, rows in static_rows.items():
        np.savetxt(tmp_path / f"binarized_mnist_{name}.amat", rows, fmt="%d")
    (tmp_path / "binarized_mnist_valid.amat").write_text(content)
    with pytest.raises(ValueError, match=f"binarized_mnist_valid.amat.*{message}"):
        datasets.load("static-mnist", tmp_path)


@given(data=strategies.data())
@settings(max_examples=200)
def test_no_damage_to_a_file_is_read_as_other_numbers(data, tmp_path_factory):
    """A flipped byte, or an end that is missing, gives the same rows or an error that names the file."""
    whole = packed(WHOLE)
    place = data.draw(strategies.integers(0, len(whole) - 1))
    flip = data.draw(strategies.integers(0, 255))  # zero: cut here
    changed = bytearray(whole if flip else whole[:place])
    if flip:
        changed[place] ^= flip
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "static_binarized_mnist.npz").write_bytes(bytes(changed))
    try:
        found = datasets.load("static-mnist", folder)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.startswith(f"static-mnist: {folder}/static_binarized_mnist.npz is")
        return
    for split in (found.train, found.validation, found.test):
        assert torch.equal(split[:], torch.ones(3, 784))


def test_a_damaged_file_of_this_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MINI_MNIST", tmp_path / "mnist_mini.npz")
    (tmp_path / "mnist_mini.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"mnist_mini.npz is a Git LFS pointer.*: install pyrovae again"):
        datasets.load("mnist-mini")


def test_mnist_in_torchvisions_layout(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (60_000, 28, 28)), "t10k": rng.integers(0, 256, (10_000, 28, 28))}
    for name, pixels in images.items():
        write_idx(raw / f"{name}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{name}-labels-idx1-ubyte", rng.integers(0, 10, len(pixels)))
    found = datasets.load("mnist", tmp_path, binarisation="none")
    assert [len(s) for s in (found.train, found.validation, found.test)] == [50_000, 10_000, 10_000]
    expected = torch.tensor(images["train"][50_000].reshape(784)).to(torch.get_default_dtype()) / 255
    assert torch.equal(found.validation[0], expected)


def test_mnist_missing_and_offline_is_one_clear_line(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(FileNotFoundError, match=rf"mnist: no readable MNIST/raw in {tmp_path}") as raised:
        datasets.load("mnist", tmp_path)
    assert "\n" not in str(raised.value)


def test_mnist_damaged_is_one_clear_line(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"short"))
    with pytest.raises(FileNotFoundError, match="mnist: no readable"):
        datasets.load("mnist", tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00\x00\x08\x03\x00\x00\xea\x60" + bytes(8 + 784)])
def test_unpacked_mnist_that_is_damaged_says_to_delete_it(tmp_path, content):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"mnist: {raw} is damaged \(.*\): delete it, and it is fetched again"
    ):
        datasets.load("mnist", tmp_path)


# ------------------------------------------------------------------------------ bad names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist-mni",), "unknown data set 'mnist-mni': did you mean 'mnist-mini'?"),
        (("cifar",), "choose one of mnist-mini, mnist, static-mnist, linear-gaussian"),
    ],
)
def test_misspelt_names(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        datasets.load(*arguments)


@pytest.mark.parametrize(
    ("name", "binarisation", "message"),
    [
        ("mnist-mini", "dinamic", "unknown binarisation 'dinamic': did you mean 'dynamic'"),
        ("static-mnist", "dynamic", "comes with binarisation 'static' only"),
        ("linear-gaussian", "dynamic", "comes with binarisation 'none' only"),
    ],
)
def test_binarisations_that_cannot_be_had(name, binarisation, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(name, binarisation=binarisation)


def test_every_listed_name_is_loadable_or_says_what_is_missing(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    for name in DATASETS:
        if name in ("mnist", "static-mnist", "shards"):
            with pytest.raises(FileNotFoundError, match=f"{name}: .*{tmp_path}"):
                datasets.load(name, tmp_path)
        else:
            assert datasets.load(name, tmp_path).name == name


def test_importing_the_package_touches_neither_torchvision_nor_arviz_nor_validation():
    code = (
        "import sys, torch; before = torch.distributions.Distribution._validate_args\n"
        "import pyrovae as pv; [getattr(pv, name) for name in pv.__all__]\n"
        "assert not {'torchvision', 'arviz', 'zuko', 'lightning', 'submitit'} & set(sys.modules)\n"
        "assert torch.distributions.Distribution._validate_args == before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
