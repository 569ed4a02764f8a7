"""``pyrovae sample``: new data from a run's model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.cli.commands import DONE, Command, RunFolder, at_least
from pyrovae.cli.output import print_result
from pyrovae.runs.recipe import read_run
from pyrovae.storage.files import check_writable, write_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sample"]

ENDINGS = (".png", ".npz", ".safetensors")


@dataclass(kw_only=True)
class Sample(Command):
    """Draw data from a run's model, ancestrally: z of the prior, then x of p(x|z)."""

    folder: RunFolder
    """Folder of the run."""
    num_samples: int = 64
    """Number of data to draw."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """File to write: .png, a grid of images; .npz or .safetensors, z and x. If not given, samples.png in the
    run's folder, or samples.npz of data that are no images."""
    means: bool = False
    """Write the means of p(x|z) in place of draws."""

    def run(self) -> int:
        """Draw, and write the draws to a file.

        The JSON document has ``folder``, ``file``, ``num_samples``, ``seed``, ``means``, ``shape`` of one
        datum, ``weights``, the hash of the model's, and ``conventions`` of the training data.
        """
        at_least(1, num_samples=self.num_samples)
        at_least(0, seed=self.seed)
        if self.out is not None and self.out.suffix not in ENDINGS:
            raise ValueError(f"--out is {self.out}: end its name in .png, .npz or .safetensors")
        run = read_run(self.folder)
        is_image = len(run.shape) == 2
        path = self.out or self.folder / ("samples.png" if is_image else "samples.npz")
        if path.suffix == ".png" and not is_image:
            raise ValueError(
                f"{path}: data of shape {run.shape} are no images: write {path.with_suffix('.npz')}"
            )
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent} is no folder: make it, or name another file by --out")
        check_writable(path.parent)

        from pyrovae.runs.saving import load

        z, x = draw(load(self.folder), self.num_samples, self.seed, means=self.means)
        write_file(path, file_content(path.suffix, z, x.reshape(-1, *run.shape)))
        document = {
            "folder": self.folder,
            "file": path,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "means": self.means,
            "shape": run.shape,
            "weights": run.weights,
            "conventions": run.conventions,
        }
        if self.json or not self.quiet:
            what = "means of p(x|z) at draws of the prior" if self.means else "ancestral samples"
            print_result(f"{self.num_samples:,} {what}: {path}", document, json=self.json)
        return DONE


def draw(vae: Any, num_samples: int, seed: int, *, means: bool = False) -> tuple[Tensor, Tensor]:
    """Draws of z ``[num_samples, dim]``, and of x from p(x|z), or its means."""
    import torch

    from pyrovae.core.modules import mode
    from pyrovae.core.random import stream
    from pyrovae.core.wrap import as_pyro

    with torch.no_grad(), stream("sample", seed), mode([vae], training=False):
        z = as_pyro(vae.prior()).expand((num_samples,)).sample()
        p = vae.decode(z)
        return z, p.mean if means else p.sample()


def file_content(ending: str, z: Tensor, x: Tensor) -> bytes:
    """The bytes of a file of draws; a .png is a grid near a square, filled up with grey."""
    import numpy as np
    import torch
    from safetensors.torch import save

    from pyrovae.reports import plots

    file = BytesIO()
    if ending == ".safetensors":
        return save({"z": z.contiguous(), "x": x.contiguous()})
    if ending == ".npz":
        np.savez_compressed(file, z=z.numpy(), x=x.numpy())
    else:
        columns = math.ceil(math.sqrt(len(x)))
        filled = torch.cat([x, x.new_full((-len(x) % columns, *x.shape[1:]), 0.5)]).flatten(1)
        grid = plots.image_grid(list(filled.split(columns)), tuple(x.shape[1:]))
        grid.savefig(file, dpi=150, bbox_inches="tight")
    return file.getvalue()
