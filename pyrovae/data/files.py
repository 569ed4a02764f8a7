"""The files of the data sets. No torch here, so that the command line reports missing files at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyrovae.core.checks import one_line
from pyrovae.storage.files import what_is

if TYPE_CHECKING:  # imported where it is used, since it takes a seventh of a second
    import numpy as np

SPLITS = ("train", "validation", "test")
"""Names of the splits of every data set."""

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
    """The digits in this package: ``train``, ``validation``, ``test`` and their ``_labels``, uint8."""
    import numpy as np

    try:
        with np.load(MINI_MNIST, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
        if any(rows[split].shape != (count, 784) for split, count in MINI_ROWS.items()):
            raise ValueError("rows are missing")
    except Exception as error:  # numpy, zipfile and zlib raise errors of many types
        raise ValueError(f"mnist-mini: {_damaged(MINI_MNIST, error)}: install pyrovae again") from error
    return rows


def find_static_mnist(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The file, or the three text files, of the fixed binarisation; an error says where to get them."""
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
    """The fixed binarisation of MNIST: ``train``, ``validation``, ``test``, uint8 of 0 and 1."""
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
    except Exception as error:  # as above
        raise ValueError(f"static-mnist: {_damaged(path, error)}: fetch it again") from error
    return rows


def _damaged(path: Path, error: BaseException) -> str:
    return f"{path} {what_is(path) or f'is damaged ({one_line(error)})'}"
