"""``pyrovae train``: a recipe becomes a run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from pyrovae.cli.commands import DONE, INTERRUPTED, TERMINATED
from pyrovae.cli.output import print_result
from pyrovae.cli.together import all_agree, prepared, together
from pyrovae.core.launch import is_main_process
from pyrovae.data import files as sources
from pyrovae.runs.folder import continued, describe, prepare
from pyrovae.runs.recipe import Recipe, notes, read_config, read_run
from pyrovae.training.loggers import needs, of_run

if TYPE_CHECKING:
    from pyrovae.training.history import History

__all__ = ["DEFAULT", "Train"]

DEFAULT = Recipe()


class Train:
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
        log: Literal["tensorboard", "wandb"] | None = None,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder to write.
            recipe: What to train on what, and how.
            config: A recipe, or another run, to train by; options given beside it change it.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            overwrite: Write over a run that the folder holds.
            resume: Go on with the run that the folder holds, by its own recipe; --num-epochs may be more.
            log: Where each epoch's numbers go beside RUN/log.jsonl; no part of the recipe.
            json: Print one JSON document: what recipe.json holds, the last epoch and what was written.
            quiet: No progress and no notes.
        """
        if overwrite and resume:
            raise ValueError("--resume goes on with a run, and --overwrite starts anew: pass one of them")
        self.folder, self.recipe, self.root = run, recipe, root
        self.overwrite, self.resume, self.log = overwrite, resume, log
        if log is not None:
            needs(log)
        self.json, self.quiet = json, quiet
        self.config = None if config is None else read_config(config)

    def run(self) -> int:
        """Train, keeping checkpoints; Ctrl-C and SIGTERM finish the step, and keep what was trained.

        The JSON document has ``folder``; ``run``, as ``recipe.json`` has it (recipe, conventions, fingerprint
        of the data, hash of the weights, versions); ``epochs``; ``last``, by column of
        :class:`pyrovae.History`, the last epoch's numbers, nats per datum; ``compile_seconds``; ``files``;
        ``figures``, by name their files; ``without``, by name why a figure was not drawn.
        """
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
            changed = [] if self.config is None else notes(self.config, recipe, dataset.fingerprint)
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
            kept = Kept(files, *draw_figures(vae, dataset, recipe, history, self.folder / "figures"))
            if self.json or not self.quiet:
                print_result(str(kept), self._document(history, kept), json=self.json)
        return DONE

    def _document(self, history: History, kept: Kept) -> dict[str, Any]:
        columns = {name: values for name, values in vars(history).items() if isinstance(values, list)}
        return {
            "folder": self.folder,
            "run": read_run(self.folder).model_dump(mode="json"),
            "epochs": len(history),
            "last": {name: values[-1] for name, values in columns.items() if values},
            "compile_seconds": history.compile_seconds,
            **kept._asdict(),
        }


class Kept(NamedTuple):
    """What a finished run left in its folder.

    Attributes:
        files: Of the run.
        figures: By name, their files.
        without: By name, why a figure was not drawn.
    """

    files: list[Path]
    figures: dict[str, Path]
    without: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.files[0].parent}: {', '.join(path.name for path in self.files)}"]
        lines += [f"figure: {path}" for path in self.figures.values()]
        for why in dict.fromkeys(
            self.without.values()
        ):  # data that are no images lack several for one reason
            lines.append(
                f"no figure {', '.join(name for name in self.without if self.without[name] == why)}: {why}"
            )
        return "\n".join(lines)
