"""Images in folders, as torchvision's ImageFolder reads them, as rows of 8-bit numbers."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils import data

from pyrovae.data.split import Index, is_one, row_numbers


class ImageRows(data.Dataset[Tensor]):
    """Rows ``[n, d]`` of uint8 of the images under a folder, each decoded when it is asked for.

    The folder has a folder for each class, with its images. Each image is scaled until its shorter side fits,
    and the middle is cut out. ``Split(images, scale=255)`` makes floats of them;
    :func:`pyrovae.datasets.write_shards` makes files that are read faster than images are decoded.

    Args:
        folder: Folder of the classes.
        size: Height and width.
        grey: Whether to make one channel, ``d = height * width``, instead of three.

    Attributes:
        image_shape: Shape of an image, ``(3, height, width)`` or ``(height, width)``: the Split's ``shape``.
        labels: Classes ``[n]``, in the order of their folders' names.

    Raises:
        FileNotFoundError: There are no images.
        ValueError: An image cannot be read; the message names it.
        ImportError: torchvision is missing.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | os.PathLike[str], *, size: tuple[int, int], grey: bool = False) -> None:
        try:
            from torchvision.datasets import ImageFolder
            from torchvision.transforms import CenterCrop, Compose, Grayscale, PILToTensor
        except (ImportError, RuntimeError, OSError) as error:
            raise ImportError(
                f"images need torchvision, which cannot be imported ({error}): install one that fits torch"
            ) from error
        self.folder = Path(folder).expanduser()
        steps = [_Cover(size), CenterCrop(size), *([Grayscale()] if grey else []), PILToTensor()]
        self._images = ImageFolder(str(self.folder), Compose(steps))
        self.image_shape = tuple(size) if grey else (3, *size)
        self.labels = torch.tensor(self._images.targets)
        self.shape = torch.Size((len(self._images), torch.Size(self.image_shape).numel()))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """Rows: ``[d]`` for one index, ``[k, d]`` for a slice, a list or a tensor."""
        rows = [self._row(number) for number in row_numbers(index, len(self)).tolist()]
        if is_one(index):
            return rows[0]
        return torch.stack(rows) if rows else torch.empty((0, self.shape[1]), dtype=torch.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files, which are read once for it."""
        before = crc32(repr(self.image_shape).encode())
        for path, _ in self._images.samples:
            before = crc32(Path(path).read_bytes(), before)
        return f"{before:08x}"

    def _row(self, number: int) -> Tensor:
        try:
            return self._images[number][0].flatten()
        except Exception as error:  # Pillow raises errors of many types
            path = self._images.samples[number][0]
            raise ValueError(f"{path}: no image that can be read ({error}): mend or remove it") from error


class _Cover:
    """Scale an image until it covers a size, its sides in proportion."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms.functional import resize

        width, height = image.size
        factor = max(self.size[0] / height, self.size[1] / width)
        sides = round(height * factor), round(width * factor)
        return resize(image, [max(side, least) for side, least in zip(sides, self.size, strict=True)])
