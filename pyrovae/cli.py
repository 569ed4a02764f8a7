"""The command line: parse, call the library, print. Torch is imported once the arguments are good."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pyrovae import sources
from pyrovae.commands import Doctor, List, configured, registry_of_parts
from pyrovae.commands.together import all_agree, prepared, together
from pyrovae.locks import locked
from pyrovae.ranks import speaks
from pyrovae.recipes import Recipe, Run, check_data, notes, one_line, read_config, read_run
from pyrovae.runs import Keeper, check_folder, check_writable, continued, describe, prepare

__all__ = ["main"]

DEFAULT = Recipe()
BAD_INPUT, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: exit code 0, 1 (failed), 2 (bad input), 130 (Ctrl-C) or 143 (SIGTERM)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    caught: BaseException
    try:
        return _parse_and_run(arguments)
    except BrokenPipeError:  # of `pyrovae list | head`; what is not flushed yet goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (FloatingPointError, ConnectionError) as error:
        code, message, caught = FAILED, one_line(error), error
    except (ValueError, OSError) as error:
        code, message, caught = BAD_INPUT, one_line(error), error
    except ImportError as error:
        code, message = FAILED, f"{one_line(error)} (`pyrovae doctor` looks at what is installed)"
        caught = error
    except KeyboardInterrupt as error:
        code, message, caught = INTERRUPTED, "interrupted", error
    if speaks(caught):
        print(f"pyrovae: {message}", file=sys.stderr)
    return code


def _parse_and_run(arguments: Sequence[str]) -> int:
    said = io.StringIO()
    try:
        with redirect_stderr(said), registry_of_parts:
            train = partial(_Train, recipe=configured(arguments, DEFAULT))
            command = tyro.extras.subcommand_cli_from_dict(
                {
                    "train": train,
                    "evaluate": _Evaluate,
                    "compare": _Compare,
                    "list": List,
                    "doctor": Doctor,
                },
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
        config: Path | None = None,
        root: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder to write.
            recipe: What to train on what, and how.
            config: A recipe, or another run, to train by; options given beside it change it.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            overwrite: Write over a run that the folder holds.
            resume: Go on with the run that the folder holds, by its own recipe; --num-epochs may be more.
        """
        if overwrite and resume:
            raise ValueError("--resume goes on with a run, and --overwrite starts anew: pass one of them")
        self.folder, self.recipe, self.root = run, recipe, root
        self.overwrite, self.resume = overwrite, resume
        self.config = None if config is None else read_config(config)

    def run(self) -> int:
        """Train, keeping checkpoints; Ctrl-C and SIGTERM finish the step, and keep what was trained."""
        recipe = continued(self.folder, self.recipe, DEFAULT).recipe if self.resume else self.recipe
        if recipe.dataset == "static-mnist":
            sources.find_static_mnist(self.root)
        with together(), prepared(self.folder, self._prepare):
            return self._train(recipe)

    def _prepare(self) -> None:
        check_folder(self.folder)
        with locked(self.folder / "lock"):
            if not self.resume:
                prepare(self.folder, overwrite=self.overwrite)

    def _train(self, recipe: Recipe) -> int:
        from pyrovae import fit
        from pyrovae.building import build, load_data, training
        from pyrovae.streams import stream

        with all_agree():
            dataset = load_data(recipe, self.root)
            changed = [] if self.config is None else notes(self.config, recipe, dataset.fingerprint)
            for line in changed if speaks() else []:
                print(f"pyrovae: {line}", file=sys.stderr)
            features = dataset.train.values.shape[1]
            with stream("weights", recipe.seed):
                vae = build(recipe, features, dataset.train.shape, dataset.train)
        keeper = Keeper(vae, self.folder, describe(recipe, dataset, features))
        keeper.begin()
        try:
            keeper.history = fit(
                vae.model,
                vae.guide,
                dataset.train,
                validation=dataset.validation,
                callbacks=[keeper],
                **training(recipe, len(dataset.train)),
                compile=False,  # "auto" goes by time: a recipe would not always give the same weights
                resume=self.folder,
            )
        except (KeyboardInterrupt, SystemExit) as stop:
            if speaks():
                print(f"pyrovae: {keeper.interrupted()}", file=sys.stderr)
            return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
        except Exception:
            keeper.forget()
            raise
        if speaks():
            keeper.finish(dataset)
        return 0


class _Evaluate:
    """Estimate log p(x) of each datum, with its error, and say how far it can be believed."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        num_samples: int = 1000,
        split: str = "test",
        proposal: Literal["auto", "adapted", "refined", "widened", "defensive", "guide"] = "auto",
        target_se: float | None = None,
        max_samples: int | None = None,
        method: Literal["is", "ais"] = "is",
        num_temperatures: int | None = None,
        certify: bool = False,
        chunk_size: int | None = None,
        seed: int = 0,
        root: Path | None = None,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder of the run.
            num_samples: Importance draws per datum, K; of ais, chains.
            split: Which split: train, validation or test.
            proposal: What is drawn from: the guide, a better density made of it, or the best of all.
            target_se: Standard error, in nats, that every datum is to reach by more draws.
            max_samples: Most draws of one datum then; 64 K if not given.
            method: Importance sampling, or annealed importance sampling, for which 16 chains are many.
            num_temperatures: Of ais, 1000 if not given, or of the annealing in certify, 200.
            certify: Check importance sampling by annealing and bounds from both sides, and say a verdict.
            chunk_size: Draws scored at once; smaller needs less memory.
            seed: Of the draws.
            root: Folder of the data sets, where not $PYROVAE_DATA.
        """
        self.folder, self.split, self.root, self.certify = run, split, root, certify
        given = {
            "num_samples": num_samples,
            "max_samples": max_samples,
            "num_temperatures": num_temperatures,
            "chunk_size": chunk_size,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: at least 1 is needed")
        if certify and (method == "ais" or chunk_size is not None):
            raise ValueError(
                "--certify anneals beside importance sampling: leave --method and --chunk-size out"
            )
        more = {"proposal": None if proposal == "guide" else proposal, "target_se": target_se, "seed": seed}
        self.keywords: dict[str, Any] = {k: v for k, v in (given | more).items() if v is not None}
        self.method = method

    def run(self) -> int:
        """Evaluate, print the table and write the per-datum results."""
        sources.choose("split", self.split, ("train", "validation", "test"))
        run = read_run(self.folder)
        with together():
            return self._evaluate(run)

    def _evaluate(self, run: Run) -> int:
        with all_agree():
            if speaks():
                check_writable(self.folder)

        from pyrovae import certify, evaluate, load
        from pyrovae.building import load_data

        with all_agree():
            vae = load(self.folder)
            dataset = load_data(run.recipe, self.root)
            check_data(run, dataset.fingerprint)
        data = getattr(dataset, self.split)
        path, partial = self.folder / _results(self.split), self.folder / f"{_results(self.split)}.partial"
        if self.certify:
            certificate = certify(vae.model, vae.guide, data, **{"proposal": None} | self.keywords)
            result, said = certificate.evaluation, str(certificate)
        else:
            result = evaluate(vae.model, vae.guide, data, resume=partial, method=self.method, **self.keywords)
            said = str(result)
        if not speaks():
            return 0
        result.save(path)
        partial.unlink(missing_ok=True)
        print(f"{said}\nper datum: {path}")
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


if __name__ == "__main__":
    sys.exit(main())
