"""``pyrovae evaluate``: log p(x) of a run's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyrovae.cli.commands import DONE, Command, RunFolder, at_least
from pyrovae.cli.output import print_result
from pyrovae.cli.together import all_agree, together
from pyrovae.core.checks import choose
from pyrovae.core.launch import is_main_process
from pyrovae.data import files as sources
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import Run, check_data, read_run
from pyrovae.storage.files import check_writable

__all__ = ["Evaluate"]


@dataclass(kw_only=True)
class Evaluate(Command):
    """Estimate log p(x) of each datum, with its error, and say how far it can be believed."""

    folder: RunFolder
    """Folder of the run."""
    num_samples: int | None = None
    """Importance draws per datum, K, 1000 if not given; chains of ais, 16 if not given."""
    split: str = "test"
    """Split of the data: train, validation or test."""
    proposal: Literal["auto", "adapted", "refined", "widened", "defensive", "guide"] = "auto"
    """Density of the draws: the guide, a better one made of it, or the best of all."""
    target_se: float | None = None
    """Standard error, in nats, that every datum is to reach by more draws."""
    max_samples: int | None = None
    """Most draws of one datum with --target-se; 64 K if not given."""
    method: Literal["is", "ais"] = "is"
    """Importance sampling, or annealed importance sampling, for which 16 chains are many."""
    num_temperatures: int | None = None
    """Temperatures of ais, 1000 if not given, or of the annealing that certifies, 500."""
    certify: bool = False
    """Check importance sampling by annealing and by bounds from both sides, and print a verdict."""
    chunk_size: int | None = None
    """Draws scored at once; a smaller number needs less memory."""
    seed: int = 0
    """Seed of the draws."""
    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""

    def run(self) -> int:
        """Evaluate, print the table and write the per-datum results.

        The JSON document has the keys of :meth:`pyrovae.Evaluation.summary` or, with ``--certify``, of
        :meth:`pyrovae.Certificate.summary`, and ``file``, the per-datum results.
        """
        choose("split", self.split, sources.SPLITS)
        num_samples = (16 if self.method == "ais" else 1000) if self.num_samples is None else self.num_samples
        counts = {
            "num_samples": num_samples,
            "max_samples": self.max_samples,
            "num_temperatures": self.num_temperatures,
            "chunk_size": self.chunk_size,
        }
        at_least(0, seed=self.seed)
        at_least(1, **counts)
        if self.certify and (self.method == "ais" or self.chunk_size is not None):
            raise ValueError(
                "--certify anneals beside importance sampling: leave --method and --chunk-size out"
            )
        proposal = None if self.proposal == "guide" else self.proposal
        keywords = {**counts, "proposal": proposal, "target_se": self.target_se, "seed": self.seed}
        run = read_run(self.folder)
        with together():
            return self._evaluate(run, {key: value for key, value in keywords.items() if value is not None})

    def _evaluate(self, run: Run, keywords: dict[str, Any]) -> int:
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
        keywords["progress"] = not self.quiet
        result: Any
        if self.certify:
            result = certify(vae.model, vae.guide, data, **{"proposal": None} | keywords)
        else:
            result = evaluate(vae.model, vae.guide, data, resume=partial, method=self.method, **keywords)
        if is_main_process():
            getattr(result, "evaluation", result).save(path)
            partial.unlink(missing_ok=True)
            note = "" if self.quiet else f"\nper datum: {path}"
            print_result(f"{result}{note}", {**result.summary(), "file": path}, json=self.json)
        return DONE
