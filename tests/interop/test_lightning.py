"""Lightning takes fit's steps, and its checkpoints are this package's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from components import a_vae, binary
from torch.utils.data import DataLoader

import pyrovae as pv
from pyrovae.core.random import seed_of
from pyrovae.data.batches import batches
from pyrovae.interop.lightning import lightning_checkpoints, lightning_module
from pyrovae.objectives import ELBO, kl_weight, warmup

SEED, BATCH, ROWS = 4, 5, 10  # two steps

pytestmark = [  # what Lightning says of loaders and folders that are small on purpose
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pkg_resources"),
]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning")


def trainer(lightning, folder, *plugins, **keywords):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": 1, "enable_checkpointing": False, "default_root_dir": folder, "accelerator": "cpu"}
    return lightning.Trainer(**quiet, **given | keywords, plugins=list(plugins))


def of_fit(lightning, x, epochs=1):
    """The batches of fit's epochs and, at the start of each, its noise."""
    order = [list(batches(x, BATCH, "train", SEED, epoch, shuffle=True)) for epoch in range(epochs)]

    class Noise(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 0:
                torch.manual_seed(seed_of("train", SEED, trainer.current_epoch))

    class Epochs(torch.utils.data.IterableDataset):
        epoch = 0

        def __iter__(self):
            yield from order[self.epoch]
            self.epoch += 1

    return DataLoader(Epochs(), batch_size=None), Noise()


def test_two_steps_are_those_of_fit(lightning, tmp_path):
    x = binary(ROWS)
    loader, noise = of_fit(lightning, x, epochs=2)
    start = a_vae().double().state_dict()
    found = []
    for name in ("fit", "lightning"):
        vae, loss = a_vae().double(), ELBO(terms=[kl_weight(warmup(3, unit="steps"))])
        vae.load_state_dict(start)
        if name == "fit":
            keywords = {
                "num_epochs": 2,
                "batch_size": BATCH,
                "seed": SEED,
                "compile": False,
                "progress": False,
            }
            history = pv.fit(vae.model, vae.guide, x, loss=loss, validation=x, **keywords)
        else:
            module = lightning_module(vae.model, vae.guide, loss)
            run = trainer(lightning, tmp_path, max_epochs=2, callbacks=[noise], num_sanity_val_steps=0)
            run.fit(module, loader, DataLoader(x, BATCH))
            logged = run.logged_metrics
        found.append(vae.state_dict())
    for name, value in start.items():
        # The same operations in float64: what differs is the rounding of a sum, if anything.
        torch.testing.assert_close(found[1][name], found[0][name], rtol=0, atol=1e-12)
        assert not torch.equal(found[0][name], value), name
    for name in ("loss", "elbo", "reconstruction", "kl"):
        assert logged[name] == pytest.approx(getattr(history, name)[-1], abs=1e-10), name
    kl = logged["validation_reconstruction"] - logged["validation_elbo"]
    assert logged["validation_kl"] == pytest.approx(float(kl), abs=1e-10)


def test_checkpoints_are_ours_and_training_goes_on_from_them(lightning, tmp_path):
    """An epoch, a checkpoint, and another one by a new trainer and a new model: as two in one go."""
    x, start, found = binary(ROWS), a_vae().double().state_dict(), {}
    for name, epochs in {"whole": [2], "resumed": [1, 2]}.items():
        path, loader = None, of_fit(lightning, x, epochs=2)[0]
        for count in epochs:
            vae = a_vae().double()
            vae.load_state_dict(start)
            module = lightning_module(
                vae.model,
                vae.guide,
                optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
                scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
            )
            noise, plugin = of_fit(lightning, x)[1], lightning_checkpoints(module)
            run = trainer(lightning, tmp_path, plugin, max_epochs=count, callbacks=[noise])
            run.fit(module, loader, ckpt_path=path)
            path = tmp_path / f"{name}-{count}.ckpt"
            run.save_checkpoint(path)
        found[name] = vae.state_dict()
    again = pv.load(path, a_vae().double())
    for name, value in found["whole"].items():
        assert torch.equal(found["resumed"][name], value), name
        assert torch.equal(again.state_dict()[name], value), name
        assert not torch.equal(start[name], value), name
    files = [each for each in path.rglob("*") if each.is_file()]
    assert {each.suffix for each in files} <= {".json", ".safetensors", ".txt"}
    content = bytearray((weights := next(path.rglob("weights.safetensors"))).read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors: not the bytes that were written"):
        pv.load(path, a_vae().double())
    plugin.remove_checkpoint(path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint that Lightning wrote"):
        plugin.load_checkpoint(path)


def test_what_cannot_be_trained_is_said(lightning):
    vae = a_vae().double()
    with pytest.raises(TypeError, match="RenyiELBO adds gradients itself"):
        lightning_module(vae.model, vae.guide, pyro.infer.RenyiELBO())
    with pytest.raises(ValueError, match="no trainable parameter in model or guide: pass example="):
        lightning_module(lambda x: vae.model(x), lambda x: vae.guide(x))
    module = lightning_module(lambda x: vae.model(x), lambda x: vae.guide(x), example=binary(3))
    assert len(module.trained) == len(list(vae.parameters()))


TWO = """
import lightning, torch
from torch.utils.data import DataLoader
from pyrovae.interop import lightning_module
import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors

class Told(lightning.Callback):
    def on_validation_epoch_end(self, trainer, module):
        print("told", trainer.callback_metrics["validation_elbo"].item(), flush=True)

q = guides.Normal(networks.MLP(9, 4))
vae = pv.VAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, 9)), q)
x = torch.cat([torch.zeros(4, 9), torch.ones(4, 9)])
lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, num_sanity_val_steps=0, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[Told()],
).fit(lightning_module(vae.model, vae.guide), DataLoader(x, 4), DataLoader(x, 4))
"""


@pytest.mark.slow
def test_processes_tell_one_elbo(lightning):
    here, command = Path(__file__).parents[2], [sys.executable, "-c", TWO]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=100)
    told = [line for line in done.stdout.splitlines() if line.startswith("told")]
    assert len(told) == 2, done.stderr
    assert told[0] == told[1]
    assert "sync_dist" not in done.stderr


def test_numbers_are_of_all_processes(lightning, monkeypatch):
    """The quick form: Lightning is asked for them."""
    vae, said = a_vae(), []
    module = lightning_module(vae.model, vae.guide)
    monkeypatch.setattr(module, "log_dict", lambda means, **keywords: said.append(keywords))
    monkeypatch.setattr(type(module), "current_epoch", 0)
    module.training_step(binary(ROWS), 0)
    module.validation_step(binary(ROWS), 0)
    assert [(each["sync_dist"], each["batch_size"]) for each in said] == [(True, ROWS)] * 2
