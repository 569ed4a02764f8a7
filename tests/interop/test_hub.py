"""The Hub: what travels, what it is checked by, and the calls of huggingface_hub, held to its signatures."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import pyrovae as pv
from pyrovae import hub
from pyrovae.runs.build import build, load_data
from pyrovae.runs.folder import describe
from pyrovae.runs.recipe import Recipe, read_run

RECIPE = Recipe(latent_dim=2, hidden=(8,), prior="GaussianMixture(components=2)")
TRAVELS = {"recipe.json", "weights.safetensors", "history.json", "evaluation.nc", "figures", "README.md"}
LEFT = {"checkpoints/00000001/state.json": "{}", "lock": "1", "log.jsonl": "{}", "logs/id": "x", "a.pkl": "x"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run folder with all that there may be, and a file that runs code."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    data = load_data(RECIPE)
    torch.manual_seed(0)
    vae = build(RECIPE, 784, data.train.shape, data.train)
    pv.save(vae, folder, describe(RECIPE, data, 784))
    result = pv.evaluate(vae.model, vae.guide, data.test[:64], num_samples=30, progress=False)
    result.save(folder / "evaluation.nc")
    (folder / "history.json").write_text(json.dumps({"epoch": [0], "elbo": [-200.0]}))
    (folder / "figures").mkdir()
    pixels = pv.plots.samples(vae, data.test.shape)
    pixels.savefig(folder / "figures" / "samples.png", dpi=20)
    for name, text in LEFT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


class StandIn:
    """HfApi over a local folder; each call has to fit the signature of the real one."""

    def __init__(self, root: Path):
        self.root, self.calls = root, []

    def __getattr__(self, name):
        import huggingface_hub

        def call(*args, **keywords):
            real = getattr(huggingface_hub.HfApi, name)
            bound = inspect.signature(real).bind(self, *args, **keywords)
            self.calls.append((name, keywords))
            return getattr(self, f"_{name}")(**{k: v for k, v in bound.arguments.items() if k != "self"})

        return call

    def _create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def _upload_folder(self, repo_id, folder_path, delete_patterns, **_):
        for pattern in delete_patterns:
            for path in (self.root / repo_id).glob(pattern):
                path.unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    def _snapshot_download(self, repo_id, allow_patterns, **_):
        from huggingface_hub.utils import filter_repo_objects

        there = [
            str(p.relative_to(self.root / repo_id)) for p in (self.root / repo_id).rglob("*") if p.is_file()
        ]
        cache = self.root / "cache" / repo_id
        for name in filter_repo_objects(there, allow_patterns=allow_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).symlink_to(self.root / repo_id / name)  # as the Hub's cache has them
        return str(cache)


@pytest.fixture
def api(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    found = StandIn(tmp_path / "hub")
    monkeypatch.setattr(hub, "_api", lambda token: found)
    return found


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same(a: Path, b: Path) -> bool:
    one, other = pv.load(a), pv.load(b)
    return all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


def test_a_run_comes_back_from_the_hub(run, api, tmp_path):
    assert hub.push(run, "me/digits", private=True) == "https://huggingface.co/me/digits/commit/1"
    assert files(api.root / "me" / "digits") == TRAVELS
    (api.root / "me" / "digits" / "setup.py").write_text("raise SystemExit")  # of somebody else
    pulled = hub.pull("me/digits", tmp_path / "pulled", revision="v1")
    assert files(pulled) == TRAVELS
    assert files(pulled / "figures") == {"samples.png"}
    assert not any(path.is_symlink() for path in pulled.rglob("*"))
    assert same(run, pulled)
    assert read_run(pulled) == read_run(run)
    before, after = (pv.Evaluation.load(each / "evaluation.nc") for each in (run, pulled))
    assert torch.equal(before.log_evidence, after.log_evidence)
    assert [name for name, _ in api.calls] == ["create_repo", "upload_folder", "snapshot_download"]
    assert api.calls[0][1]["private"] is True
    assert api.calls[2][1]["revision"] == "v1"


def test_what_a_run_has_no_more_goes(run, api):
    hub.push(run, "me/digits")
    (run / "figures" / "samples.png").unlink()
    (run / "evaluation.nc").unlink()
    hub.push(run, "me/digits")
    assert not list((api.root / "me" / "digits").glob("figures/*"))
    assert not list((api.root / "me" / "digits").glob("*.nc"))


def test_a_local_folder_takes_the_place_of_the_hub(run, tmp_path):
    shelf = tmp_path / "shelf"
    assert hub.push(run, shelf) == str(shelf)
    assert files(shelf) == TRAVELS
    (run / "figures" / "samples.png").rename(run / "figures" / "other.png")
    hub.push(run, shelf)  # again
    assert files(shelf / "figures") == {"other.png"}
    assert same(hub.pull(shelf, tmp_path / "pulled"), run)


def test_a_push_writes_over_pushes_alone(run, tmp_path):
    """A run that is at work has more than a push makes; one that was saved has no card."""
    before = files(run)
    for to in (run, run.parent / "." / run.name):
        with pytest.raises(ValueError, match="is the run itself: name another folder"):
            hub.push(run, to)
    with pytest.raises(ValueError, match="is the run itself"):
        hub.pull(run, run, overwrite=True)
    assert files(run) == before
    other = Path(shutil.copytree(run, tmp_path / "other"))
    with pytest.raises(ValueError, match=r"holds 'a\.pkl', which no push leaves: name an empty folder"):
        hub.push(run, other)
    assert files(other) == before
    pv.save(pv.load(run), tmp_path / "saved", read_run(run))
    with pytest.raises(ValueError, match=r"holds 'recipe\.json' and no README\.md"):
        hub.push(run, tmp_path / "saved")
    assert files(tmp_path / "saved") == {"recipe.json", "weights.safetensors"}


HOLDING = """
import sys
from pathlib import Path
from pyrovae.storage.locks import locked
with locked(Path(sys.argv[1]) / "lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_run_at_work_is_not_written_over(run, tmp_path):
    there = Path(shutil.copytree(run, tmp_path / "there"))
    before = files(there)
    command = [sys.executable, "-c", HOLDING, str(there)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"{other.pid}"):
            hub.pull(run, there, overwrite=True)
        other.stdin.write("\n")
    assert files(there) | {"lock"} == before | {"lock"}


@pytest.mark.parametrize("name", ["weights.safetensors", "evaluation.nc", "recipe.json"])
def test_damage_is_refused_and_the_folder_stays_as_it_was(run, tmp_path, name):
    shelf = tmp_path / "shelf"
    hub.push(run, shelf)
    content = bytearray((shelf / name).read_bytes())
    content[-200] ^= 1
    (shelf / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        hub.pull(shelf, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_weights_of_another_run_are_refused(run, tmp_path):
    """Whole, and of the same shapes, but not those that the recipe says."""
    shelf = tmp_path / "shelf"
    hub.push(run, shelf)
    pv.save(build(RECIPE, 784, (28, 28)), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", shelf)
    with pytest.raises(ValueError, match=r"not the weights that .*recipe\.json is of"):
        hub.pull(shelf, tmp_path / "pulled")


def test_a_hash_is_of_the_numbers_whatever_the_default_type(run, tmp_path):
    torch.set_default_dtype(torch.float64)
    assert hub.pull(run, tmp_path / "pulled").is_dir()


def test_a_pickle_in_the_place_of_weights_is_never_read(run, tmp_path):
    torch.save({"a": torch.ones(1)}, run / "weights.safetensors")
    with pytest.raises(ValueError, match=r"a pickle of torch\.save, which can run code and is never read"):
        hub.pull(run, tmp_path / "pulled")


def test_says_what_is_missing(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'digits' is no repository: 'owner/name', or pathlib\.Path"):
        hub.pull("digits", tmp_path / "pulled")
    with pytest.raises(ValueError, match="holds a run already"):
        hub.pull(run, run)
    (run / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no run that is finished: go on with it"):
        hub.push(run, "me/digits")
    with pytest.raises(FileNotFoundError, match=r"no recipe\.json, so no run"):
        hub.pull(tmp_path / "nothing", tmp_path / "pulled")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'pyrovae\[hub\]'"):
        hub.pull("me/digits", tmp_path / "pulled")


def test_the_card_reads_as_the_hub_reads_it(run, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import ModelCard

    hub.push(run, tmp_path / "shelf", license="apache-2.0")
    text = (tmp_path / "shelf" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    result = pv.Evaluation.load(run / "evaluation.nc")
    data = ModelCard(text).data
    assert (data.library_name, data.license, data.tags) == ("pyrovae", "apache-2.0", front["tags"])
    (found,) = data.eval_results
    assert found.metric_value == result.log_evidence.mean().item()
    assert found.metric_args["fingerprint"] == result.conventions["fingerprint"]
    assert str(result) in text
    assert all(f"| {name} | {getattr(RECIPE, name)} |" in text for name in Recipe.model_fields)
    assert "![samples](figures/samples.png)" in text


def test_the_card_has_the_errors_of_the_table(run):
    result = pv.Evaluation.load(run / "evaluation.nc")
    front = hub.card(read_run(run), {"evaluation": result}, name="me/digits").split("---")[1]
    (metric,) = yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"]
    mean = result.summary()["log_evidence"]
    assert metric["value"] == mean.mean
    assert metric["args"]["error_by_choice_of_data"] == mean.test_set
    assert metric["args"]["error_by_draws"] == mean.monte_carlo


def test_a_card_of_a_run_that_was_not_evaluated(run):
    text = hub.card(read_run(run), {}, name="me/digits")
    assert "model-index" not in text
    assert "Not evaluated" in text


def test_save_pretrained_writes_a_run_folder_and_from_pretrained_reads_any(run, tmp_path):
    torch.set_default_dtype(torch.float32)  # the run's: of other numbers the hash is another
    vae = pv.VAE.from_pretrained(run)
    vae.save_pretrained(tmp_path / "kept", read_run(run))
    assert files(tmp_path / "kept") == {"recipe.json", "weights.safetensors"}
    assert same(tmp_path / "kept", run)
    assert read_run(tmp_path / "kept") == read_run(run)
    vae.save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="build the model they are of and pass it"):
        pv.VAE.from_pretrained(tmp_path / "bare")
    again = pv.VAE.from_pretrained(tmp_path / "bare", build(RECIPE, 784, (28, 28)))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), vae.parameters(), strict=True))
