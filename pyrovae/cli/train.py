"""``pyrovae train``: a recipe becomes a run folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pyrovae.cli.commands import DONE, INTERRUPTED, TERMINATED, Command, RunFolder
from pyrovae.cli.output import print_result
from pyrovae.cli.together import all_agree, prepared, together
from pyrovae.core.launch import is_main_process
from pyrovae.data import files as sources
from pyrovae.runs.folder import continued, describe, prepare
from pyrovae.runs.recipe import Recipe, notes, read_config, read_run
from pyrovae.training.loggers import needs, of_run

__all__ = ["DEFAULT", "Train"]

DEFAULT = Recipe()


@dataclass(kw_only=True)
class Train(Command):
    """Train a VAE and keep it in a run folder: recipe, weights, history, figures."""

    folder: RunFolder
    """Folder to write."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = DEFAULT
    """What to train on which data, and how."""
    config: Path | None = None
    """A recipe, or another run, to train by; options given beside it change it."""
    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""
    overwrite: bool = False
    """Overwrite a run that the folder holds."""
    resume: bool = False
    """Resume the run that the folder holds, by its own recipe; --num-epochs may be more."""
    log: Literal["tensorboard", "wandb"] | None = None
    """Further logger for the numbers of each epoch, beside RUN/log.jsonl; no part of the recipe."""

    def run(self) -> int:
        """Train, keeping checkpoints; Ctrl-C and SIGTERM finish the step, and keep what was trained.

        The JSON document has ``folder``; ``run``, the content of ``recipe.json`` (recipe, conventions,
        fingerprint of the data, hash of the weights, versions); ``epochs``; ``last``, by column of
        :class:`pyrovae.History`, the last epoch's numbers, nats per datum; ``compile_seconds``; ``files``;
        ``figures``, the files by name; ``without``, by name the reason why a figure was not drawn.
        """
        if self.overwrite and self.resume:
            raise ValueError("--resume goes on with a run, and --overwrite starts anew: pass one of them")
        if self.log is not None:
            needs(self.log)
        recipe = continued(self.folder, self.recipe, DEFAULT).recipe if self.resume else self.recipe
        if recipe.dataset == "static-mnist":
            sources.find_static_mnist(self.root)
        with together(), prepared(self.folder, self._prepare):
            return self._train(recipe)

    def _prepare(self) -> None:
        if not self.resume:
            prepare(self.folder, overwrite=self.overwrite)

    def _train(self, recipe: Recipe) -> int:
        from pyrovae.core.random import stream
        from pyrovae.reports.figures import draw_figures
        from pyrovae.runs.build import build, load_data, training
        from pyrovae.runs.saving import Keeper
        from pyrovae.training.fit import fit

        with all_agree():
            dataset = load_data(recipe, self.root)
            changed = (
                [] if self.config is None else notes(read_config(self.config), recipe, dataset.fingerprint)
            )
            for line in changed if is_main_process() and not self.quiet else []:
                print(f"pyrovae: {line}", file=sys.stderr)
            features = dataset.train.values.shape[1]
            with stream("weights", recipe.seed):
                vae = build(recipe, features, dataset.train.shape, dataset.train)
        keeper = Keeper(vae, self.folder, describe(recipe, dataset, features))
        loggers = of_run(self.folder, self.log, recipe.model_dump(mode="json")) if is_main_process() else []
        keeper.begin()
        try:
            history = keeper.history = fit(
                vae.model,
                vae.guide,
                dataset.train,
                validation=dataset.validation,
                callbacks=[keeper, *loggers],
                **training(recipe, len(dataset.train)),
                resume=self.folder,
                progress=not self.quiet,
            )
        except (KeyboardInterrupt, SystemExit) as stop:
            if is_main_process():
                print(f"pyrovae: {keeper.interrupted()}", file=sys.stderr)
            return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
        except Exception:
            keeper.forget()
            raise
        finally:
            for logger in loggers:
                logger.close()
        if is_main_process():
            files = keeper.finish()
            figures, without = draw_figures(vae, dataset, recipe, history, self.folder / "figures")
            columns = {name: values for name, values in vars(history).items() if isinstance(values, list)}
            document = {
                "folder": self.folder,
                "run": read_run(self.folder).model_dump(mode="json"),
                "epochs": len(history),
                "last": {name: values[-1] for name, values in columns.items() if values},
                "compile_seconds": history.compile_seconds,
                "files": files,
                "figures": figures,
                "without": without,
            }
            if self.json or not self.quiet:
                print_result(_text(files, figures, without), document, json=self.json)
        return DONE


def _text(files: list[Path], figures: dict[str, Path], without: dict[str, str]) -> str:
    """What a run left in its folder, with one line for all figures that are missing for the same reason."""
    lines = [f"{files[0].parent}: {', '.join(path.name for path in files)}"]
    lines += [f"figure: {path}" for path in figures.values()]
    for reason in dict.fromkeys(without.values()):
        names = ", ".join(name for name in without if without[name] == reason)
        lines.append(f"no figure {names}: {reason}")
    return "\n".join(lines)
