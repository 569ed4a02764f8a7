"""Groups of processes, forked from one that has torch imported: a fork costs milliseconds, a Python seconds.

Called with a folder and names of jobs; prints, as JSON, what each process of each job came to: what it
returned, or the error it ended with. A job that takes longer than its limit is killed, and says so.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # and so no threads, which a fork would leave behind

import pyro
import pyro.distributions as dist
import torch
import torch._dynamo  # the optimisers import it
from components import a_vae, binary
from pyro.infer import RenyiELBO
from torch import nn
from torch.nn.parallel import DistributedDataParallel  # noqa: F401

import pyrovae as pv
from pyrovae import cli, distributed
from pyrovae.models.base import ProgramModule
from pyrovae.objectives import ELBO, IWAE, free_bits
from pyrovae.storage.checkpoints import Checkpoints
from pyrovae.training import step as stepping
from pyrovae.training.callbacks import KeepBest

torch.set_num_threads(1)
assert callable(pv.fit)  # which imports it
assert callable(pv.evaluate)
SLOW = "--slow" in sys.argv
"""Whether what takes longer is done too."""

LIMIT = 300.0 if SLOW else 100.0
"""Seconds of a job; a whole one takes a few of one core."""

ROWS, WIDTH, LATENTS = 13, 4, 2
HERE = Path(sys.argv[1]) if __name__ == "__main__" else Path()


def group(size: int, job: Callable[[], object], *, limit: float = LIMIT, ranks=None):
    """First the processes, then what each came to: {"value": ...} or {"error": ..., "kind": ...}."""
    port = free_port()
    folder = HERE / f"group-{port}-{time.monotonic_ns()}"
    folder.mkdir()
    processes = {}
    for rank in range(size) if ranks is None else ranks:
        processes[rank] = os.fork()
        if not processes[rank]:
            _run(job, folder / str(rank), rank, size, port)
    yield processes
    until, found, left = time.monotonic() + limit, {}, dict(processes)
    while left:
        for rank, process in list(left.items()):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                del left[rank]
                path = folder / str(rank)
                found[rank] = json.loads(path.read_text()) if path.exists() else {}
                found[rank]["code"] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for process in left.values():
                os.kill(process, signal.SIGKILL)
            found |= {rank: {"error": f"hung for {limit:g} s", "kind": "Hang"} for rank in left}
            left = {}
        time.sleep(0.005)
    yield [found[rank] for rank in sorted(found)]


def run(size: int, job: Callable[[], object], **keywords) -> list[dict]:
    processes = group(size, job, **keywords)
    next(processes)
    return next(processes)


def _run(job: Callable[[], object], path: Path, rank: int, size: int, port: int) -> None:
    """In the fork: the job, and what came of it in a file."""
    code = 1
    try:
        if size > 1:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        warnings.simplefilter("error")
        torch.manual_seed(0)
        try:
            found, code = {"value": job()}, 0
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            found = {"error": str(error), "kind": type(error).__name__, "trace": traceback.format_exc()}
        path.write_text(json.dumps(found))
    finally:
        os._exit(code)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Model(ProgramModule):
    """Of x with noise as a column of the data: the same for every row, whoever computes it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = nn.Linear(LATENTS, WIDTH), kind

    def plate(self, x):
        return pyro.plate("data", len(x)) if self.kind == "plain" else pyro.plate("data", 13, subsample=x)

    def forward(self, x, noise):
        shift = 0.0
        if self.kind == "global":
            shift = pyro.sample("shift", dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z) + shift, 1.0).to_event(1), obs=x)


class Guide(Model):
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.net, self.seen = nn.Linear(WIDTH, LATENTS), []
        if kind == "global":
            self.shift = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, noise):
        if self.training and self.kind == "plain":  # no graph can hold it
            self.seen += noise[:, 0].tolist()
        if self.kind == "global":
            pyro.sample("shift", dist.Delta(self.shift, event_dim=1))
        with self.plate(x):
            loc = self.net(x)
            q = dist.Normal(loc, 1.0).to_event(1)
            pyro.sample("z", dist.Delta(loc + noise, q.log_prob(loc + noise), event_dim=1))


class Cut:
    """Ends a run in its n-th step, or kills, or sends a signal there, on one process or all."""

    def __init__(self, step: int, how=RuntimeError, rank: int | None = None) -> None:
        self.left, self.how, self.rank = step, how, rank

    def __call__(self, training) -> None:
        pass

    def step(self, training) -> None:
        self.left -= 1
        if self.left == 0 and self.rank in (None, distributed.world().rank):
            if isinstance(self.how, int):
                os.kill(os.getpid(), self.how)
            else:
                raise self.how("cut")


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def fitted(kind="plain", rows=ROWS, batch_size=5, epochs=4, folder=None, **keywords):
    """Weights and history of a fit with noise by position: 12 steps, each third of 3 rows."""
    torch.manual_seed(0)
    model, guide = Model(kind), Guide(kind)
    data = torch.randn(rows, WIDTH), torch.randn(rows, LATENTS)
    keywords = {"compile": False, "optimizer": adam, "validation": data, "progress": False, **keywords}
    history = pv.fit(
        model,
        guide,
        data,
        **{"num_epochs": epochs, "batch_size": batch_size, "resume": folder, "checkpoint_every": 0.0},
        **keywords,
    )
    parameters = [each.detach().flatten() for part in (model, guide) for each in part.parameters()]
    columns = {name: values for name, values in vars(history).items() if "seconds" not in name}
    return {"parameters": torch.cat(parameters).tolist(), "history": columns, "seen": guide.seen}


def raised(function, *args, **keywords) -> str:
    try:
        function(*args, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def double(job):
    def run():
        distributed.join()
        torch.set_default_dtype(torch.float64)
        return job()

    return run


@double
def equal():
    """What one process comes to, two and four come to."""
    found = {
        "plain": fitted(),
        "scaled": fitted("scaled", clip=1.0),
        "few": fitted(rows=3, batch_size=2),
    }
    if distributed.world().size == 4 and not SLOW:
        return found
    found |= {"global": fitted("global"), "bound": fitted("scaled", loss=IWAE(2))}
    found["own gradients"] = fitted(loss=RenyiELBO(num_particles=1))
    before, stepping.Graphs = stepping.Graphs, partial(stepping.Graphs, backend="none")
    found["graphs"] = fitted("scaled", compile=True)
    stepping.Graphs = before
    if SLOW:
        found["compiled"] = fitted("scaled", compile=True)
    return found


def rows():
    """The tiles' answers by every way, as lines of the file that they are kept in."""
    distributed.join()
    found, vae, x = {}, a_vae(), binary(130)
    ways = {
        "is": {"num_samples": 20},
        "adaptive": {"num_samples": 100, "target_se": 0.4, "max_samples": 200},
        "ais": {"method": "ais", "num_samples": 2, "num_temperatures": 3},
    }
    if SLOW:
        ways |= {"adapted": {"num_samples": 10, "proposal": "adapted"}, "auto": {"proposal": "auto"}}
    size = distributed.world().size
    for name, way in ways.items():
        path = HERE / f"{name}-{size}"
        result = pv.evaluate(vae.model, vae.guide, x, resume=path, progress=False, **way)
        found[name] = result.log_evidence.tolist()
        if size == 4:  # what was left by one process, in its third of three tiles
            lines = (HERE / f"{name}-1").read_bytes().split(b"\n")
            distributed.barrier()
            if distributed.is_first():
                path.write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:9])
            distributed.barrier()
            again = pv.evaluate(vae.model, vae.guide, x, resume=path, progress=False, **way)
            assert torch.equal(again.log_evidence, result.log_evidence)
    return found


class Norm(nn.Module):
    def __init__(self, net) -> None:
        super().__init__()
        self.net, self.norm = net, nn.BatchNorm1d(6)

    def forward(self, z):
        logits = self.net(z).base_dist.logits
        return dist.Bernoulli(logits=self.norm(logits.reshape(-1, 6)).view_as(logits)).to_event(1)


class Drawn(nn.Module):
    """A guide's part that keeps what it is asked for."""

    def __init__(self, part) -> None:
        super().__init__()
        self.part, self.drawn = part, []

    def forward(self, x):
        self.drawn.append(torch.rand(()).item())
        return self.part(x)


def several():
    """What only several processes can get wrong: two."""
    distributed.join()
    where, found = distributed.world(), {}
    found["gather"] = distributed.gather(where.rank)
    found["total"] = distributed.total(torch.tensor([1.0, where.rank])).tolist()
    found["first"] = distributed.from_first(lambda: f"of {where.rank}")
    found["dealt"] = list(
        distributed.scatter_work([1, 2, 3, 4], {2: "two"}.get, lambda i: f"{i} by {where.rank}")
    )

    def fail(rank, error):
        with distributed.collective():
            if where.rank == rank:
                raise error

    found["one's error"] = raised(fail, 1, OSError("no disk"))
    distributed.PATIENCE = 0.2
    (HERE / f"node {where.rank}").mkdir()
    found["not shared"] = raised(distributed.check_shared, HERE / f"node {where.rank}")
    found["shared"] = raised(distributed.check_shared, HERE)

    def trained(vae, x, **keywords):
        keywords = {"num_epochs": 2, "batch_size": 5, "compile": False, "progress": False, **keywords}
        return pv.fit(vae.model, vae.guide, x, **keywords)

    torch.manual_seed(where.rank)  # other weights on each, until the first one's go to all
    plain = a_vae()
    vae, x = pv.VAE(plain.prior, Norm(plain.likelihood), Drawn(plain.guide.part)), binary(12)
    best = KeepBest()
    history = trained(vae, x, batch_size=6, validation=x, callbacks=[best])
    found["history"] = {n: v for n, v in vars(history).items() if "seconds" not in n}
    found["weights"] = [each.double().sum().item() for each in vae.state_dict().values()]
    found["noise"] = vae.guide.part.drawn[1:]  # of the first, all look for parameters on the same noise
    x = binary(ROWS)
    found["seeds"] = raised(trained, a_vae(), x, seed=where.rank)
    found["rows"] = raised(trained, a_vae(), x[: ROWS - where.rank])
    found["terms"] = raised(trained, a_vae(), x, loss=ELBO(terms=[free_bits(0.1)]))
    late = x.clone()
    late[11] = torch.nan
    found["nan"] = raised(trained, a_vae(), late, batch_size=ROWS)
    bad = a_vae()

    class Late(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.runs = net, [0]  # a number would be rolled back too

        def forward(self, z):
            self.runs[0] += self.training
            logits = self.net(z).base_dist.logits
            bad = self.runs[0] == 4 and where.rank == 1
            return dist.Bernoulli(logits=logits * torch.inf if bad else logits).to_event(1)

    pyro.enable_validation(False)
    broken = pv.VAE(bad.prior, Late(bad.likelihood), bad.guide.part)
    found["not finite"] = raised(trained, broken, x)
    broken.likelihood.runs[0] = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained(broken, x, on_failure="rollback")
    found["rolled back"] = [
        str(each.message) for each in told if "half the learning rate" in str(each.message)
    ]
    pyro.enable_validation(True)
    found["agrees to stop"] = len(trained(a_vae(), x, num_epochs=5, callbacks=[lambda t: where.rank == 1]))
    return found


def sharded():
    """Parameters of which each process has a part are refused."""
    distributed.join()
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae, x = a_vae(), binary(ROWS)
        fully_shard(vae, mesh=init_device_mesh("cpu", (2,)))
    fit = raised(pv.fit, vae.model, vae.guide, x, num_epochs=1, progress=False)
    return [fit, raised(pv.evaluate, vae.model, vae.guide, x, progress=False)]


def resumed() -> dict:
    """A run that was cut in its eighth step, kept in its seventh, goes on by as many, fewer and more."""
    whole = run(2, double(fitted))
    found = {"whole": whole[0]["value"], "cut": [], "on": {}}
    for size in (2, 1, 4) if SLOW else (2, 1):
        folder = HERE / f"resumed by {size}"
        cut = partial(fitted, folder=folder, callbacks=[Cut(8)])
        found["cut"].append([each["error"] for each in run(2, double(cut))])

        def goes_on(folder=folder):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                value = fitted(folder=folder, callbacks=[Cut(0)])
            return value | {"told": [str(each.message) for each in told]}

        found["on"][size] = run(size, double(goes_on))
    return found


def ended() -> dict:
    """One of two is killed, and, at the same time and on another port, one of two is told to end."""

    def endless(folder, how, rank):
        return double(partial(fitted, epochs=10_000, folder=folder, callbacks=[Cut(20, how, rank)]))

    killed = group(2, endless(HERE / "killed", signal.SIGKILL, 1))
    told = group(2, endless(HERE / "told", signal.SIGTERM, 1))
    next(killed), next(told)
    found = {"killed": next(killed), "told": next(told)}
    alone = group(2, endless(HERE / "alone", ValueError, 1))
    next(alone)
    found["alone"] = next(alone)
    for name in ("killed", "told"):
        epochs = Checkpoints(HERE / name / "checkpoints").newest()["position"]["epoch"]
        on = partial(fitted, epochs=epochs + 2, folder=HERE / name, callbacks=[Cut(0)])
        found[f"{name}, on"] = [epochs + 2, run(2, double(on))]
    return found


def bad_starts() -> dict:
    """Others that do not come, and GPUs that are not there."""
    os.environ["PYROVAE_TIMEOUT"] = "2"
    found = {
        "one of two": run(2, distributed.join, ranks=[0]),
        "nobody there": run(2, distributed.join, ranks=[1]),
        "no GPU": run(2, partial(distributed.join, "nccl"), ranks=[0]),
    }
    del os.environ["PYROVAE_TIMEOUT"]
    return found


def command(*words: str) -> dict:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = cli.main([*map(str, words)])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue().split("\r")[-1].splitlines()[-3:]}


def commands() -> dict:
    """Train and evaluate by two processes; the mistakes that a command line can make."""
    small = ["--num-epochs", "1", "--hidden", "8", "--latent-dim", "2", "--batch-size", "500"]
    few, folder = ["--num-samples", "5", "--proposal", "guide"], HERE / "run"
    found = {"train": run(2, partial(command, "train", folder, *small))}
    found["files"] = sorted(path.name for path in folder.iterdir())
    found["evaluate"] = run(2, partial(command, "evaluate", folder, *few))
    result = pv.Evaluation.load(folder / "evaluation.nc")
    found["by two"] = result.log_evidence.tolist()
    found["alone"] = run(1, partial(command, "evaluate", folder, *few))
    found["by one"] = pv.Evaluation.load(folder / "evaluation.nc").log_evidence.tolist()
    found["again"] = run(2, partial(command, "train", folder, *small))
    target = ["--num-samples", "5", "--target-se", "0.1"]
    found["target"] = run(2, partial(command, "evaluate", folder, *target))
    return found


JOBS = {
    "equal": lambda: {size: run(size, equal) for size in (1, 2, 4)},
    "rows": lambda: {size: run(size, rows) for size in (1, 2, 4)},
    "several": lambda: run(2, several),
    "sharded": lambda: run(2, sharded),
    "resumed": resumed,
    "ended": ended,
    "bad_starts": bad_starts,
    "commands": commands,
}

if __name__ == "__main__":
    found = {}
    for job in [word for word in sys.argv[2:] if word != "--slow"]:
        began, used = time.monotonic(), sum(os.times()[:4])
        found[job] = JOBS[job]()
        took = f"{time.monotonic() - began:.1f} s, {sum(os.times()[:4]) - used:.1f} s of a core"
        print(f"{job}: {took}", file=sys.stderr, flush=True)
    print(json.dumps(found))
