"""pyrovae sweep: a run for each point of a grid, whatever fails, is interrupted or killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyrovae import cli
from pyrovae.runs import sweep as sweeping
from pyrovae.runs.recipe import Recipe, Run, read_run
from pyrovae.runs.sweep import Evaluating, Sweep, planned, read_sweep, state_of
from pyrovae.storage.locks import locked

TRAINER = '''
"""In the place of pyrovae train and evaluate: the files of a run, and no torch."""

import json, os, signal, sys, time
from pathlib import Path

command, folder, option = sys.argv[1], Path(sys.argv[2]), sys.argv[3]


def note(what):
    with (folder.parent / "notes").open("a") as notes:
        notes.write(f"{what} {folder.name} {option} {os.environ['OMP_NUM_THREADS']}\\n")


def end(*_):
    note("kept")
    sys.exit(130)


signal.signal(signal.SIGINT, end)
if command == "evaluate":
    note(command)
    (folder / "evaluation.nc").touch()
    sys.exit()
folder.mkdir(parents=True, exist_ok=True)
path = folder / "recipe.json"
run = json.loads(path.read_text()) if option == "--resume" else {
    "format": 2, "recipe": json.loads(Path(sys.argv[4]).read_text()), "features": 1, "shape": [1],
    "conventions": {}, "versions": {},
}
path.write_text(json.dumps(run))
note(command)  # who kills it now finds its recipe whole
if run["recipe"]["seed"] == 13:
    print("pyrovae: seed 13 brings no luck", file=sys.stderr)
    sys.exit(1)
time.sleep(float(os.environ.get("TRAINING_TAKES", "0")))
(folder / "weights.safetensors").touch()
(folder / "history.json").write_text(json.dumps({"validation_elbo": [-2.0, -1.5]}))
path.write_text(json.dumps(run | {"weights": "0123"}))
note("trained")
'''


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    monkeypatch.setattr(sweeping, "PROGRAM", (sys.executable, "-S", str(path)))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def swept(tmp_path, content, *options):
    path = tmp_path / "SWEEP.json"
    path.write_text(json.dumps(content))
    return cli.main(["sweep", str(path), str(tmp_path / "runs"), *options])


def notes(tmp_path):
    return [line.split() for line in (tmp_path / "runs" / "notes").read_text().splitlines()]


def test_names_of_long_values_are_apart_and_fit_a_file_system(tmp_path):
    terms = "kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)"
    grid = {
        "hidden": [list(range(100, 100 + layers)) for layers in (29, 30)],
        "objective": [f"ELBO(terms=[{terms}, kl_weight(weight={weight})])" for weight in (1.0, 2.0)],
        "prior": ["GaussianMixture(components=20, some_keyword=0.25, another_keyword=40)"],
        "guide": ["GaussianMixture(components=20, some_keyword=0.25, another_keyword=40)"],
    }
    runs = planned(Sweep(grid=grid))
    assert len(runs) == 4
    for name, recipe in runs.items():
        (tmp_path / f"{name}.evaluated.json.part").touch()
        assert state_of(tmp_path / name, recipe) == "new"


def test_every_field_may_be_in_the_grid_and_no_two_names_are_alike():
    grid = {
        "learning_rate": [1e-3, 3e-4],
        "hidden": [[400], [400, 400], []],
        "prior": [
            "StandardNormal",
            "VampPrior(pseudo_inputs=200)",
            {"name": "VampPrior", "pseudo_inputs": 20},
        ],
        "objective": ["ELBO(terms=kl_weight(weight=warmup(length=5)))", "IWAE(num_particles=5)"],
        "dequantise": [False, True],
    }
    runs = planned(Sweep(recipe={"seed": 3}, grid=grid))
    assert len(runs) == 2 * 3 * 3 * 2 * 2
    assert len({name.lower() for name in runs}) == len(runs)
    assert list(runs.values())[1] == Recipe(
        seed=3,
        hidden=(400,),
        learning_rate=1e-3,
        objective="ELBO(terms=kl_weight(weight=warmup(length=5)))",
        dequantise=True,
    )
    for name in runs:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    other = planned(Sweep(recipe={"seed": 3}, grid=dict(reversed(grid.items())) | {"dequantise": [True]}))
    assert other.items() <= runs.items()
    assert list(planned(Sweep())) == ["run"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gird": {}}, "unknown key 'gird': did you mean 'grid'?"),
        ({"grid": {"latent_dm": [1]}}, "unknown field of a recipe 'latent_dm': did you mean 'latent_dim'?"),
        ({"recipe": {"sed": 1}}, "unknown field of a recipe 'sed': did you mean 'seed'?"),
        (
            {"grid": {"prior": ["VampPriro"]}},
            "prior VampPriro: prior: unknown prior 'VampPriro': did you mean",
        ),
        (
            {"grid": {"latent_dim": [2, 0]}},
            "latent_dim 0: latent_dim: Input should be greater than or equal to 1",
        ),
        ({"grid": {"seed": []}}, "grid: 'seed' has no values"),
        ({"grid": {"seed": 3}}, "grid.seed: Input should be a valid array"),
        ({"recipe": {"seed": 3}, "grid": {"seed": [3]}}, "'seed' is in the recipe and in the grid: keep one"),
        ({"grid": {"prior": ["Laplace", "laplace"]}}, "the grid has prior-Laplace twice"),
        ({"evaluate": {"num_sampels": 3}}, "unknown key 'num_sampels': did you mean 'num_samples'?"),
        ([], "not a sweep"),
        (None, "not a sweep"),
    ],
)
def test_what_is_no_sweep_is_one_line(tmp_path, capsys, content, message):
    assert swept(tmp_path, content) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_bad_arguments(tmp_path, capsys):
    assert cli.main(["sweep", str(tmp_path / "none.json"), str(tmp_path)]) == 2
    assert "there is no such sweep" in capsys.readouterr().err
    assert swept(tmp_path, {}, "--workers", "0") == 2
    assert "--workers is 0" in capsys.readouterr().err
    (tmp_path / "SWEEP.json").write_text("{")
    with pytest.raises(ValueError, match=r"SWEEP\.json: not a sweep"):
        read_sweep(tmp_path / "SWEEP.json")


def test_how_far_a_run_has_come(tmp_path):
    recipe, evaluate = Recipe(seed=1), Evaluating(num_samples=10)
    place = tmp_path / "a"
    assert state_of(place, recipe) == "new"
    place.mkdir()
    for name in ("lock", "recipe.json.part", ".hidden"):  # a kill before the first file
        (place / name).touch()
        assert state_of(place, recipe) == "new"
    (place / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"a holds 'thesis\.tex' and no run"):
        state_of(place, recipe)
    held = Run(recipe=recipe, features=1, shape=(1,), conventions={}, versions={})
    (place / "recipe.json").write_text(held.model_dump_json())
    assert state_of(place, recipe) == "begun"
    for name in ("weights.safetensors", "history.json"):
        (place / name).touch()
        assert state_of(place, recipe) == "begun"  # a kill before the recipe has the weights' hash
    (place / "recipe.json").write_text(held.model_copy(update={"weights": "0"}).model_dump_json())
    assert state_of(place, recipe) == "complete"
    assert state_of(place, recipe, evaluate) == "trained"
    (place / "evaluation.nc").touch()
    (tmp_path / ".sweep").mkdir()
    for how, state in ((evaluate, "complete"), (Evaluating(num_samples=11), "trained")):
        note = json.dumps(how.note(place))
        (tmp_path / ".sweep" / "a.evaluated.json").write_text(note)
        assert state_of(place, recipe, evaluate) == state
    (tmp_path / ".sweep" / "a.evaluated.json").write_text(json.dumps(evaluate.note(place)))
    (place / "evaluation.nc").write_text("of pyrovae evaluate by hand, with 5 draws")
    assert state_of(place, recipe, evaluate) == "trained"
    with pytest.raises(ValueError, match=r"a holds another run \(this sweep has seed 2 in place of 1\)"):
        state_of(place, Recipe(seed=2))


def test_a_failed_run_stops_no_other_and_only_it_is_begun_again(trainer, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8))
    evidence = {"seed-0": {"mean": -2.5, "error": 0.25}}  # of the other, as of none that was evaluated
    monkeypatch.setattr("pyrovae.cli.sweep._evidence", lambda path: evidence.get(path.parent.name))
    content = {"grid": {"seed": [0, 13, 2]}, "evaluate": {"num_samples": 20}}
    assert swept(tmp_path, content, "--workers", "2", "--dry-run") == 0
    assert capsys.readouterr().out.split() == ["seed-0", "new", "seed-13", "new", "seed-2", "new"]
    assert not (tmp_path / "runs").exists()
    assert swept(tmp_path, content, "--workers", "2") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "validation", "ELBO", "log", "p(x)"]
    assert lines[1].split() == ["seed-0", "complete", "-1.500", "-2.500", "±", "0.250"]
    assert lines[2].split() == ["seed-13", "failed"]
    assert lines[4].startswith("seed-13 failed: seed 13 brings no luck (")
    began = [each for each in notes(tmp_path) if each[0] in ("train", "evaluate")]
    assert {each[3] for each in began} == {"4"}  # threads: eight processors for two
    assert [each[1] for each in began if each[0] == "evaluate"] == ["seed-0", "seed-2"]
    (tmp_path / "runs" / "notes").unlink()
    assert swept(tmp_path, content) == 1
    assert [each[:3] for each in notes(tmp_path)] == [["train", "seed-13", "--resume"]]
    capsys.readouterr()
    assert swept(tmp_path, content, "--json", "--quiet") == 1
    runs = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert runs["seed-0"]["log_evidence"] == evidence["seed-0"]
    assert runs["seed-13"]["reason"] == "seed 13 brings no luck"
    (tmp_path / "runs" / "notes").unlink()
    assert swept(tmp_path, content | {"evaluate": {"num_samples": 30}, "grid": {"seed": [0, 1]}}) == 0
    assert [each[:2] for each in notes(tmp_path) if each[0] != "trained"] == [
        ["evaluate", "seed-0"],
        ["train", "seed-1"],
        ["evaluate", "seed-1"],
    ]
    assert swept(tmp_path, {"recipe": {"latent_dim": 3}, "grid": {"seed": [0]}}) == 2
    assert "seed-0 holds another run (this sweep has latent_dim 3" in capsys.readouterr().err


def test_workers_are_as_many_as_was_said(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_TAKES", "0.3")
    assert swept(tmp_path, {"grid": {"seed": [0, 1, 2, 3]}}, "--workers", "2") == 0
    said, running, most = notes(tmp_path), 0, 0
    for what, *_ in said:
        running += {"train": 1, "trained": -1}[what]
        most = max(most, running)
    assert (len(said), most) == (8, 2)


def test_two_sweeps_do_not_meet(trainer, tmp_path, capsys):
    books = tmp_path / "runs" / ".sweep"
    books.mkdir(parents=True)
    held, go = threading.Event(), threading.Event()

    def hold():
        with locked(books / "lock"):
            held.set()
            go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        assert swept(tmp_path, {}) == 2
    finally:
        go.set()
        thread.join()
    assert "is at work in this folder" in capsys.readouterr().err


def test_ctrl_c_ends_the_runs_which_keep_what_they_have_and_the_next_sweep_takes_up(trainer, tmp_path):
    """In a process group of its own, as a terminal has it."""
    path, runs = tmp_path / "SWEEP.json", tmp_path / "runs"
    path.write_text(json.dumps({"grid": {"seed": [0, 1, 2]}}))
    arguments = ["sweep", str(path), str(runs)]
    code = "import sys; from pyrovae import cli; from pyrovae.runs import sweep; "
    code += f"sweep.PROGRAM = {sweeping.PROGRAM!r}; sys.exit(cli.main({[*arguments, '--workers', '2']!r}))"
    here = os.environ | {"TRAINING_TAKES": "60"}
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, env=here, stderr=pipe, start_new_session=True) as process:
        while (not (runs / "notes").exists() or len(notes(tmp_path)) < 2) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "what was trained is kept: the same command goes on with it" in said
    assert sorted(each[:2] for each in notes(tmp_path)[2:]) == [["kept", "seed-0"], ["kept", "seed-1"]]
    (runs / "notes").unlink()
    assert cli.main(arguments) == 0
    began = [each[1:3] for each in notes(tmp_path) if each[0] == "train"]
    assert began == [["seed-0", "--resume"], ["seed-1", "--resume"], ["seed-2", "--config"]]


SMALL = {
    "dataset": "linear-gaussian",
    "likelihood": "Normal",
    "hidden": [4],
    "latent_dim": 2,
    "num_epochs": 60,
    "batch_size": 500,
}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_a_killed_sweep_comes_to_the_same_bits(tmp_path, monkeypatch, kills):
    """Kill -9 of the sweep and its run, as when the machine stops: the next sweep takes up its checkpoint."""
    monkeypatch.setattr("pyrovae.reports.figures._figures", lambda *_: {})
    path, runs = tmp_path / "SWEEP.json", tmp_path / "runs"
    path.write_text(json.dumps({"recipe": SMALL | {"num_epochs": 60 * kills}, "grid": {"seed": [5]}}))
    command = [sys.executable, "-m", "pyrovae", "sweep", str(path), str(runs)]
    here = os.environ | {"OMP_NUM_THREADS": "1"}
    checkpoints = runs / "seed-5" / "checkpoints"
    for _ in range(kills):
        before = newest(checkpoints)
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=here, start_new_session=True) as process:
            while newest(checkpoints) == before and process.poll() is None:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL  # and not that it was done before
        wait_until_free(runs / "seed-5" / "lock")
        with locked(runs / "seed-5" / "lock"):  # the run is gone
            assert read_run(runs / "seed-5").weights is None
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=here)
    assert done.returncode == 0, done.stderr
    assert "seed-5  complete" in done.stdout
    alone = tmp_path / "alone"
    config = runs / ".sweep" / "seed-5.json"
    assert cli.main(["train", str(alone), "--config", str(config)]) == 0
    name = "weights.safetensors"
    assert (runs / "seed-5" / name).read_bytes() == (alone / name).read_bytes()


def wait_until_free(lock: Path) -> None:
    """Until the killed process is gone, which takes the kernel a moment."""
    for _ in range(500):
        try:
            with locked(lock):
                return
        except OSError:
            time.sleep(0.02)


def newest(checkpoints: Path) -> str:
    return max((each.name for each in checkpoints.glob("[0-9]" * 8)), default="")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # submitit's debug executor leaves its logs open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_submitit_carries_out_the_same(trainer, tmp_path, capsys):
    pytest.importorskip("submitit")
    content = {"grid": {"seed": [0, 13]}, "cluster": {"timeout_min": 5}}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    assert swept(tmp_path, content, "--cluster", "debug") == 1
    said = capsys.readouterr()
    assert "seed-13 failed: seed 13 brings no luck" in said.out
    assert "seed-0   complete" in said.out
    assert swept(tmp_path, content | {"cluster": {"timeout": 5}}, "--cluster", "debug") == 2
    assert "cluster: " in capsys.readouterr().err


@pytest.mark.slow
def test_submitit_runs_processes_of_its_own(tmp_path):
    pytest.importorskip("submitit")
    content = {"recipe": SMALL | {"num_epochs": 2}, "grid": {"seed": [0, 1]}, "cluster": {"timeout_min": 5}}
    assert swept(tmp_path, content, "--cluster", "local") == 0
    for seed in range(2):
        assert read_run(tmp_path / "runs" / f"seed-{seed}").weights is not None
