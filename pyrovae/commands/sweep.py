"""``pyrovae sweep``: many runs by one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import tyro

from pyrovae.locks import locked
from pyrovae.runs import check_folder
from pyrovae.sweeping import Job, jobs_of, on_cluster, on_this_machine
from pyrovae.sweeps import BOOKS, Evaluating, Planned, planned, read_sweep, state_of

__all__ = ["Sweep"]


class Sweep:
    """Train, and perhaps evaluate, a run for each combination of a grid of recipe fields."""

    def __init__(
        self,
        sweep: tyro.conf.Positional[Path],
        runs: tyro.conf.Positional[Path],
        /,
        workers: int = 1,
        cluster: Literal["auto", "slurm", "local", "debug"] | None = None,
        root: Path | None = None,
        dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            sweep: SWEEP.json: {"recipe": {...}, "grid": {"seed": [0, 1], ...}, "evaluate": {...}}.
            runs: Folder of the runs' folders; those that are complete are left alone, others go on.
            workers: Processes at once, with an equal share of the processors each.
            cluster: Have submitit do it, and wait; local and debug try that out on this machine.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            dry_run: Print the runs and how far each has come, and do nothing.
        """
        if workers < 1:
            raise ValueError(f"--workers is {workers}: at least 1 is needed")
        self.path, self.folder, self.workers, self.cluster = sweep, runs, workers, cluster
        self.root, self.dry_run = root, dry_run
        self.sweep = read_sweep(sweep)
        try:
            self.runs = planned(self.sweep)
        except ValueError as error:
            raise ValueError(f"{sweep}: {error}") from error

    def run(self) -> int:
        """Do what is left to do, and print a line for each run; 1 where one failed."""
        states = {run.name: state_of(run, self.folder, self.sweep.evaluate) for run in self.runs}
        if self.dry_run:
            width = max(map(len, states))
            for name, state in states.items():
                print(f"{name:<{width}}  {state}")
            return 0
        books = self.folder / BOOKS
        check_folder(self.folder)
        check_folder(books)
        with locked(books / "lock"):
            jobs = jobs_of(self.runs, self.folder.absolute(), self.sweep.evaluate, self.root)
            try:
                codes = self._carry_out(jobs, books)
            except (KeyboardInterrupt, SystemExit):
                _say("what was trained is kept: the same command goes on with it")
                raise
        failed = {job.name: job.log for job in jobs if codes[job.name]}
        print("\n".join(_table(self.runs, self.folder, self.sweep.evaluate, failed)))
        return int(bool(failed))

    def _carry_out(self, jobs: list[Job], books: Path) -> dict[str, int]:
        if self.cluster is None:
            return on_this_machine(jobs, self.workers, _say)
        return on_cluster(jobs, self.cluster, self.sweep.cluster, books / "submitit", _say)


def _say(message: str) -> None:
    print(f"pyrovae: {message}", file=sys.stderr, flush=True)


def _table(
    runs: list[Planned], folder: Path, evaluate: Evaluating | None, failed: dict[str, Path]
) -> list[str]:
    """The runs, their states and what they came to, nats per datum; under it why some failed."""
    width = max(3, *(len(run.name) for run in runs))
    lines = [f"{'run':<{width}}  {'state':<8}  {'validation ELBO':>15}" + ("  log p(x)" if evaluate else "")]
    for run in runs:
        state = "failed" if run.name in failed else "complete"
        found = _evidence(folder / run.name / evaluate.file) if evaluate and state == "complete" else ""
        lines.append(f"{run.name:<{width}}  {state:<8}  {_elbo(folder / run.name):>15}  {found}".rstrip())
    return [*lines, *(f"{name} failed: {_reason(log)} ({log})" for name, log in failed.items())]


def _elbo(folder: Path) -> str:
    try:
        values = json.loads((folder / "history.json").read_text(encoding="utf-8"))["validation_elbo"]
        return f"{values[-1]:.3f}"
    except (OSError, ValueError, LookupError):
        return ""


def _evidence(path: Path) -> str:
    from pyrovae import Evaluation
    from pyrovae.tables import mean_errors, shown

    result = Evaluation.load(path)
    error = mean_errors(result.log_evidence, result.standard_error)[0]
    return f"{result.log_evidence.mean():.3f} {shown(error)}"


def _reason(log: Path) -> str:
    """The last line that the program said of itself, or that there is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line.removeprefix("pyrovae: ") for line in lines if line.startswith("pyrovae: ")]
    return (said or [line for line in lines if line] or ["it said nothing"])[-1][:300]
