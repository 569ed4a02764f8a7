"""Where the data sets' files are, and what is in them. No torch: errors here answer at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a seventh of a second, which an error or --help would wait for
    import numpy as np
from pyrovae.storage.files import what_is

__all__ = ["find_static_mnist", "read_mini_mnist", "read_static_mnist"]

SPLITS = ("train", "validation", "test")
"""Of every data set."""

MINI_ROWS = {"train": 5000, "validation": 1000, "test": 1000}
MINI_MNIST = Path(__file__).parent / "mnist_mini.npz"
STATIC_MNIST = "static_binarized_mnist.npz"
AMAT_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def data_folder(root: str | os.PathLike[str] | None) -> Path:
    """The folder of data sets: ``root``, else ``$PYROVAE_DATA``, else the user's cache."""
    if root is None:
        root = os.environ.get("PYROVAE_DATA")
    if root is not None:
        return Path(root).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pyrovae"


def read_mini_mnist() -> dict[str, np.ndarray]:
    """The digits in this package: ``train``, ``validation``, ``test`` and their ``_labels``, uint8.

    Raises:
        ValueError: The file is damaged.
    """
    import numpy as np

    try:
        with np.load(MINI_MNIST, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
        if any(rows[split].shape != (count, 784) for split, count in MINI_ROWS.items()):
            raise ValueError("rows are missing")
    except Exception as error:  # numpy, zipfile and zlib raise what they like of such a file
        raise ValueError(f"mnist-mini: {_damaged(MINI_MNIST, error)}: install pyrovae again") from error
    return rows


def find_static_mnist(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The file, or the three text files, of the fixed binarisation.

    Raises:
        FileNotFoundError: Neither is there; the message says where it looked and what to do.
    """
    folder = data_folder(root)
    texts = [folder / f"binarized_mnist_{split}.amat" for split in AMAT_SPLITS.values()]
    for files in ([folder / STATIC_MNIST], texts):
        if all(file.is_file() for file in files):
            return files
    raise FileNotFoundError(
        f"static-mnist: neither {STATIC_MNIST} nor binarized_mnist_{{train,valid,test}}.amat in "
        f"{folder}: put either there (the .amat files are Larochelle's, "
        f"www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist), or name their folder with "
        f"root= or PYROVAE_DATA"
    )


def read_static_mnist(root: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """The fixed binarisation of MNIST: ``train``, ``validation``, ``test``, uint8 of 0 and 1.

    Raises:
        FileNotFoundError: The files are not there.
        ValueError: A file is damaged.
    """
    import numpy as np

    files = find_static_mnist(root)
    path = files[0]
    try:
        if path.suffix == ".npz":
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                rows = {split: np.unpackbits(file[name], axis=1) for split, name in AMAT_SPLITS.items()}
        else:
            rows = {}
            for split, path in zip(AMAT_SPLITS, files, strict=True):
                rows[split] = np.loadtxt(path, dtype=np.uint8, ndmin=2)
        for split, values in rows.items():
            if values.ndim != 2 or values.shape[1] != 784 or not len(values) or values.max() > 1:
                raise ValueError(f"{split} has shape {values.shape}, expected rows of 784 bits")
    except Exception as error:  # numpy, zipfile and zlib raise what they like of such a file
        raise ValueError(f"static-mnist: {_damaged(path, error)}: fetch it again") from error
    return rows


def _damaged(path: Path, error: BaseException) -> str:
    """The file, and what it is or why it cannot be read."""
    found = what_is(path)
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{path} {found}" if found else f"{path} is damaged ({said})"
