"""``pyrovae sweep``: many runs by one file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from pyrovae.cli.commands import DONE, FAILED, Command
from pyrovae.cli.output import print_result
from pyrovae.core.checks import check_count, one_line
from pyrovae.runs.folder import check_folder, results_file
from pyrovae.runs.sweep import LOGS, Evaluating, carry_out, jobs_of, planned, read_sweep, state_of
from pyrovae.storage.locks import locked

__all__ = ["Sweep"]


@dataclass(kw_only=True)
class Sweep(Command):
    """Train, and perhaps evaluate, a run for each combination of a grid of recipe fields."""

    sweep: tyro.conf.Positional[Path]
    """SWEEP.json: {"recipe": {...}, "grid": {"seed": [0, 1], ...}, "evaluate": {...}}."""
    runs: tyro.conf.Positional[Path]
    """Folder for the runs' folders; complete runs stay, and the others go on."""
    workers: int = 1
    """Runs at once, each with an equal share of the processors."""
    cluster: Literal["auto", "slurm", "local", "debug"] | None = None
    """Submit the runs by submitit, and wait; local and debug try that out on this machine."""
    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the runs and how far each has come, and start nothing."""

    def run(self) -> int:
        """Run what is left, and print a line for each run; the exit code is 1 if one failed.

        The JSON document has ``runs``, each with ``name``, ``state``, ``validation_elbo`` of the last epoch,
        ``log_evidence`` (``mean`` and ``error`` by the data) if the file asks for an evaluation, nats per
        datum, and of a failed run ``reason`` and ``log``.
        """
        check_count("--workers", self.workers)
        sweep, report = read_sweep(self.sweep), _ignore if self.quiet else _report
        try:
            recipes = planned(sweep)
        except ValueError as error:
            raise ValueError(f"{self.sweep}: {error}") from error
        states = {name: state_of(self.runs / name, each, sweep.evaluate) for name, each in recipes.items()}
        if self.dry_run:
            width = max(map(len, states))
            text = "\n".join(f"{name:<{width}}  {state}" for name, state in states.items())
            document = [{"name": name, "state": state} for name, state in states.items()]
            print_result(text, {"runs": document}, json=self.json)
            return DONE
        logs = self.runs / LOGS
        check_folder(self.runs)
        check_folder(logs)
        with locked(logs / "lock"):
            jobs = jobs_of(sweep, self.runs.absolute(), self.root, self._environment())
            report(f"{len(jobs)} of {len(states)} runs to do, logs in {logs}")
            try:
                with self._executor(sweep.cluster) as executor:
                    codes = carry_out(jobs, executor, report)
            except KeyboardInterrupt:
                report("what was trained is kept: the same command goes on with it")
                raise
        failed = {job.folder.name: job.log for job in jobs if codes[job.folder.name]}
        if self.json or not self.quiet:
            rows = [_row(self.runs / name, sweep.evaluate, failed.get(name)) for name in recipes]
            print_result("\n".join(_table(rows)), {"runs": rows}, json=self.json)
        return FAILED if failed else DONE

    def _environment(self) -> dict[str, str]:
        if self.cluster is not None or os.environ.get("OMP_NUM_THREADS"):
            return {}
        return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.workers))}

    @contextmanager
    def _executor(self, parameters: dict[str, Any]) -> Iterator[Any]:
        """Threads that wait for processes here, or submitit's executor."""
        if self.cluster is None:
            with ThreadPoolExecutor(self.workers) as pool:
                yield pool
            return
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                f"--cluster needs submitit ({error}): pip install 'pyrovae[cluster]'"
            ) from error
        try:
            cluster = None if self.cluster == "auto" else self.cluster
            executor = submitit.AutoExecutor(folder=self.runs / LOGS / "submitit", cluster=cluster)
            executor.update_parameters(name="pyrovae", **parameters)
        except (ValueError, NameError, TypeError, RuntimeError, AssertionError) as error:
            raise ValueError(f"cluster: {one_line(error)}") from error
        yield executor


def _report(message: str) -> None:
    print(f"pyrovae: {message}", file=sys.stderr, flush=True)


def _ignore(message: str) -> None:
    pass


def _row(run: Path, evaluate: Evaluating | None, log: Path | None) -> dict[str, Any]:
    """The results of a run, in nats per datum, and of a failed one the reason."""
    row: dict[str, Any] = {"name": run.name, "state": "failed" if log else "complete"}
    row["validation_elbo"] = _elbo(run)
    if evaluate:
        row["log_evidence"] = None if log else _evidence(run / results_file(evaluate.split))
    return row | ({"reason": _reason(log), "log": log} if log else {})


def _table(rows: list[dict[str, Any]]) -> list[str]:
    from pyrovae.core.tables import shown

    width = max(3, *(len(row["name"]) for row in rows))
    evaluated = "log_evidence" in rows[0]
    lines = [f"{'run':<{width}}  {'state':<8}  {'validation ELBO':>15}" + ("  log p(x)" if evaluated else "")]
    for row in rows:
        elbo, evidence = row["validation_elbo"], row.get("log_evidence")
        cells = [
            f"{row['name']:<{width}}  {row['state']:<8}",
            f"{'' if elbo is None else f'{elbo:.3f}':>15}",
            f"{evidence['mean']:.3f} {shown(evidence['error'])}" if evidence else "",
        ]
        lines.append("  ".join(cells).rstrip())
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
    """The last line of a log that is an error of pyrovae, or else the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("pyrovae: ") for line in lines if line.startswith("pyrovae: ")]
    return (errors or [line for line in lines if line] or ["it printed nothing"])[-1][:300]
