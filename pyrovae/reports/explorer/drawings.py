"""A drawn or uploaded image as a datum of the kind that the model was trained on, and what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pyrovae.data.split import Split

__all__ = ["as_datum", "centred", "fitted", "takes_drawings"]

GREY = ("{0, 1}", "[0, 1]", "(0, 1)")
"""What the conventions call values that a grey image can be made into."""

INNER = 20 / 28
"""Side of the box that MNIST's digits were scaled to, of the image's."""


def takes_drawings(shape: tuple[int, ...], conventions: Mapping[str, Any]) -> bool:
    """Whether data are images of height and width, in bits or grey values."""
    return len(shape) == 2 and conventions.get("values") in GREY


def as_datum(
    pixels: list[float], shape: tuple[int, ...], conventions: Mapping[str, Any], *, fit: bool, seed: int
) -> tuple[Split, list[str]]:
    """A split of one row, made of grey values as the data set's rows were, and what was done in words.

    Args:
        pixels: Row by row, from 0, black, to 1, white.
        shape: Height and width.
        conventions: Of the run's data.
        fit: Scale and centre it as MNIST's digits were, :func:`fitted`.
        seed: Of bits and noise that are drawn.

    Raises:
        ValueError: The data are no images, another number of pixels, or an image that is black all over.

    Example:
        >>> split, said = as_datum(
        ...     [0.0, 0.9, 0.6, 0.2], (2, 2), {"values": "{0, 1}", "binarisation": "threshold"},
        ...     fit=False, seed=0,
        ... )
        >>> split[:1], said
        (tensor([[0., 1., 1., 0.]]), ['bits: 1 above 1/2'])
    """
    if not takes_drawings(shape, conventions):
        raise ValueError("the run's data are no grey images: choose a row of its test split")
    height, width = shape
    if len(pixels) != height * width:
        raise ValueError(f"{len(pixels):,} pixels, expected {height * width:,}: {height} rows of {width}")
    grey, said = torch.tensor(pixels).reshape(height, width), []
    if not grey.any():
        raise ValueError("the image is black all over: draw something in white")
    if fit:
        grey = fitted(grey)
        said.append("scaled to MNIST's box, its centre of mass moved to the middle")
    levels = (255 * grey).round().to(torch.uint8).reshape(1, -1)
    binarisation, noise = conventions.get("binarisation", "none"), conventions.get("dequantisation", "none")
    redraw = False
    if binarisation == "threshold":
        levels = 255 * (levels > 127).to(torch.uint8)
        said.append("bits: 1 above 1/2")
    elif conventions["values"] == "{0, 1}":
        redraw = True
        said.append(f"bits drawn with the grey values as probabilities, seed {seed}")
    elif noise == "uniform":
        said.append(f"256 grey levels with uniform noise, seed {seed}")
    else:
        said.append("256 grey levels")
    made = Split(levels, scale=255, redraw=redraw, dequantise=noise == "uniform", seed=seed)
    split = Split(made[:1], shape=shape, conventions=_of_a_drawing(conventions))
    return split, said


def fitted(image: Tensor) -> Tensor:
    """As MNIST's digits were made: what is not black scaled to a box of 20 by 20, of 28, and centred.

    References:
        LeCun et al., The MNIST database of handwritten digits, 1998.

    Example:
        >>> image = torch.zeros(28, 28)
        >>> image[3:13, 5:10] = 1.0
        >>> (fitted(image) > 0.5).nonzero().aminmax(dim=0)
        torch.return_types.aminmax(
        min=tensor([4, 9]),
        max=tensor([23, 18]))
    """
    there = image > 0
    (top, bottom), (left, right) = ((hit[0], hit[-1] + 1) for hit in (there.any(d).nonzero() for d in (1, 0)))
    box = image[top:bottom, left:right]
    scale = INNER * min(image.shape) / max(box.shape)
    size = [max(round(scale * length), 1) for length in box.shape]
    box = interpolate(box[None, None], size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    placed = torch.zeros_like(image)
    placed[: size[0], : size[1]] = box
    return centred(placed)


def centred(image: Tensor) -> Tensor:
    """Shifted by whole pixels, as near as they get its centre of mass to the middle; what leaves is lost.

    Example:
        >>> centred(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """
    for dim, length in enumerate(image.shape):
        mass = image.sum(1 - dim)
        place = (mass * torch.arange(length)).sum() / mass.sum()
        shift = round((length - 1) / 2 - place.item())
        image = image.roll(shift, dim)
        lost = image.narrow(dim, 0, shift) if shift >= 0 else image.narrow(dim, length + shift, -shift)
        lost.zero_()
    return image


def _of_a_drawing(conventions: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("binarisation", "dequantisation", "values", "levels")
    return {"dataset": "an image of one's own"} | {k: conventions[k] for k in kept if k in conventions}
