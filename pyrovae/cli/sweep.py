"""``pyrovae sweep``: many runs by one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from pyrovae.cli.commands import DONE, FAILED
from pyrovae.cli.output import print_result
from pyrovae.runs.folder import check_folder
from pyrovae.runs.sweep import BOOKS, Evaluating, Planned, planned, read_sweep, state_of
from pyrovae.runs.sweeping import Job, jobs_of, on_cluster, on_this_machine
from pyrovae.storage.locks import locked

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
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        quiet: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Take the arguments.

        Args:
            sweep: SWEEP.json: {"recipe": {...}, "grid": {"seed": [0, 1], ...}, "evaluate": {...}}.
            runs: Folder of the runs' folders; those that are complete are left alone, others go on.
            workers: Processes at once, with an equal share of the processors each.
            cluster: Have submitit do it, and wait; local and debug try that out on this machine.
            root: Folder of the data sets, where not $PYROVAE_DATA.
            dry_run: Print the runs and how far each has come, and do nothing.
            json: Print one JSON document: each run, its state and what it came to.
            quiet: No notes, and no table.
        """
        if workers < 1:
            raise ValueError(f"--workers is {workers}: at least 1 is needed")
        self.path, self.folder, self.workers, self.cluster = sweep, runs, workers, cluster
        self.root, self.dry_run, self.json, self.quiet = root, dry_run, json, quiet
        self.sweep = read_sweep(sweep)
        try:
            self.runs = planned(self.sweep)
        except ValueError as error:
            raise ValueError(f"{sweep}: {error}") from error

    def run(self) -> int:
        """Do what is left to do, and print a line for each run; 1 where one failed.

        The JSON document has ``runs``, each with ``name``, ``state``, ``validation_elbo`` of the last epoch,
        ``log_evidence`` (``mean`` and ``error`` by the data) where the file asks for an evaluation, nats per
        datum, and of a failed run ``reason`` and ``log``.
        """
        states = {run.name: state_of(run, self.folder, self.sweep.evaluate) for run in self.runs}
        if self.dry_run:
            width = max(map(len, states))
            text = "\n".join(f"{name:<{width}}  {state}" for name, state in states.items())
            rows = [{"name": name, "state": state} for name, state in states.items()]
            print_result(text, {"runs": rows}, json=self.json)
            return DONE
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
        if self.json or not self.quiet:
            rows = [_row(run, self.folder, self.sweep.evaluate, failed.get(run.name)) for run in self.runs]
            print_result("\n".join(_table(rows)), {"runs": rows}, json=self.json)
        return FAILED if failed else DONE

    def _carry_out(self, jobs: list[Job], books: Path) -> dict[str, int]:
        say = _ignore if self.quiet else _say
        if self.cluster is None:
            return on_this_machine(jobs, self.workers, say)
        return on_cluster(jobs, self.cluster, self.sweep.cluster, books / "submitit", say)


def _say(message: str) -> None:
    print(f"pyrovae: {message}", file=sys.stderr, flush=True)


def _ignore(message: str) -> None:
    pass


def _row(run: Planned, folder: Path, evaluate: Evaluating | None, log: Path | None) -> dict[str, Any]:
    """What a run came to, nats per datum, or why it failed."""
    row: dict[str, Any] = {"name": run.name, "state": "failed" if log else "complete"}
    row["validation_elbo"] = _elbo(folder / run.name)
    if evaluate:
        row["log_evidence"] = None if log else _evidence(folder / run.name / evaluate.file)
    return row | ({"reason": _reason(log), "log": log} if log else {})


def _table(rows: list[dict[str, Any]]) -> list[str]:
    from pyrovae.core.tables import shown

    width = max(3, *(len(row["name"]) for row in rows))
    judged = "log_evidence" in rows[0]
    lines = [f"{'run':<{width}}  {'state':<8}  {'validation ELBO':>15}" + ("  log p(x)" if judged else "")]
    for row in rows:
        elbo, found = row["validation_elbo"], row.get("log_evidence")
        told = [
            f"{row['name']:<{width}}  {row['state']:<8}",
            f"{'' if elbo is None else f'{elbo:.3f}':>15}",
            f"{found['mean']:.3f} {shown(found['error'])}" if found else "",
        ]
        lines.append("  ".join(told).rstrip())
    failed = (row for row in rows if "reason" in row)
    return [*lines, *(f"{row['name']} failed: {row['reason']} ({row['log']})" for row in failed)]


def _elbo(folder: Path) -> float | None:
    try:
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        return float(history["validation_elbo"][-1])
    except (OSError, ValueError, LookupError):
        return None


def _evidence(path: Path) -> dict[str, float]:
    from pyrovae.core.tables import mean_errors
    from pyrovae.evaluation.results import Evaluation

    result = Evaluation.load(path)
    error = mean_errors(result.log_evidence, result.standard_error)[0]
    return {"mean": result.log_evidence.mean().item(), "error": error}


def _reason(log: Path) -> str:
    """The last line that the program said of itself, or that there is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line.removeprefix("pyrovae: ") for line in lines if line.startswith("pyrovae: ")]
    return (said or [line for line in lines if line] or ["it said nothing"])[-1][:300]
