"""Data sets by name, each with its conventions recorded: a log p(x) means nothing without them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrovae.core import registry
from pyrovae.core.checks import choose, one_line
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
"""dynamic: training rows are drawn anew at each access, validation and test rows once. static: all rows are
drawn once. threshold: ones above 1/2. none: grey values, dequantised or not."""


@dataclass(frozen=True)
class Dataset:
    """Three splits of one data set.

    Attributes:
        name: Name of the data set.
        train: Rows for the parameters.
        validation: Rows for choices.
        test: Rows for the reported number.
        oracle: Model of synthetic data: its ``log_evidence(x)`` is exact.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    oracle: LinearGaussian | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the stored values of all splits, before anything is drawn."""
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

    The root folder of "shards" has the folders train, validation and test of :func:`write_shards`. Their rows
    stay on the disk.

    Args:
        name: A name of the table, or of a data set of another package: see :mod:`pyrovae.registry`.
        root: Folder of the files; by default ``$PYROVAE_DATA``, or the user's cache folder.
        binarisation: One of :data:`BINARISATIONS`, for mnist and mnist-mini.
        dequantise: Whether grey levels k become ``(k + u) / 256``, u uniform, strictly within (0, 1), for a
            continuous density: training rows with new noise at each access, validation and test rows with
            noise drawn once. For mnist and mnist-mini, whose default binarisation is then "none". See
            :func:`pyrovae.bits_per_dim`.
        seed: Seed of binarisation, dequantisation and synthetic data.

    Raises:
        ValueError: The name or the binarisation is unknown or does not fit the data; or the data to be
            dequantised are no grey values.
        FileNotFoundError: The files are missing and cannot be downloaded.

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
        return _static_mnist(root)
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
            conventions=_conventions(
                name, part, binarisation, values="[0, 1]" if binarisation == "none" else "{0, 1}"
            )
            | ({"binarisation_seed": seed} if binarisation in ("dynamic", "static") else {})
            | ({"dequantisation_seed": seed} if dequantise else {})
            | ({"levels": 256} if binarisation == "none" else {}),
        )

    return _three(name, split)


def _conventions(name: str, part: str, binarisation: str, values: str) -> dict[str, Any]:
    return {
        "dataset": name,
        "split": part,
        "binarisation": binarisation,
        "dequantisation": "none",
        "values": values,
    }


def _static_mnist(root: str | os.PathLike[str] | None) -> Dataset:
    rows = sources.read_static_mnist(root)

    def split(_: int, part: str) -> Split:
        conventions = _conventions("static-mnist", part, "static", "{0, 1}")
        return Split(torch.from_numpy(rows[part]), shape=(28, 28), conventions=conventions)

    return _three("static-mnist", split)


def _linear_gaussian(seed: int) -> Dataset:
    weight = torch.randn(8, 3, generator=generator("linear-gaussian", seed), dtype=torch.float64)
    oracle = LinearGaussian(weight.to(torch.get_default_dtype()), noise=0.25)

    def split(position: int, part: str) -> Split:
        count = 2000 if part == "train" else 500
        rows = oracle.sample(count, seed=seed_of("linear-gaussian rows", seed, position))
        conventions = _conventions("linear-gaussian", part, "none", "real") | {"data_seed": seed}
        return Split(rows, conventions=conventions)

    return _three("linear-gaussian", split, oracle)


def _shards(root: str | os.PathLike[str] | None, binarisation: str | None, dequantise: bool) -> Dataset:
    folder = sources.data_folder(root)

    def split(_: int, part: str) -> Split:
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"shards: no folder '{part}' in {folder}: write train, validation and test there by "
                f"pyrovae.datasets.write_shards, or name their folder with root= or PYROVAE_DATA"
            )
        found = Shards(folder / part).as_split(dataset="shards", split=part)
        written = found.conventions.get("binarisation", "none")
        if binarisation not in (None, written):
            raise ValueError(
                f"shards: {folder / part} was written with binarisation '{written}', got '{binarisation}'"
            )
        if dequantise and found.conventions.get("dequantisation", "none") == "none":
            raise ValueError(
                f"shards: {folder / part} was written without dequantisation: write shards of a Split that "
                f"has dequantise=True"
            )
        return found

    return _three("shards", split)


def _three(name: str, split: Callable[[int, str], Split], oracle: LinearGaussian | None = None) -> Dataset:
    train, validation, test = map(split, range(3), sources.SPLITS)
    return Dataset(name, train, validation, test, oracle)


def _read_mnist(root: str | os.PathLike[str] | None) -> dict[str, np.ndarray]:
    folder = sources.data_folder(root)
    raw = folder / "MNIST" / "raw"
    try:
        from torchvision.datasets import MNIST

        train, test = (MNIST(str(folder), train=part, download=True) for part in (True, False))
        if (len(train.data), len(test.data), len(train.targets), len(test.targets)) != (60_000, 10_000) * 2:
            raise ValueError(f"{len(train.data):,} and {len(test.data):,} images, expected 60,000 and 10,000")
    except Exception as error:  # torchvision and torch raise errors of many types for damaged files
        reason = one_line(error)
        if not isinstance(error, ImportError) and len(list(raw.glob("*-ubyte"))) == 4:
            raise ValueError(
                f"mnist: {raw} is damaged ({reason}): delete it, and it is fetched again"
            ) from error
        raise FileNotFoundError(
            f"mnist: no readable MNIST/raw in {folder}, and no download ({reason}): copy the four unpacked "
            f"*-ubyte files to {raw} or name their folder with root= or "
            f"PYROVAE_DATA; if torchvision is at fault, install one that fits your torch"
        ) from error
    pairs = {
        "train": (train.data[:50_000], train.targets[:50_000]),
        "validation": (train.data[50_000:], train.targets[50_000:]),
        "test": (test.data, test.targets),
    }
    images = {part: pixels.reshape(-1, 784).numpy() for part, (pixels, _) in pairs.items()}
    return images | {f"{part}_labels": labels.numpy() for part, (_, labels) in pairs.items()}
