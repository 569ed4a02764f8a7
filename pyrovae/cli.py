"""The command line: parse, call the library, print. Torch is imported once the arguments are good."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pyrovae import sources
from pyrovae.recipes import Recipe, Run, build, one_line, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrovae.datasets import Dataset
    from pyrovae.training import History, Training
    from pyrovae.vae import VAE

__all__ = ["main"]

DEFAULT = Recipe()
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 (failed), 2 (bad input) or 130 (interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _parse_and_run(arguments)
    except (ValueError, OSError) as error:
        code, message = BAD_INPUT, one_line(error)
    except FloatingPointError as error:
        code, message = FAILED, one_line(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    print(f"pyrovae: {message}", file=sys.stderr)
    return code


def _parse_and_run(arguments: Sequence[str]) -> int:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command = tyro.extras.subcommand_cli_from_dict(
                {"train": _Train, "evaluate": _Evaluate, "compare": _Compare},
                prog="pyrovae",
                description="Deep latent-variable models in Pyro, and a log p(x) you can defend.",
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code:
            raise ValueError(_without_frame(said.getvalue())) from stop
        return 0
    return command.run()


def _without_frame(box: str) -> str:
    """The sentences of tyro's framed error in one line, less the pointer to --help at its end."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sections = " ".join("|" if line.startswith("──") else line for line in lines if line).split("|")
    return "; ".join(section.strip() for section in sections[:-1] or sections)


class _Train:
    """Train a VAE and keep it in a run folder: recipe, weights, history, figures."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = DEFAULT,
        root: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder to write.
            recipe: What to train on what, and how.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            overwrite: Write over a run that the folder holds.
        """
        self.folder, self.recipe, self.root, self.overwrite = run, recipe, root, overwrite

    def run(self) -> int:
        """Train, saving after each epoch; Ctrl-C keeps what was trained."""
        if self.recipe.dataset == "static-mnist":
            sources.find_static_mnist(self.root)
        _prepare(self.folder, self.overwrite)

        import torch

        from pyrovae import datasets, fit
        from pyrovae.networks import set_output_bias
        from pyrovae.streams import stream

        recipe = self.recipe
        dataset = datasets.load(recipe.dataset, self.root, binarisation=recipe.binarisation)
        features = dataset.train.values.shape[1]
        with stream("weights", recipe.seed):
            vae = build(recipe, features)
        set_output_bias(vae.likelihood, torch.logit(dataset.train.mean, eps=1e-3))
        keeper = _Keeper(vae, self.folder, _describe(recipe, dataset, features))
        code = 0
        try:
            fit(
                vae.model,
                vae.guide,
                dataset.train,
                optimizer=lambda parameters: torch.optim.Adam(
                    parameters, lr=recipe.learning_rate, fused=True
                ),
                num_epochs=recipe.num_epochs,
                batch_size=recipe.batch_size,
                validation=dataset.validation,
                callbacks=[keeper],
                seed=recipe.seed,
            )
        except KeyboardInterrupt:
            keeper.save()
            kept = f"what {keeper.epochs} epochs and a part of one gave is in {self.folder}"
            print(f"pyrovae: interrupted: {kept}", file=sys.stderr)
            code = INTERRUPTED
        keeper.finish(dataset)
        return code


class _Evaluate:
    """Estimate log p(x) of each datum by importance sampling, with its error."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        num_samples: int = 1000,
        split: str = "test",
        chunk_size: int | None = None,
        seed: int = 0,
        root: Path | None = None,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder of the run.
            num_samples: Importance draws per datum, K.
            split: Which split: train, validation or test.
            chunk_size: Draws scored at once; smaller needs less memory.
            seed: Of the draws.
            root: Folder of the data sets, where not $PYROVAE_DATA.
        """
        self.folder, self.num_samples, self.chunk_size = run, num_samples, chunk_size
        self.split, self.seed, self.root = split, seed, root

    def run(self) -> int:
        """Evaluate, print the table and write the per-datum results."""
        sources.choose("split", self.split, ("train", "validation", "test"))
        for name, value in (("num-samples", self.num_samples), ("chunk-size", self.chunk_size)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: at least 1 is needed")
        run = read_run(self.folder)
        _check_writable(self.folder)

        from pyrovae import datasets, evaluate, load

        vae = load(self.folder)
        dataset = datasets.load(run.recipe.dataset, self.root, binarisation=run.recipe.binarisation)
        result = evaluate(
            vae.model,
            vae.guide,
            getattr(dataset, self.split),
            num_samples=self.num_samples,
            chunk_size=self.chunk_size,
            seed=self.seed,
        )
        path = self.folder / _results(self.split)
        result.save(path)
        print(f"{result}\nper datum: {path}")
        return 0


class _Compare:
    """Say whether models really differ in log p(x), by paired differences with their errors."""

    def __init__(
        self,
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        split: str = "test",
        reference: Path | None = None,
    ) -> None:
        """Take the arguments.

        Args:
            runs: Folders of runs that were evaluated alike, two or more.
            split: Which split: train, validation or test.
            reference: The run to hold the others against; the first if not given.
        """
        self.folders, self.split, self.reference = runs, split, reference

    def run(self) -> int:
        """Read what evaluate kept, and print the table."""
        sources.choose("split", self.split, ("train", "validation", "test"))
        if len(self.folders) < 2:
            raise ValueError(f"compare: {len(self.folders)} run given, at least 2 are needed")
        paths = {str(folder): folder / _results(self.split) for folder in self.folders}
        for folder, path in paths.items():
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: evaluate the run first, "
                    f"pyrovae evaluate {folder} --split {self.split}"
                )

        from pyrovae import Evaluation, compare

        results = {folder: Evaluation.load(path) for folder, path in paths.items()}
        print(compare(results, reference=None if self.reference is None else str(self.reference)))
        return 0


def _results(split: str) -> str:
    """The file of a split's per-datum results."""
    return "evaluation.nc" if split == "test" else f"evaluation_{split}.nc"


class _Keeper:
    """Writes a run folder: weights and history after each epoch, figures at the end."""

    def __init__(self, vae: VAE, folder: Path, run: Run) -> None:
        self.vae, self.folder, self.run = vae, folder, run
        self.history: History | None = None

    @property
    def epochs(self) -> int:
        return 0 if self.history is None else len(self.history)

    def __call__(self, training: Training) -> None:
        self.history = training.history
        self.save()

    def save(self) -> None:
        from pyrovae.checkpoints import save, write_text

        save(self.vae, self.folder, self.run)
        if self.history is not None:
            write_text(self.folder / "history.json", dumps(asdict(self.history), indent=1) + "\n")

    def finish(self, dataset: Dataset) -> None:
        """Draw the figures and say where everything is."""
        folder = self.folder / "figures"
        folder.mkdir(exist_ok=True)
        written = ("recipe.json", "weights.safetensors", "history.json")
        print(f"{self.folder}: {', '.join(name for name in written if (self.folder / name).exists())}")
        for name, figure in self._figures(dataset).items():
            figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            print(f"figure: {folder / name}.png")

    def _figures(self, dataset: Dataset) -> dict[str, Figure]:
        from pyrovae import plots
        from pyrovae.streams import stream

        test, shape = dataset.test, dataset.test.shape
        with stream("figures", self.run.recipe.seed):
            figures = {
                "reconstructions": plots.reconstructions(self.vae, test[:12], shape),
                "samples": plots.samples(self.vae, shape),
                "interpolation": plots.interpolation(self.vae, test[:4], test[4:8], shape),
            }
        if self.history is not None:
            figures = {"learning_curves": plots.learning_curves(self.history), **figures}
        if self.run.recipe.latent_dim == 2:
            figures["latent_plane"] = plots.latent_plane(self.vae, shape)
        return figures


def _prepare(folder: Path, overwrite: bool) -> None:
    """Make sure that a run can be written here, before anything is computed."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    files = ("recipe.json", "weights.safetensors")
    if any((folder / name).exists() for name in files) and not overwrite:
        raise ValueError(f"{folder} holds a run already: name another folder, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error


def _describe(recipe: Recipe, dataset: Dataset, features: int) -> Run:
    from importlib.metadata import version
    from platform import python_version

    packages = ("pyrovae", "torch", "pyro-ppl", "numpy")
    return Run(
        recipe=recipe,
        features=features,
        shape=dataset.train.shape,
        conventions=dataset.train.conventions,
        versions={"python": python_version(), **{name: version(name) for name in packages}},
    )


if __name__ == "__main__":
    sys.exit(main())
