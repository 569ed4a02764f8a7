"""``pyrovae evaluate``: log p(x) of a run's data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from pyrovae.cli.commands import DONE
from pyrovae.cli.output import print_result
from pyrovae.cli.together import all_agree, together
from pyrovae.core.checks import choose
from pyrovae.core.launch import is_main_process
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import Run, check_data, read_run
from pyrovae.storage.files import check_writable

if TYPE_CHECKING:
    from pyrovae.evaluation.certificate import Certificate
    from pyrovae.evaluation.results import Evaluation

__all__ = ["Evaluate"]


class Evaluate:
    """Estimate log p(x) of each datum, with its error, and say how far it can be believed."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        num_samples: int | None = None,
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
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder of the run.
            num_samples: Importance draws per datum, K, 1000 if not given; of ais chains, 16 if not given.
            split: Which split: train, validation or test.
            proposal: What is drawn from: the guide, a better density made of it, or the best of all.
            target_se: Standard error, in nats, that every datum is to reach by more draws.
            max_samples: Most draws of one datum then; 64 K if not given.
            method: Importance sampling, or annealed importance sampling, for which 16 chains are many.
            num_temperatures: Of ais, 1000 if not given, or of the annealing in certify, 500.
            certify: Check importance sampling by annealing and bounds from both sides, and say a verdict.
            chunk_size: Draws scored at once; smaller needs less memory.
            seed: Of the draws.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            json: Print one JSON document: Evaluation.summary() or, with --certify, Certificate.summary(),
                and the file of the per-datum results.
            quiet: No progress and no notes.
        """
        self.folder, self.split, self.root, self.certify = run, split, root, certify
        self.json, self.quiet = json, quiet
        if num_samples is None:
            num_samples = 16 if method == "ais" else 1000
        given = {
            "num_samples": num_samples,
            "max_samples": max_samples,
            "num_temperatures": num_temperatures,
            "chunk_size": chunk_size,
        }
        if seed < 0:
            raise ValueError(f"--seed is {seed}: at least 0 is needed")
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
        """Evaluate, print the table and write the per-datum results.

        The JSON document has the keys of :meth:`pyrovae.Evaluation.summary` or, with ``--certify``, of
        :meth:`pyrovae.Certificate.summary`, and ``file``, the per-datum results.
        """
        choose("split", self.split, sources.SPLITS)
        run = read_run(self.folder)
        with together():
            return self._evaluate(run)

    def _evaluate(self, run: Run) -> int:
        from pyrovae.evaluation.certify import certify
        from pyrovae.evaluation.evaluate import evaluate
        from pyrovae.runs.build import load_data
        from pyrovae.runs.saving import load

        with all_agree():
            if is_main_process():
                check_writable(self.folder)
            vae = load(self.folder)
            dataset = load_data(run.recipe, self.root)
            check_data(run, dataset.fingerprint)
        data, path = getattr(dataset, self.split), self.folder / results_file(self.split)
        partial = path.with_name(f"{path.name}.partial")
        keywords = {"progress": not self.quiet, **self.keywords}
        found: Certificate | Evaluation
        if self.certify:
            found = certify(vae.model, vae.guide, data, **{"proposal": None} | keywords)
        else:
            found = evaluate(vae.model, vae.guide, data, resume=partial, method=self.method, **keywords)
        if not is_main_process():
            return DONE
        kept: Any = getattr(found, "evaluation", found)
        kept.save(path)
        partial.unlink(missing_ok=True)
        note = "" if self.quiet else f"\nper datum: {path}"
        print_result(f"{found}{note}", {**found.summary(), "file": path}, json=self.json)
        return DONE
