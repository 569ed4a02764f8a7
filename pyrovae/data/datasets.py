"""Data sets by name, each with its conventions recorded: a log p(x) means nothing without them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pyrovae.core import registry
from pyrovae.core.checks import choose
from pyrovae.core.random import generator, seed_of
from pyrovae.core.registry import DATASETS
from pyrovae.data import files as sources
from pyrovae.data.images import ImageRows
from pyrovae.data.rows import fingerprint
from pyrovae.data.shards import Shards, write_shards
from pyrovae.data.split import Split
from pyrovae.models.exact import LinearGaussian

__all__ = ["BINARISATIONS", "Dataset", "ImageRows", "Shards", "Split", "load", "write_shards"]

BINARISATIONS = ("dynamic", "static", "threshold", "none")
"""dynamic: training data are drawn anew at each access, validation and test data once. static: every
split is drawn once. threshold: ones above 1/2. none: grey values, as they are or dequantised."""


@dataclass(frozen=True)
class Dataset:
    """Three splits of one data set.

    Attributes:
        name: The name it was loaded by.
        train: For the parameters.
        validation: For choices.
        test: For the number that is reported.
        oracle: The model the data came from, where they are synthetic: its ``log_evidence(x)`` is
            exact.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    oracle: LinearGaussian | None = None

    @property
    def fingerprint(self) -> str:
        """Of the stored values of every split, before anything is drawn: the same data have the same."""
        return f"{fingerprint(split.values for split in (self.train, self.validation, self.test)):08x}"


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    binarisation: str | None = None,
    dequantise: bool = False,
    seed: int = 0,
) -> Dataset:
    """Load a data set by name.

    =============== =================================== ===================== ====================
    name            what                                rows (tr / val / te)  binarisation
    =============== =================================== ===================== ====================
    mnist-mini      the first digits of MNIST, embedded 5,000/1,000/1,000     dynamic, or another
    mnist           MNIST, by torchvision               50,000/10,000/10,000  dynamic, or another
    static-mnist    Larochelle and Murray's binary file 50,000/10,000/10,000  static (theirs)
    linear-gaussian synthetic, log p(x) known exactly   2,000/500/500         none
    shards          folders that write_shards wrote     as written            as written
    =============== =================================== ===================== ====================

    Of "shards" the root has three folders, train, validation and test: see :func:`write_shards`. They stay
    on the disk, whatever their size.

    Args:
        name: One of the above, or of another package's: see :mod:`pyrovae.registry`.
        root: Folder of the files; else ``$PYROVAE_DATA``, else the user's cache folder.
        binarisation: One of :data:`BINARISATIONS`, for mnist and mnist-mini.
        dequantise: Grey levels k as ``(k + u) / 256``, u uniform, for a continuous density: strictly
            within (0, 1), the training rows with new noise at each access, validation and test rows
            with noise drawn once. For mnist and mnist-mini, where it makes "none" the default
            binarisation. :func:`pyrovae.bits_per_dim` reports such a density.
        seed: Of the binarisation or dequantisation, and of the synthetic data.

    Raises:
        ValueError: An unknown name or binarisation, or one the data do not come in; bits or real
            numbers to be dequantised.
        FileNotFoundError: The files are not there and cannot be downloaded.

    References:
        Salakhutdinov and Murray, On the Quantitative Analysis of Deep Belief Networks, 2008, for
        drawing the pixels; Burda et al., 2016, for drawing them anew. arXiv:1509.00519
        Theis et al., A note on the evaluation of generative models, 2016, for dequantisation.
        arXiv:1511.01844

    Example:
        >>> digits = load("mnist-mini")
        >>> digits.train[:128].shape, digits.train.shape
        (torch.Size([128, 784]), (28, 28))
        >>> load("mnist-mini", dequantise=True).test.conventions["dequantisation"]
        'uniform'
    """
    name = registry.canonical("datasets", name)
    if name not in DATASETS:
        make = registry.find("datasets", name)
        return make(root=root, binarisation=binarisation, dequantise=dequantise, seed=seed)
    if name == "shards":
        return _shards(root, binarisation, dequantise)
    if name in ("mnist", "mnist-mini"):
        binarisation = binarisation or ("none" if dequantise else "dynamic")
        choose("binarisation", binarisation, BINARISATIONS)
        if dequantise and binarisation != "none":
            raise ValueError(
                f"{name}: dequantise=True is for grey values, and binarisation '{binarisation}' makes bits: "
                f"choose 'none', or leave dequantise out"
            )
        rows = sources.read_mini_mnist() if name == "mnist-mini" else _read_mnist(root)
        return _images(name, rows, binarisation, dequantise, seed)
    only = "static" if name == "static-mnist" else "none"
    if binarisation not in (None, only):
        raise ValueError(f"{name}: comes with binarisation '{only}' only, got '{binarisation}'")
    if dequantise:
        what = "bits" if name == "static-mnist" else "real numbers"
        raise ValueError(
            f"{name}: dequantise=True is for grey values, and these are {what}: leave it out, or load "
            f"mnist or mnist-mini"
        )
    if name == "static-mnist":
        return _static_mnist(sources.read_static_mnist(root))
    return _linear_gaussian(seed)


def _images(
    name: str, rows: dict[str, np.ndarray], binarisation: str, dequantise: bool, seed: int
) -> Dataset:
    def split(position: int, part: str) -> Split:
        grey = torch.from_numpy(rows[part])
        redraw = part == "train" and (binarisation == "dynamic" or dequantise)
        if binarisation == "threshold":
            grey = 255 * (grey > 127).to(torch.uint8)
        elif binarisation != "none" and not redraw:
            ones = torch.bernoulli(grey.float() / 255, generator=generator("binarisation", seed, position))
            grey = 255 * ones.to(torch.uint8)
        return Split(
            grey,
            scale=255,
            redraw=redraw,
            dequantise=dequantise,
            # What is drawn once has noise of its own in each split.
            seed=seed if redraw or not dequantise else seed_of("dequantisation", seed, position),
            labels=torch.from_numpy(rows[f"{part}_labels"]).long(),
            shape=(28, 28),
            conventions={
                "dataset": name,
                "split": part,
                "binarisation": binarisation,
                "dequantisation": "none",
                **({"binarisation_seed": seed} if binarisation in ("dynamic", "static") else {}),
                **({"dequantisation_seed": seed} if dequantise else {}),
                **({"values": "[0, 1]", "levels": 256} if binarisation == "none" else {"values": "{0, 1}"}),
            },
        )

    return _three(name, split)


def _static_mnist(rows: dict[str, np.ndarray]) -> Dataset:
    def split(_: int, part: str) -> Split:
        conventions = {
            "dataset": "static-mnist",
            "split": part,
            "binarisation": "static",
            "dequantisation": "none",
            "values": "{0, 1}",
        }
        return Split(torch.from_numpy(rows[part]), shape=(28, 28), conventions=conventions)

    return _three("static-mnist", split)


def _linear_gaussian(seed: int) -> Dataset:
    weight = torch.randn(8, 3, generator=generator("linear-gaussian", seed), dtype=torch.float64)
    oracle = LinearGaussian(weight.to(torch.get_default_dtype()), noise=0.25)

    def split(position: int, part: str) -> Split:
        rows = oracle.sample(
            2000 if part == "train" else 500, seed=seed_of("linear-gaussian rows", seed, position)
        )
        conventions = {
            "dataset": "linear-gaussian",
            "split": part,
            "binarisation": "none",
            "dequantisation": "none",
            "values": "real",
            "data_seed": seed,
        }
        return Split(rows, conventions=conventions)

    return _three("linear-gaussian", split, oracle)


def _shards(root: str | os.PathLike[str] | None, binarisation: str | None, dequantise: bool) -> Dataset:
    folder = sources.data_folder(root)
    for part in ("train", "validation", "test"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"shards: no folder '{part}' in {folder}: write train, validation and test there by "
                f"pyrovae.datasets.write_shards, or name their folder with root= or PYROVAE_DATA"
            )

    def split(_: int, part: str) -> Split:
        found = Shards(folder / part).as_split(dataset="shards", split=part)
        said = found.conventions
        there = said.get("binarisation", "none")
        if binarisation not in (None, there):
            raise ValueError(
                f"shards: {folder / part} was written with binarisation '{there}', got '{binarisation}'"
            )
        if dequantise and said.get("dequantisation", "none") == "none":
            raise ValueError(
                f"shards: {folder / part} was written without dequantisation: write shards of a Split that "
                f"has dequantise=True"
            )
        return found

    return _three("shards", split)


def _three(name: str, split: Callable[[int, str], Split], oracle: LinearGaussian | None = None) -> Dataset:
    train, validation, test = map(split, range(3), ("train", "validation", "test"))
    return Dataset(name, train, validation, test, oracle)


def _read_mnist(root: str | os.PathLike[str] | None) -> dict[str, np.ndarray]:
    folder = sources.data_folder(root)
    raw = folder / "MNIST" / "raw"
    try:
        from torchvision.datasets import MNIST

        train, test = (MNIST(str(folder), train=part, download=True) for part in (True, False))
        if (len(train.data), len(test.data), len(train.targets), len(test.targets)) != (60_000, 10_000) * 2:
            raise ValueError(f"{len(train.data):,} and {len(test.data):,} images, expected 60,000 and 10,000")
    except Exception as error:  # torchvision asserts, and torch raises what it likes of damaged files
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if not isinstance(error, ImportError) and len(list(raw.glob("*-ubyte"))) == 4:
            raise ValueError(
                f"mnist: {raw} is damaged ({reason}): delete it, and it is fetched again"
            ) from error
        raise FileNotFoundError(
            f"mnist: no readable MNIST/raw in {folder}, and no download ({reason}): copy the four unpacked "
            f"*-ubyte files to {raw} or name their folder with root= or "
            f"PYROVAE_DATA; if torchvision is at fault, install one that fits your torch"
        ) from error
    images, labels = train.data.numpy().reshape(-1, 784), train.targets.numpy()
    return {
        "train": images[:50_000],
        "train_labels": labels[:50_000],
        "validation": images[50_000:],
        "validation_labels": labels[50_000:],
        "test": test.data.numpy().reshape(-1, 784),
        "test_labels": test.targets.numpy(),
    }
