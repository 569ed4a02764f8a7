"""Trains and evaluates in forks of one process that has torch imported, and kills them with signal 9.

Called with a folder and ``random KILLS`` or ``points STRIDE``; prints, as JSON, how many were killed and
how many of the runs that were taken up came to the same. A fork costs milliseconds, where a new Python would
take seconds to import torch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # and so no threads, which a fork would leave behind

import h5netcdf  # noqa: F401
import torch
import torch._dynamo  # the optimisers import it
import xarray  # noqa: F401

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.storage import files as durable
from pyrovae.training.callbacks import Averaged, KeepBest

torch.set_num_threads(1)
assert callable(pv.fit)  # which imports it
assert callable(pv.evaluate)
FEATURES, LATENTS, ROWS = 6, 2, 40


def job(folder: Path, every: float) -> None:
    """A training of 2 epochs of 4 steps and an evaluation in two tiles; what is done is not done again."""
    torch.manual_seed(0)
    levels = torch.randint(0, 256, (3 * ROWS, FEATURES)).to(torch.uint8)
    train, test = pv.datasets.Split(levels[:ROWS], scale=255, redraw=True), levels[ROWS:].float() / 255
    vae = pv.VAE(
        priors.StandardNormal(LATENTS),
        likelihoods.ContinuousBernoulli(networks.MLP(LATENTS, FEATURES, hidden=[4])),
        guides.Normal(networks.MLP(FEATURES, 2 * LATENTS, hidden=[4])),
    )
    best, averaged = KeepBest(), Averaged(0.9)
    history = pv.fit(
        *(vae.model, vae.guide, train),
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        **{"num_epochs": 2, "batch_size": 11, "validation": test[:9], "callbacks": [best, averaged]},
        **{"resume": folder, "checkpoint_every": every, "compile": False, "progress": False},
    )
    pv.save(vae, folder)
    averaged.restore()
    pv.save(vae, folder / "averaged")
    columns = {name: values for name, values in asdict(history).items() if "seconds" not in name}
    durable.write_file(folder / "history.json", json.dumps(columns))
    resume = folder / "evaluation.partial"
    result = pv.evaluate(vae.model, vae.guide, test, num_samples=30, resume=resume, progress=False)
    result.save(folder / "evaluation.nc")


def outcome(folder: Path) -> str:
    """A hash of all that a finished job left."""
    found = sha256()
    for name in ("weights.safetensors", "averaged/weights.safetensors", "history.json"):
        found.update((folder / name).read_bytes())
    result = pv.Evaluation.load(folder / "evaluation.nc")
    for name in ("log_evidence", "elbo", "khat"):
        found.update(getattr(result, name).numpy().tobytes())
    return found.hexdigest()


def start(folder: Path, every: float = 0.0, at: int | None = None) -> int:
    """The job in a fork, which ends at the given point of the protocol of ``storage.files``, if any."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if at is not None:
            end_at(at)
        job(folder, every)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def end_at(point: int) -> None:
    passed = iter(range(point))

    def reached(_: str) -> None:
        if next(passed, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    durable._reached = reached
    os.fsync = lambda descriptor: None  # a kill loses nothing that was written


def ended(process: int) -> int:
    """The exit code; -9 of one that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at_random(folder: Path, kills: int) -> dict:
    """Kill each run one to three times, then let it end."""
    chance, began = random.Random(0), time.monotonic()
    assert ended(start(folder / "whole")) == 0
    whole, length, found, done = outcome(folder / "whole"), time.monotonic() - began, [], 0
    while done < kills:
        run, every = folder / f"run {len(found)}", chance.choice([0.0, 0.03])
        for _ in range(chance.randint(1, 3)):
            process = start(run, every)
            time.sleep(chance.uniform(0.0, 0.7 * length))
            os.kill(process, signal.SIGKILL)
            code = ended(process)
            assert code in (0, -9), code
            done += code == -9
        code = ended(start(run, every))
        assert code == 0, code
        found.append(outcome(run))
    return {"kills": done, "runs": len(found), "same": sum(each == whole for each in found)}


def killed_at_points(folder: Path) -> dict:
    """Kill at every point that a run passes, or each so many: one in each run, which is then taken up."""
    assert ended(start(folder / "whole")) == 0
    whole, same, point, stride = outcome(folder / "whole"), 0, 0, int(sys.argv[3])
    while True:
        code = ended(start(folder / f"{point}", at=point))
        if code == 0:
            break
        assert code == -9, code
        assert ended(start(folder / f"{point}", at=10**6)) == 0
        same += outcome(folder / f"{point}") == whole
        point += stride
    return {"kills": point // stride, "runs": point // stride, "same": same}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    said = killed_at_random(where, int(sys.argv[3])) if sys.argv[2] == "random" else killed_at_points(where)
    print(json.dumps(said))
