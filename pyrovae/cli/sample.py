"""``pyrovae sample``: new data from a run's model."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from pyrovae.cli.commands import DONE
from pyrovae.cli.output import print_result
from pyrovae.runs.recipe import read_run
from pyrovae.storage.files import check_writable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sample"]

ENDINGS = (".png", ".npz", ".safetensors")


class Sample:
    """Draw data from a run's model, ancestrally: z of the prior, then x of p(x|z)."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        num_samples: int = 64,
        seed: int = 0,
        out: Path | None = None,
        means: bool = False,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder of the run.
            num_samples: Data to draw.
            seed: Of the draws.
            out: File to write: .png, a grid of images; .npz or .safetensors, z and x. RUN/samples.png if not
                given, and RUN/samples.npz of data that are no images.
            means: In place of draws of p(x|z), its means.
            json: Print one JSON document: what was drawn, and the file.
            quiet: No notes.
        """
        if num_samples < 1:
            raise ValueError(f"--num-samples is {num_samples}: at least 1 is needed")
        if seed < 0:
            raise ValueError(f"--seed is {seed}: at least 0 is needed")
        if out is not None and out.suffix not in ENDINGS:
            raise ValueError(f"--out is {out}: end its name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
        self.folder, self.num_samples, self.seed, self.out, self.means = run, num_samples, seed, out, means
        self.json, self.quiet = json, quiet

    def run(self) -> int:
        """Draw, and write them.

        The JSON document has ``folder``, ``file``, ``num_samples``, ``seed``, ``means``, ``shape`` of one
        datum, ``weights``, the hash of the model's, and ``conventions`` of what it was trained on.
        """
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
        from pyrovae.storage.files import write_file

        drawn = draw(load(self.folder), self.num_samples, self.seed, means=self.means)
        write = {".png": _image, ".npz": _npz, ".safetensors": _safetensors}[path.suffix]
        write_file(path, write(drawn, run.shape))
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


def draw(vae: Any, num_samples: int, seed: int, *, means: bool = False) -> dict[str, Tensor]:
    """``z`` ``[num_samples, dim]`` of the prior, and ``x`` of p(x|z), or its means, by a seed."""
    import torch

    from pyrovae.core.modules import mode
    from pyrovae.core.random import stream
    from pyrovae.core.wrap import as_pyro

    with torch.no_grad(), stream("sample", seed), mode([vae], training=False):
        z = as_pyro(vae.prior()).expand((num_samples,)).sample()
        p = vae.decode(z)
        return {"z": z, "x": p.mean if means else p.sample()}


def _image(drawn: dict[str, Tensor], shape: tuple[int, ...]) -> bytes:
    """As near a square as it gets; what is left of the last row is grey."""
    import torch

    from pyrovae.reports import plots

    x = drawn["x"]
    columns = math.ceil(math.sqrt(len(x)))
    filled = torch.cat([x, x.new_full((-len(x) % columns, *x.shape[1:]), 0.5)])
    file = BytesIO()
    plots.image_grid(list(filled.split(columns)), shape).savefig(file, dpi=150, bbox_inches="tight")
    return file.getvalue()


def _npz(drawn: dict[str, Tensor], shape: tuple[int, ...]) -> bytes:
    import numpy as np

    arrays: dict[str, Any] = {name: value.numpy() for name, value in _shaped(drawn, shape).items()}
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _safetensors(drawn: dict[str, Tensor], shape: tuple[int, ...]) -> bytes:
    from safetensors.torch import save

    return save(_shaped(drawn, shape))


def _shaped(drawn: dict[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {"z": drawn["z"].contiguous(), "x": drawn["x"].reshape(-1, *shape)}
