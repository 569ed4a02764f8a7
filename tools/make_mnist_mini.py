"""Cut ``pyrovae/data/mnist_mini.npz`` out of MNIST's own files.

    python tools/make_mnist_mini.py FOLDER    # holds MNIST/raw/*-ubyte.gz, torchvision's layout

Training rows 0 to 4,999, validation rows 5,000 to 5,999 of the training file; rows 0 to 999 of the
test file.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

from pyrovae.data.files import MINI_MNIST


def read(path: Path, header: int) -> np.ndarray:
    """The bytes of an IDX file, less its header, a row per item."""
    content = gzip.decompress(path.read_bytes())
    count = int.from_bytes(content[4:8], "big")
    return np.frombuffer(content, np.uint8, offset=header).reshape(count, -1)


def main() -> None:
    """Write the file."""
    raw = Path(sys.argv[1]) / "MNIST" / "raw"
    rows = {"train": ("train", 0, 5000), "validation": ("train", 5000, 6000), "test": ("t10k", 0, 1000)}
    arrays = {}
    for split, (file, start, stop) in rows.items():
        arrays[split] = read(raw / f"{file}-images-idx3-ubyte.gz", 16)[start:stop]
        arrays[f"{split}_labels"] = read(raw / f"{file}-labels-idx1-ubyte.gz", 8)[start:stop, 0]
    np.savez_compressed(MINI_MNIST, **arrays)


if __name__ == "__main__":
    main()
