"""Several processes do what one does: the same gradients, the same answers, one voice, and no hang.

The processes are forks of tests/group_server.py, with gloo on 127.0.0.1; each job has a time limit after
which it is killed and counts as failed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae import distributed
from pyrovae.core import launch
from pyrovae.data.batches import batches, local_batches

SERVER = Path(__file__).parents[1] / "group_server.py"
ROOT = Path(pv.__file__).parents[1]
COLUMNS = ("elbo", "reconstruction", "kl", "loss", "validation_elbo", "validation_kl")


def served(folder: Path, *jobs: str) -> dict:
    here = os.environ | {"PYTHONPATH": f"{ROOT}:{SERVER.parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SERVER, folder, *jobs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["quick", pytest.param("slow", marks=pytest.mark.slow)])
def found(request, tmp_path_factory):
    jobs = ["equal", "rows", "several", "sharded", "resumed", "ended", "bad_starts", "commands"]
    more = ["--slow"] if request.param == "slow" else []
    return served(tmp_path_factory.mktemp("groups"), *jobs, *more)


def values(outcomes: list[dict]) -> list:
    for each in outcomes:
        assert "error" not in each, each["error"] + each.get("trace", "")
    return [each["value"] for each in outcomes]


def errors(outcomes: list[dict]) -> list[str]:
    return [each.get("error", "nothing") for each in outcomes]


def assert_near(a: dict, b: dict, tolerance: float) -> None:
    """Parameters and history of two fits."""
    assert torch.allclose(*(torch.tensor(e["parameters"], dtype=torch.float64) for e in (a, b)), 0, tolerance)
    for name in COLUMNS:
        pair = [torch.tensor(each["history"][name], dtype=torch.float64) for each in (a, b)]
        assert torch.allclose(*pair, 0, tolerance), name


def test_steps_are_those_of_one_process_with_the_whole_batch(found):
    """12 steps of Adam, each third uneven, N/B scaled or not, global latents, bounds, graphs, 3 rows for 4.

    In float64 they differ by 1e-15; a row that is weighed wrongly is seen at 1e-3.
    """
    (whole,) = values(found["equal"]["1"])
    assert whole["plain"]["history"]["elbo"][-1] > whole["plain"]["history"]["elbo"][0] + 0.3
    for size in ("2", "4"):
        for rank in values(found["equal"][size]):
            for name in rank:
                assert_near(rank[name], whole[name], 1e-10)


def test_all_processes_come_to_the_same_bits(found):
    for size in ("2", "4"):
        first, *others = values(found["equal"][size])
        for other in others:
            for name in first:
                assert other[name]["parameters"] == first[name]["parameters"]
                assert other[name]["history"] == first[name]["history"]


def test_each_row_is_seen_once_in_an_epoch_by_one_process(found):
    (whole,) = values(found["equal"]["1"])
    for size in (1, 2, 4):
        looks = -(-5 // size)  # rows of the first look for parameters
        seen = [each["plain"]["seen"][looks:] for each in values(found["equal"][str(size)])]
        rows = sorted(row for each in seen for row in each)
        assert rows == sorted(whole["plain"]["seen"][5:])
        assert len(rows) == 4 * 13
    assert [len(each["few"]["seen"]) for each in values(found["equal"]["4"])] == [1 + 8, 1 + 4, 1, 1]


def test_evaluation_is_that_of_one_process_to_the_last_bit(found):
    """By draws, adaptively, by annealed chains; and gone on with by four what one had left."""
    (whole,) = values(found["rows"]["1"])
    for size in ("2", "4"):
        for rank in values(found["rows"][size]):
            assert rank == whole


def test_small_things_are_agreed_upon(found):
    first, second = values(found["several"])
    assert first["gather"] == second["gather"] == [0, 1]
    assert first["total"] == second["total"] == [2.0, 1.0]
    assert first["first"] == second["first"] == "of 0"
    assert first["dealt"] == second["dealt"]
    assert first["dealt"] == [
        [1, "1 by 0", True],
        [2, "two", False],
        [3, "3 by 0", True],
        [4, "4 by 1", True],
    ]
    assert first["one's error"] == "OSError: no disk (process 1)"
    assert second["one's error"] == "OSError: no disk"
    assert first["shared"] == second["shared"] == "nothing"
    assert "process 1 does not see what process 0 writes there: name a folder that" in first["not shared"]
    assert first["agrees to stop"] == second["agrees to stop"] == 1


def test_weights_and_running_statistics_are_the_first_ones_and_noise_is_not(found):
    first, second = values(found["several"])
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    assert len(first["noise"]) == len(second["noise"]) == 8  # 2 epochs of 2 steps and 2 of validation
    trained = [0, 1, 4, 5]
    assert len({each["noise"][i] for each in (first, second) for i in trained}) == 8
    assert [first["noise"][i] for i in (2, 3)] == [first["noise"][i] for i in (6, 7)]


def test_what_one_process_finds_wrong_ends_all_with_its_words(found):
    first, second = values(found["several"])
    for name, message in {
        "seeds": r"ValueError: fit: seed is 1 on process 1 and 0 on process 0: start every process with",
        "rows": r"ValueError: fit: rows is 12 on process 1 and 13 on process 0",
        "terms": r"ELBO: a term such as free_bits.* is of a whole batch, .*: train by one process, or use",
        "nan": r"ValueError: data: NaN in row 11: drop the row",
        "not finite": r"FloatingPointError: fit: the loss is nan at epoch 0, batch 2: site 'x' of the model",
    }.items():
        assert re.match(rf".*{message}", first[name])
        assert first[name].removesuffix(" (process 1)") == second[name].removesuffix(" (process 1)")
    (told,) = first["rolled back"]  # on both; the first one says so
    assert re.search(r"batch 2: site 'x' .* with half the learning rate, 0.0005 \(1 of 3 times\)", told)
    assert second["rolled back"] == []


def test_sharded_parameters_are_refused_with_a_reason(found):
    for fit, evaluate in values(found["sharded"]):
        assert fit.startswith("ValueError: fit: the parameters are sharded (FSDP), and each process computes")
        assert evaluate.startswith("ValueError: evaluate: the parameters are sharded (FSDP)")


def test_a_run_goes_on_by_as_many_processes_to_the_bit_and_by_others_over_the_same_batches(found):
    whole, assured = found["resumed"]["whole"], 0
    assert all(each == ["cut", "cut"] for each in found["resumed"]["cut"])
    for size, outcomes in found["resumed"]["on"].items():
        for rank, each in enumerate(values(outcomes)):
            assert_near(each, whole, 0.0 if size == "2" else 1e-10)
            said = f"goes on elsewhere (processes is 2 there and {'nothing' if size == '1' else size} here)"
            assert [said in line for line in each["told"]] == ([] if size == "2" else [True]), (size, rank)
            assured += 1
    assert assured >= 3


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(found):
    ended = found["ended"]
    first, second = ended["killed"]
    assert second["code"] == -9
    assert first["kind"] == "ConnectionError"
    assert re.match(r"another of the 2 processes ended, or did not answer in time \(", first["error"])
    assert errors(ended["alone"])[1] == "cut"
    assert ended["alone"][0]["kind"] == "ConnectionError"
    for name in ("killed, on", "told, on"):
        epochs, outcomes = ended[name]
        for each in values(outcomes):
            assert len(each["history"]["elbo"]) == epochs


def test_a_signal_to_one_process_is_one_to_all_after_the_same_step(found):
    assert [each["kind"] for each in found["ended"]["told"]] == ["SystemExit"] * 2
    assert errors(found["ended"]["told"]) == ["143", "143"]


def test_processes_that_do_not_come_are_one_line_and_no_hang(found):
    (alone,), (late,), (gpu,) = (found["bad_starts"][key] for key in ("one of two", "nobody there", "no GPU"))
    said = r"process {} of 2, on .*: the 2 processes do not meet at 127.0.0.1:\d+ within 2 s \(.*\): start"
    assert re.match(said.format(0), alone["error"])
    assert re.match(said.format(1), late["error"])
    assert "\n" not in alone["error"] + late["error"]
    assert gpu["kind"] == "ValueError"
    assert re.match(r"NCCL takes a GPU for each process, and this machine has \d+: process 0", gpu["error"])


def test_the_command_line_trains_and_evaluates_with_one_voice(found):
    said = found["commands"]
    train, evaluate = values(said["train"]), values(said["evaluate"])
    for first, second in (train, evaluate):
        assert first["code"] == second["code"] == 0
        assert second["out"] == ""
        assert second["err"] == []
    assert "recipe.json, weights.safetensors, history.json" in train[0]["out"]
    assert said["files"] == [
        "checkpoints",
        "figures",
        "history.json",
        "lock",
        "log.jsonl",
        "recipe.json",
        "weights.safetensors",
    ]
    assert said["by two"] == said["by one"]
    assert evaluate[0]["out"] == values(said["alone"])[0]["out"]
    for name, message in (("again", "holds a run already"), ("target", "target_se needs num_samples of 100")):
        first, second = values(said[name])
        assert first["code"] == second["code"] == 2
        assert message in first["err"][0]
        assert len(first["err"]) == 1
        assert second["err"] == []


@pytest.mark.slow
def test_torchrun(tmp_path):
    """As a user calls it; then with a process missing."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    small = ["--num-epochs", "1", "--hidden", "8", "--latent-dim", "2"]
    here = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def ran(*words, **more):
        words = [*map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, env=here | more)

    port = str(20_000 + os.getpid() % 10_000)
    done = ran(*torchrun, port, "-m", "pyrovae", "train", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("recipe.json") == 1
    done = ran(*torchrun, port, "-m", "pyrovae", "evaluate", tmp_path / "run", "--num-samples", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("per datum: ") == 1
    assert len(pv.Evaluation.load(tmp_path / "run" / "evaluation.nc")) == 1000
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    lonely = ran(
        *(sys.executable, "-m", "pyrovae", "evaluate", tmp_path / "run"), **place, PYROVAE_TIMEOUT="3"
    )
    assert lonely.returncode == 1
    assert re.search(
        r"(?m)^pyrovae: process 1 of 2, on .* do not meet at 127.0.0.1:\d+ within 3 s", lonely.stderr
    )
    assert lonely.stderr.count("\n") == 1


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            TORCHRUN | {"RANK": "2"},
            "RANK is 2 and WORLD_SIZE is 2: ranks go from 0 to 1: start all processes by",
        ),
        ({"WORLD_SIZE": "2"}, "RANK is not set: start all processes by one torchrun"),
        (
            TORCHRUN | {"WORLD_SIZE": "two"},
            "WORLD_SIZE is 'two', expected a number: start all processes by one torchrun",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
            "MASTER_ADDR is not set: start all processes by one torchrun",
        ),
    ],
)
def test_an_environment_that_contradicts_itself_is_one_line(environ, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        launch.place(environ)
    assert "\n" not in str(caught.value)


def test_a_script_that_forgot_to_join_is_told(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(UserWarning, match="torchrun started 2 processes.*: call pyrovae.distributed.join()"):
        distributed.warn_without_group("fit")


def test_tasks_of_a_plain_srun_are_told(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.warns(
        UserWarning, match="evaluate: srun started 4 processes.*: start them by `srun torchrun`"
    ):
        distributed.warn_without_group("evaluate")


def test_one_process_is_no_group():
    assert launch.place(TORCHRUN | {"WORLD_SIZE": "1"}) is None
    assert launch.place({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}) is None


def test_parts_of_batches_are_the_batches():
    """Of tensors, a Dataset and a loader: no row twice, none left out, and none at all for some."""
    x = torch.arange(11.0)[:, None]
    rows = torch.utils.data.TensorDataset(x)
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    for data in (x, rows, loader):
        whole = [
            batch for (batch,) in batches(data, 4, "test", 0, shuffle=not isinstance(data, type(loader)))
        ]
        for size in (1, 2, 3, 5):
            parts = [
                list(local_batches(data, 4, "test", 0, rank=rank, size=size, shuffle=data is not loader))
                for rank in range(size)
            ]
            for i, batch in enumerate(whole):
                assert all(each[i][1] == len(batch) for each in parts)
                assert torch.equal(torch.cat([each[i][0][0] for each in parts]), batch)


def test_alone_all_of_it_is_the_identity(tmp_path):
    assert distributed.world() == distributed.join() == (0, 1)
    x = torch.rand(3)
    assert distributed.total(x) is x
    assert distributed.from_first(lambda: x) is x
    distributed.check_shared(tmp_path / "nowhere")
    distributed.check_same_settings("fit", {"seed": 1})
    with pytest.raises(KeyError), distributed.collective():
        raise KeyError
