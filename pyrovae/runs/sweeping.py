"""Runs of a sweep carried out, by processes here or by a cluster's. No torch: each run is a process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyrovae.core.signals import noticed
from pyrovae.runs.sweep import BOOKS, Evaluating, Planned, note_of, state_of
from pyrovae.storage import files as durable
from pyrovae.storage.locks import locked

__all__ = ["Job", "carry_out", "jobs_of", "on_cluster", "on_this_machine"]

PROGRAM = (sys.executable, "-m", "pyrovae")

PATIENCE = 60.0
"""Seconds that a run waits for a process that is at work in its folder: of a killed sweep, one that ends."""


class Job(NamedTuple):
    """What is left of a run.

    Attributes:
        name: Of the run.
        folder: Of the run.
        commands: To carry out, one after another, as the command line has them.
        books: The sweep's own folder.
        evaluate: How it is evaluated, to be noted once it is.
    """

    name: str
    folder: Path
    commands: list[list[str]]
    books: Path
    evaluate: Evaluating | None

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.books / f"{self.name}.log"


def jobs_of(
    runs: Iterable[Planned], folder: Path, evaluate: Evaluating | None, root: Path | None
) -> list[Job]:
    """What is left of each run; none of those that are complete.

    Raises:
        ValueError: A folder holds another run.
    """
    books, data = folder / BOOKS, [] if root is None else ["--root", str(root.absolute())]
    jobs = []
    for run in runs:
        place, state = folder / run.name, state_of(run, folder, evaluate)
        commands = {
            "new": [["train", str(place), "--config", str(books / f"{run.name}.json"), *data]],
            "begun": [["train", str(place), "--resume", *data]],
        }.get(state, [])
        if evaluate is not None:
            commands.append(["evaluate", str(place), *evaluate.options(), *data])
        if state == "complete":
            continue
        if state == "new":
            books.mkdir(parents=True, exist_ok=True)
            durable.write_file(books / f"{run.name}.json", run.recipe.model_dump_json(indent=2) + "\n")
        jobs.append(Job(run.name, place, commands, books, evaluate))
    return jobs


def on_this_machine(jobs: Iterable[Job], workers: int, say: Callable[[str], None]) -> dict[str, int]:
    """Carry out jobs, so many at a time, with an equal share of the processors each.

    A failed one does not stop the others. Ctrl-C and SIGTERM end those that run, which keep what was trained;
    so does this process's own end, however it comes.

    Returns:
        Of each job that was begun, its exit code.

    Raises:
        KeyboardInterrupt: Of Ctrl-C, once all have ended; SIGTERM likewise raises SystemExit.
    """
    waiting, running, codes = deque(jobs), dict[subprocess.Popen[bytes], tuple[Job, int]](), dict[str, int]()
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // workers))

    def begin(job: Job, stage: int) -> None:
        if stage == 0:
            say(f"{job.name}: {job.commands[0][0]}, its log is {job.log}")
        running[_start(job, stage, {"OMP_NUM_THREADS": threads})] = job, stage

    with noticed() as interrupts:
        while waiting or running:
            while waiting and len(running) < workers and interrupts.caught is None:
                begin(waiting.popleft(), 0)
            for process in [each for each in running if each.poll() is not None]:
                job, stage = running.pop(process)
                codes[job.name] = _ended(job, stage, process.returncode)
                if process.returncode == 0 and stage + 1 < len(job.commands) and interrupts.caught is None:
                    begin(job, stage + 1)
                elif interrupts.caught is None:
                    say(f"{job.name}: {'done' if process.returncode == 0 else 'failed'}")
            if interrupts.caught is not None:
                _end(running)
                interrupts.look()
            time.sleep(0.05)
    return codes


def on_cluster(
    jobs: Iterable[Job], cluster: str, asked: Mapping[str, Any], folder: Path, say: Callable[[str], None]
) -> dict[str, int]:
    """Carry out jobs by submitit, all at once as far as the cluster lets them, and wait for them.

    Args:
        jobs: Which.
        cluster: "slurm", or "local" and "debug" to try it out; "auto" is slurm where there is one.
        asked: Of the cluster, for each job: submitit's parameters.
        folder: For submitit's files and logs; all nodes share it.
        say: Told of what is done.

    Returns:
        Of each job its exit code; 1 of one that the cluster ended.

    Raises:
        ImportError: submitit is not installed.
        ValueError: A parameter that it does not take.
        KeyboardInterrupt: Of Ctrl-C, once all are cancelled; SIGTERM likewise raises SystemExit.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError(f"--cluster needs submitit ({error}): pip install 'pyrovae[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=None if cluster == "auto" else cluster)
        executor.update_parameters(name="pyrovae", **asked)
    except (ValueError, NameError, TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"cluster: {' '.join(str(error).split())}") from error
    with noticed() as interrupts:
        submitted = {job.name: executor.submit(carry_out, job) for job in jobs}
        left, codes = dict(submitted), dict[str, int]()
        for name, each in submitted.items():
            say(f"{name}: job {each.job_id}")
        while left:
            for name in [name for name, each in left.items() if each.done()]:
                try:
                    codes[name] = left.pop(name).result()
                except Exception as error:  # whatever ended the job: a time limit, memory, a node
                    codes[name] = 1
                    say(f"{name}: {' '.join(str(error).split())[:200]}")
                else:
                    say(f"{name}: {'done' if codes[name] == 0 else 'failed'}")
            if interrupts.caught is not None:
                for each in left.values():
                    each.cancel()
                interrupts.look()
            time.sleep(0.2)
    return codes


def carry_out(job: Job) -> int:
    """A job in this process's place, on a node; the exit code of the command that failed, or 0."""
    for stage in range(len(job.commands)):
        with noticed() as interrupts:
            process = _start(job, stage, {})
            while process.poll() is None:
                if interrupts.caught is not None:
                    _end({process: (job, stage)})
                    interrupts.look()
                time.sleep(0.05)
        if code := _ended(job, stage, process.returncode):
            return code
    return 0


def _start(job: Job, stage: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one of its commands, in a session of its own: a terminal's Ctrl-C is for the sweep alone."""
    job.folder.mkdir(parents=True, exist_ok=True)
    _wait_for(job.folder)
    durable.sweep(job.folder, "recipe.json")  # half of one that a kill left would be taken for a stranger's
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, *job.commands[stage]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _ended(job: Job, stage: int, code: int) -> int:
    """Note that a run was evaluated, if this did it."""
    if code == 0 and job.evaluate is not None and job.commands[stage][0] == "evaluate":
        note = note_of(job.evaluate, job.folder / job.evaluate.file)
        durable.write_file(job.books / f"{job.name}.evaluated.json", json.dumps(note))
    return code


def _end(running: Mapping[subprocess.Popen[bytes], Any]) -> None:
    """Ask processes to end, and wait until they have kept what they trained."""
    for process in running:
        process.terminate()
    for process in running:
        process.wait()


def _wait_for(folder: Path) -> None:
    """Wait for a process that is at work in a folder; one that stays is named by the run itself."""
    began = time.monotonic()
    while (folder / "lock").exists() and time.monotonic() - began < PATIENCE:
        try:
            with locked(folder / "lock"):
                return
        except OSError:
            time.sleep(0.1)


def _end_with_parent() -> None:
    """In the child: SIGTERM when its parent ends, by kill -9 too, so that no run goes on unseen."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
