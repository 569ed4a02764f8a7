"""Rows on the disk are those of a tensor: read, trained on, gone on with and evaluated, to the bit."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from components import FEATURES, a_vae, binary
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import pyrovae as pv
from pyrovae import cli
from pyrovae.data.batches import batches
from pyrovae.data.images import ImageRows
from pyrovae.data.shards import Shards, write_shards
from pyrovae.data.split import Split

ROWS, A_FILE, BATCH = 23, 5, 6  # five files, the last of 3 rows; four steps, the last of 5 rows
KINDS = {
    "npy": {"format": "npy"},
    "npz": {"format": "npz"},
    "compressed": {"format": "npz", "compress": True},
    "safetensors": {"format": "safetensors"},
}


def levels(rows=ROWS, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, FEATURES), generator=noise).to(torch.uint8)


def written(folder, rows=None, **keywords) -> Shards:
    return write_shards(levels() if rows is None else rows, folder, **{"rows_per_shard": A_FILE, **keywords})


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("kind", KINDS)
def test_any_index_is_a_tensors(tmp_path, kind):
    x, y = levels(), torch.arange(ROWS)
    written(tmp_path, x, labels=y, **KINDS[kind])
    assert len({path.name for path in tmp_path.rglob("*00000?.*")}) == 5
    shards = Shards(tmp_path)
    pairs = Shards(tmp_path, labels="labels")
    assert (len(shards), shards.shape, shards.dtype) == (ROWS, x.shape, torch.uint8)
    for index in (
        3,
        -1,
        np.int64(4),
        torch.tensor(5),
        slice(0, 0),
        slice(None),
        slice(2, 21, 3),
        [22, 0, 0, 7, 8, 9, -2],
        torch.tensor([4, 5, 22]),
        torch.arange(ROWS) % 2 == 0,
    ):
        assert torch.equal(shards[index], x[index]), index
        for found, expected in zip(pairs[index], (x[index], y[index]), strict=True):
            assert torch.equal(found, expected), index
    with pytest.raises(ValueError, match="Split: rows with labels are pairs"):
        Split(pairs)
    with pytest.raises(IndexError, match="row 23 is asked for, and there are 23"):
        shards[[0, 23]]
    assert [row.tolist() for row in shards.__getitems__([9, 1])] == x[[9, 1]].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_types_stay_what_they_are(tmp_path, dtype):
    x = levels().to(dtype)
    found = written(tmp_path, x, format="safetensors")[:]
    assert found.dtype == dtype
    assert torch.equal(found, x)
    if dtype == torch.bfloat16:
        with pytest.raises(ValueError, match=r"numpy has no bfloat16: pass format='safetensors'"):
            written(tmp_path / "npy", x)


def test_files_of_somebody_else_need_no_index(tmp_path):
    """Rows of more dims, under another name, beside other arrays; numbers without leading zeros."""
    x = torch.rand(4 * 11, 2, 3)
    for number, part in enumerate(x.split(4)):
        save_file({"image": part.contiguous(), "a": torch.zeros(1)}, tmp_path / f"part{number}.safetensors")
    shards = Shards(tmp_path, key="image")
    assert torch.equal(shards[:], x)
    again = write_shards(shards, tmp_path / "again", rows_per_shard=4, format="npz")
    assert again.fingerprint == shards.fingerprint  # the index's and the one by reading are the same
    x[17, 1, 2] += 1
    for number, part in enumerate(x.split(4)):
        np.savez(tmp_path / "again" / f"shard-{number:06d}.npz", x=part.numpy())
    (tmp_path / "again" / "index.json").unlink()
    assert Shards(tmp_path / "again").fingerprint != shards.fingerprint
    bare = written(tmp_path / "npy", labels=torch.arange(ROWS))
    (tmp_path / "npy" / "index.json").unlink()
    assert Shards(tmp_path / "npy").fingerprint == bare.fingerprint
    assert torch.equal(Shards(tmp_path / "npy", key="labels")[:], torch.arange(ROWS))


def test_columns_are_read_as_rows(tmp_path):
    x = levels().numpy()
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(x))
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "a.npy", np.asfortranarray(x))
    assert torch.equal(Shards(tmp_path)[:], torch.from_numpy(x))
    (tmp_path / "x" / "a.npy").unlink()
    (tmp_path / "x").rmdir()
    assert torch.equal(Shards(tmp_path)[[3, 1]], torch.from_numpy(x[[3, 1]]))


def test_a_folder_of_an_older_version_is_read(tmp_path):
    """Of format 1: arrays in .npz files alone, its index as it was written then."""
    hashes = []
    for number, part in enumerate(levels().split(A_FILE)):
        np.savez(tmp_path / f"shard-{number:06d}.npz", x=part.numpy())
        hashes.append(crc32(part.numpy().tobytes()))
    files = sorted(tmp_path.glob("*.npz"))
    index = {
        "format": 1,
        "shards": [
            {"file": path.name, "rows": rows, "size": path.stat().st_size, "crc32": {"x": found}}
            for path, rows, found in zip(files, [5, 5, 5, 5, 3], hashes, strict=True)
        ],
        "split": {"scale": 255.0, "redraw": True, "dequantise": False, "seed": 4, "shape": None},
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    shards = Shards(tmp_path)
    shards.verify()
    assert torch.equal(shards[:], levels())
    split = Split(levels(), scale=255, redraw=True, seed=4)
    assert torch.equal(shards.as_split()[3:9], split[3:9])
    assert shards.fingerprint == written(tmp_path / "new").fingerprint


SPLITS = {
    "grey": {"scale": 255},
    "redrawn": {"scale": 255, "redraw": True, "seed": 4},
    "dequantised": {"scale": 255, "redraw": True, "dequantise": True},
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_of_shards_is_the_split_that_was_written(tmp_path, name):
    y = torch.arange(ROWS) % 3
    split = Split(levels(), labels=y, shape=(2, FEATURES // 2), conventions={"a": 1}, **SPLITS[name])
    again = written(tmp_path, split).as_split()
    for index in (slice(3, 9), [22, 0]):
        assert torch.equal(again[index], split[index])  # and the draws, which go on from access to access
    assert (again.shape, again.conventions) == (split.shape, split.conventions)
    assert torch.equal(again.labels, y)
    torch.testing.assert_close(again.mean, split.mean)


def test_the_mean_is_that_of_what_is_drawn():
    """Of 4,000 draws: an error of 0.29 / 256 / 63, a hundredth of the half level that noise adds."""
    split = Split(levels()[:2], scale=255, redraw=True, dequantise=True)
    drawn = torch.stack([split[:] for _ in range(4000)]).mean((0, 1))
    torch.testing.assert_close(split.mean, drawn, rtol=0, atol=1e-4)


def test_noise_that_is_drawn_once_is_in_the_shards(tmp_path):
    split = Split(levels(), scale=255, dequantise=True)
    again = written(tmp_path, split).as_split()
    assert torch.equal(again[:], split[:])
    assert again.conventions == split.conventions
    with pytest.raises(ValueError, match="of rows on the disk the noise cannot be drawn once"):
        Split(written(tmp_path / "grey"), scale=255, dequantise=True)
    with pytest.raises(ValueError, match=r"dequantise: \d+ among the values"):
        Split(written(tmp_path / "bits", levels() // 2 + 200), dequantise=True, redraw=True)


class CutError(Exception):
    """As a kill between two steps."""


class CutAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self, training):
        pass

    def step(self, training):
        self.left -= 1
        if not self.left:
            raise CutError


def fitted(data, folder=None, cut=0, **keywords):
    """Weights and history after two epochs, cut off in the given step and taken up again."""
    start = a_vae().state_dict()
    for steps in [cut, 0] if cut else [0]:
        torch.manual_seed(0)
        vae = a_vae()
        vae.load_state_dict(start)
        try:
            history = pv.fit(
                *(vae.model, vae.guide, data),
                **{"num_epochs": 2, "batch_size": BATCH, "seed": 3, "compile": False, "progress": False},
                **{"resume": folder, "checkpoint_every": 0.0, "callbacks": [CutAfter(steps)], **keywords},
            )
        except CutError:
            continue
    columns = {name: value for name, value in asdict(history).items() if "seconds" not in name}
    return columns, {name: value.clone() for name, value in vae.state_dict().items()}


def assert_same(a, b):
    assert a[0] == b[0]
    for name in a[1]:
        assert torch.equal(a[1][name], b[1][name]), name


@pytest.mark.parametrize("name", ["bits", "redrawn"])
def test_fit_is_that_on_a_tensor_and_goes_on_amid_an_epoch(tmp_path, name):
    torch.manual_seed(1)
    if name == "bits":
        x = binary(ROWS)
        shards = written(tmp_path / "x", x)
    else:
        x = Split(levels(), **SPLITS[name])
        shards = written(tmp_path / "x", x).as_split()
    torch.manual_seed(2)
    whole = fitted(x, validation=x)
    for cut in (2, 5):
        torch.manual_seed(2)
        assert_same(fitted(shards, tmp_path / str(cut), cut, validation=shards), whole)
    other = written(tmp_path / "y", 255 - levels() if name == "redrawn" else 1 - x, scale=255, redraw=True)
    with pytest.raises(ValueError, match=r"data\.fingerprint is \w{8} there and \w{8} here"):
        fitted(other.as_split() if name == "redrawn" else other, tmp_path / "2", validation=shards)


def test_shards_in_a_new_order_go_on_too(tmp_path):
    x = binary(ROWS)
    written(tmp_path / "x", x, compress=True)
    shards = Shards(tmp_path / "x", shuffle="shards", mixed=2)
    torch.manual_seed(2)
    whole = fitted(shards)
    torch.manual_seed(2)
    assert_same(fitted(Shards(tmp_path / "x", shuffle="shards", mixed=2), tmp_path / "run", 3), whole)
    with pytest.raises(ValueError, match=r"data\.shuffle is 2 shards there and nothing here"):
        fitted(Shards(tmp_path / "x"), tmp_path / "run")


def test_an_order_by_shards_has_each_row_once_and_few_files_at_a_time(tmp_path):
    written(tmp_path, levels(12 * A_FILE))
    shards = Shards(tmp_path, shuffle="shards", mixed=3)
    orders = [shards.row_order(torch.Generator().manual_seed(seed)) for seed in range(2)]
    assert not torch.equal(*orders)
    for order in orders:
        assert order.sort().values.tolist() == list(range(12 * A_FILE))
        groups = [set((rows // A_FILE).tolist()) for rows in order.split(3 * A_FILE)]
        assert [len(files) for files in groups] == [3] * 4
        assert order[: 3 * A_FILE].tolist() != sorted(order[: 3 * A_FILE].tolist())
    plain = Shards(tmp_path).row_order(torch.Generator().manual_seed(0))
    assert torch.equal(plain, torch.randperm(12 * A_FILE, generator=torch.Generator().manual_seed(0)))


def test_evaluate_has_the_tiles_and_the_bits_of_a_tensor(tmp_path):
    x = binary(150)
    shards, vae = written(tmp_path / "x", x, rows_per_shard=40), a_vae()
    keywords = {"num_samples": 20, "progress": False}
    whole = pv.evaluate(vae.model, vae.guide, x, **keywords)
    ways = {
        "shards": (shards, {}),
        "batches": (shards, {"batch_size": 37}),
        "loader": (DataLoader(shards, 19, num_workers=1), {}),
        "subset": (Subset(shards, range(150)), {}),
        "kept": (shards, {"resume": tmp_path / "partial"}),
    }
    for name, (data, more) in ways.items():
        found = pv.evaluate(vae.model, vae.guide, data, **keywords, **more)
        for column in ("log_evidence", "elbo", "standard_error", "ess"):
            assert torch.equal(getattr(found, column), getattr(whole, column)), (name, column)
        assert found.conventions["fingerprint"] == whole.conventions["fingerprint"], name


def test_rows_with_labels_are_two_arguments(tmp_path):
    x, y = binary(70), torch.rand(70, 1)
    vae = a_vae()
    model, guide = (lambda x, y: vae.model(x)), (lambda x, y: vae.guide(x))
    written(tmp_path, x, labels=y)
    shards = Shards(tmp_path, labels="labels")
    found = [
        pv.evaluate(model, guide, data, num_samples=20, progress=False).log_evidence
        for data in ((x, y), shards, DataLoader(shards, 16))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def cut_short(folder):
    path = folder / "shard-000002.npz"
    path.write_bytes(path.read_bytes()[:-20])


def other_rows(**arrays):
    return lambda folder: np.savez(folder / "shard-000002.npz", **arrays)


def bare(then):
    """Without an index."""

    def done(folder):
        (folder / "index.json").unlink()
        then(folder)

    return done


def index_is(**changed):
    def done(folder):
        path = folder / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return done


ZEROS = np.zeros((5, FEATURES), np.uint8)
FAULTS = {
    "cut short": (cut_short, r"shard-000002.npz: [\d,]+ bytes, and [\d,]+ were written"),
    "cut short, no index": (
        bare(cut_short),
        r"shard-000002.npz: array 'x' cannot be read \(File is not a zip",
    ),
    "missing": (
        lambda f: (f / "shard-000003.npz").unlink(),
        "shard-000003.npz: missing, and index.json lists it",
    ),
    "missing, no index": (
        bare(lambda f: (f / "shard-000003.npz").unlink()),
        r"file number 3 of 'shard-' is missing",
    ),
    "misshapen": (
        bare(other_rows(x=ZEROS[:, 1:])),
        rf"shard-000002.npz: rows of 'x' are torch.uint8 of shape \({FEATURES - 1},\), and in shard-000000",
    ),
    "another type": (bare(other_rows(x=ZEROS.astype("f4"))), "'x' are torch.float32 of shape"),
    "another name": (
        bare(other_rows(y=ZEROS)),
        r"shard-000002.npz: array 'x' cannot be read \(no array 'x' in it, only y",
    ),
    "no rows": (
        bare(other_rows(x=ZEROS[:0])),
        r"shard-000002.npz: array 'x' cannot be read \(it has no rows\)",
    ),
    "text": (
        bare(other_rows(x=np.array(["a"]))),
        "shard-000002.npz: array 'x' .*can't convert np.ndarray of type numpy.str_",
    ),
    "pickled": (bare(other_rows(x=np.array([None]))), "shard-000002.npz: array 'x' .*[Oo]bject"),
    "other bytes": (
        bare(other_rows(x=ZEROS.astype(">f4"))),
        "shard-000002.npz: array 'x' .*byte order different from the native",
    ),
    "a web page": (
        bare(lambda f: (f / "shard-000002.npz").write_text("<html>not found")),
        "shard-000002.npz: is a web page",
    ),
    "two kinds": (bare(lambda f: (f / "a.safetensors").touch()), "holds .npz and .safetensors files"),
    "index damaged": (lambda f: (f / "index.json").write_text("{"), "index.json: no index of shards"),
    "index of no split": (index_is(split={"values": 1}), "index.json: no index of shards .*values"),
    "index of no scale": (index_is(split={"scale": 0}), "index.json: no index of shards .*scale"),
    "index of another folder": (
        index_is(shards=[{"file": "../a.npz", "rows": 1, "size": 1, "crc32": {}}]),
        "index.json: no index of shards .*file",
    ),
    "index of other arrays": (
        index_is(
            shards=[
                {"file": "a.npz", "rows": 1, "size": 1, "crc32": {"x": 1, "labels": 2}},
                {"file": "b.npz", "rows": 1, "size": 1, "crc32": {"x": 1}},
            ]
        ),
        r"index.json: no index of shards .*a.npz has arrays \['x', 'labels'\], b.npz \['x'\]",
    ),
    "index newer": (index_is(format=9), "index.json: format 9, and this version reads 2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_shard_that_is_wrong_is_named_in_one_line(tmp_path, name):
    done, message = FAULTS[name]
    written(tmp_path, format="npz")
    done(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Shards(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"shape": [2, 2], "data_offsets": [-16, 0]},  # its own header as rows
        {"shape": [2, 2], "data_offsets": [0, 32]},
        {"shape": [-2, -2], "data_offsets": [0, 16]},
        {"shape": [4, 4], "data_offsets": [0, 64]},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, said):
    header = json.dumps({"x": {"dtype": "F32", **said}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(32)
    (tmp_path / "shard-0.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"shard-0.safetensors: array 'x' cannot be read \(Error while deser"
    ):
        Shards(tmp_path)


@pytest.mark.parametrize("format", ["npy", "npz"])
def test_what_happens_later_is_named_too(tmp_path, format):
    shards = written(tmp_path, format=format)
    path = tmp_path / ("x/000002.npy" if format == "npy" else "shard-000002.npz")
    content = bytearray(path.read_bytes())
    content[-3 if format == "npy" else len(content) // 2 - 40] ^= (
        1  # amid the rows, before the archive's list
    )
    shards.verify()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"000002.np[yz]: (not the values of 'x' that were|.*Bad CRC)"):
        Shards(tmp_path).verify()
    path.write_bytes(content[:90])
    with pytest.raises(ValueError, match=r"000002.np[yz]: array 'x' cannot be read"):
        shards[:]
    path.unlink()
    with pytest.raises(ValueError, match=r"000002.np[yz]: cannot be opened \(No such file"):
        shards[:]
    for folder in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"none: no such folder|empty: no \.npz or \.safetensors"):
            Shards(folder)
    with pytest.raises(ValueError, match=r"holds 'empty': name an empty folder"):
        written(tmp_path)
    for _ in range(2):  # and nothing stays of it
        with pytest.raises(ValueError, match="there are no rows"):
            write_shards(levels(0), tmp_path / "no rows")


def test_a_writing_that_was_cut_short_is_not_taken_for_the_whole(tmp_path):
    def rows():
        yield from levels().split(5)[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(rows(), tmp_path, rows_per_shard=5)
    assert len(list(tmp_path.glob("x/*.npy"))) == 3
    with pytest.raises(ValueError, match=r"its writing was cut short: empty the folder, and write"):
        Shards(tmp_path)
    with pytest.raises(ValueError, match="name an empty folder for the shards, or empty it"):
        write_shards(levels(), tmp_path)


@pytest.mark.parametrize("index", [(3, 1), (slice(None), 0), [0.7], 1.5, True, None, torch.ones(3).bool()])
def test_what_is_no_number_of_rows_is_refused(tmp_path, index):
    with pytest.raises(IndexError, match="no index of rows"):
        written(tmp_path)[index]


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("kind", "megabytes"),
    [
        ("npy", 16),
        ("npz", 16),
        ("compressed", 16),
        ("safetensors", 16),
        *(pytest.param(kind, 256, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_memory_stays_flat(tmp_path, kind, megabytes):
    """At no batch of an epoch is it more than 6 MB above where it began: a few files of half a megabyte."""
    rows = torch.zeros(32, 2**14, dtype=torch.uint8)
    content = (rows + i % 256 for i in range(2 * megabytes))
    write_shards(content, tmp_path, rows_per_shard=32, **KINDS[kind])
    shards = Shards(tmp_path, shuffle="shards", mixed=2)
    size = shards.shape.numel()
    assert size == megabytes * 2**20
    list(batches(Subset(shards, range(100)), 16, "warm up"))
    before, most, rows = resident(), 0, 0
    for (x,) in batches(shards, 16, "train", 0, shuffle=True):
        most, rows = max(most, resident()), rows + len(x)
    assert rows == len(shards)
    assert most - before < 6 * 2**20
    assert len(shards._open) <= 2


class Stream(IterableDataset):
    """Rows one by one, of a length that it states."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(binary(9))


def test_an_iterable_dataset_comes_in_its_order_and_goes_on(tmp_path):
    x = binary(ROWS)
    torch.manual_seed(2)
    whole = fitted(Stream(x))
    torch.manual_seed(2)
    assert_same(fitted(Stream(x), tmp_path / "run", 3), whole)
    torch.manual_seed(2)
    assert_same(fitted(DataLoader(Stream(x), BATCH)), whole)
    torch.manual_seed(2)
    assert_same(fitted(DataLoader(x, BATCH)), whole)  # a loader in sequence
    vae = a_vae()
    found = [
        pv.evaluate(vae.model, vae.guide, data, num_samples=20, progress=False).log_evidence
        for data in (x, Stream(x), DataLoader(Stream(x), 4))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_an_iterable_dataset_cannot_do_is_said():
    vae = a_vae()
    with pytest.raises(TypeError, match=r"an IterableDataset without a length.*write_shards"):
        pv.fit(vae.model, vae.guide, Endless(), num_epochs=1, progress=False)
    twice = DataLoader(Stream(binary(ROWS)), 4, num_workers=2)
    with pytest.raises(ValueError, match="gave 46 rows, and its length is 23: let each worker give its own"):
        list(batches(twice, 4, "a test"))


class Pairs(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return levels()[index], index


def test_anything_that_gives_rows_can_be_written(tmp_path):
    x = levels()
    ways = {
        "array": x.numpy(),
        "batches": iter(x.split(4)),
        "loader": DataLoader(x, 7),
        "iterable": Stream(x),
        "dataset": Pairs(),
        "shards": written(tmp_path / "first"),
    }
    for name, data in ways.items():
        shards = written(tmp_path / name, data)
        assert torch.equal(shards[:], x), name
        assert len(list((tmp_path / name).glob("x/*.npy"))) == math.ceil(ROWS / A_FILE), name
    assert Shards(tmp_path / "dataset", labels="labels")[4][1] == 4
    with pytest.raises(ValueError, match="come after rows of"):
        write_shards([x[:4], x[:4, 1:]], tmp_path / "unlike")


def test_batches_of_any_size_fill_shards_of_one(tmp_path):
    x, y = levels(), torch.arange(ROWS)
    for place, size in enumerate((1, 4, 7, ROWS)):
        batches = zip(x.split(size), y.split(size), strict=True)
        shards = write_shards(batches, tmp_path / str(place), rows_per_shard=4)
        assert [shard.rows for shard in shards.index.shards] == [4, 4, 4, 4, 4, 3]
        pairs = Shards(shards.folder, labels="labels")
        assert all(map(torch.equal, pairs[:], (x, y)))
    for labels in (y[:4], torch.tensor(3)):
        with pytest.raises(ValueError, match="expected rows, or pairs of rows and as many labels"):
            write_shards([(x[:5], labels), (x[:4], y[:5])], tmp_path / "uneven")


def test_images_in_folders_are_rows(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(6):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 10 + number, 3), 40 * number, np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")
    images = ImageRows(tmp_path / "images", size=(4, 6))
    assert (images.shape, images.image_shape) == (torch.Size((6, 3 * 4 * 6)), (3, 4, 6))
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images[[0, 5]][:, 0].tolist() == [0, 200]
    split = Split(images, scale=255, shape=images.image_shape, labels=images.labels)
    torch.testing.assert_close(split[3], torch.full((72,), 40 / 255))
    again = written(tmp_path / "shards", split).as_split()
    assert torch.equal(again[:], split[:])
    assert torch.equal(again.labels, images.labels)
    assert ImageRows(tmp_path / "images", size=(5, 5), grey=True).shape == (6, 25)
    (tmp_path / "images" / "a" / "4.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"4\.png: no image that can be read"):
        images[:]


def test_a_recipe_trains_and_evaluates_shards_of_the_root_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pyrovae.reports.figures._figures", lambda *_: {})
    digits = pv.datasets.load("mnist-mini")
    for part in ("train", "validation", "test"):
        split = getattr(digits, part)
        some = Split(split.values[:70], scale=255, redraw=split.redraw, conventions=split.conventions)
        write_shards(some, tmp_path / "data" / part, rows_per_shard=30)
    more = ["--dataset", "shards", "--root", str(tmp_path / "data")]
    small = ["--num-epochs", "1", "--hidden", "8", "--latent-dim", "2"]
    assert cli.main(["train", str(tmp_path / "run"), *more, *small]) == 0
    guide = ["--num-samples", "20", "--proposal", "guide"]
    assert cli.main(["evaluate", str(tmp_path / "run"), *more[2:], *guide]) == 0
    result = pv.Evaluation.load(tmp_path / "run" / "evaluation.nc")
    assert result.conventions["binarisation"] == "dynamic"
    vae = pv.load(tmp_path / "run")
    again = pv.evaluate(vae.model, vae.guide, digits.test[:70], num_samples=20, progress=False)
    assert torch.equal(again.log_evidence, result.log_evidence)
    capsys.readouterr()
    assert cli.main(["train", str(tmp_path / "b"), *more, "--binarisation", "none"]) == 2
    assert "was written with binarisation 'dynamic', got 'none'" in capsys.readouterr().err
    assert cli.main(["train", str(tmp_path / "b"), *more[:3], str(tmp_path)]) == 2
    assert f"shards: no folder 'train' in {tmp_path}" in capsys.readouterr().err
