"""Images in folders, as torchvision's ImageFolder has them, as rows of 8-bit numbers."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils import data

from pyrovae.data.shards import is_one, numbers_of
from pyrovae.data.split import Index

__all__ = ["ImageRows"]


class ImageRows(data.Dataset[Tensor]):
    """Rows ``[n, d]`` of uint8 of the images under a folder, each decoded when it is asked for.

    torchvision's ImageFolder finds and reads them: a folder for each class, in it the images. Each is scaled
    so that its shorter side fits, and cut to the size from its middle. ``Split(images, scale=255)`` makes
    floats of them; :func:`pyrovae.datasets.write_shards` makes files that are read faster than images are
    decoded.

    Args:
        folder: Of the classes.
        size: Height and width.
        grey: One channel, ``d = height * width``, and not three.

    Attributes:
        image_shape: ``(3, height, width)``, or ``(height, width)`` of grey ones: the Split's ``shape``.
        labels: ``[n]`` classes, in the order of their folders' names.

    Raises:
        FileNotFoundError: No images there.
        ValueError: An image cannot be read; it is named.
        ImportError: torchvision is not to be had.
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
        steps = [_Covering(size), CenterCrop(size), *([Grayscale()] if grey else []), PILToTensor()]
        self._images = ImageFolder(str(self.folder), Compose(steps))
        self.image_shape = tuple(size) if grey else (3, *size)
        self.labels = torch.tensor(self._images.targets)
        self.shape = torch.Size((len(self._images), torch.Size(self.image_shape).numel()))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """Rows: ``[d]`` for one index, ``[k, d]`` for a slice, a list or a tensor."""
        rows = [self._row(number) for number in numbers_of(index, len(self)).tolist()]
        if is_one(index):
            return rows[0]
        return torch.stack(rows) if rows else torch.empty((0, self.shape[1]), dtype=torch.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """Of the files, whose bytes are read once for it."""
        found = crc32(repr(self.image_shape).encode())
        for path, _ in self._images.samples:
            found = crc32(Path(path).read_bytes(), found)
        return f"{found:08x}"

    def _row(self, number: int) -> Tensor:
        try:
            return self._images[number][0].flatten()
        except Exception as error:  # Pillow raises what it likes of such a file
            path = self._images.samples[number][0]
            raise ValueError(f"{path}: no image that can be read ({error}): mend or remove it") from error


class _Covering:
    """Scale an image so that it covers a size, its sides in proportion."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms.functional import resize

        width, height = image.size
        factor = max(self.size[0] / height, self.size[1] / width)
        sides = round(height * factor), round(width * factor)
        return resize(image, [max(side, least) for side, least in zip(sides, self.size, strict=True)])
