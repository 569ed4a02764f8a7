"""fit(resume=): a run that was cut off anywhere ends with the bits of one that was left alone."""

from __future__ import annotations

from dataclasses import asdict

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, a_vae, binary
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

import pyrovae as pv
from pyrovae.compiler.backend import CompiledGraph
from pyrovae.objectives import ELBO, IWAE, WakeSleep, kl_weight, warmup
from pyrovae.storage.checkpoints import Checkpoints
from pyrovae.training.callbacks import Averaged, KeepBest
from pyrovae.training.step import TrainStep

ROWS, BATCH, EPOCHS = 13, 5, 3  # an epoch has 3 steps, the last of 3 rows


PLACE = [torch.device("cpu")]
"""Where the models are tested: --device."""


class CutError(Exception):
    """As a kill between two steps."""


class CutAfter:
    """Ends the run in its n-th step, before that is kept; every one before is."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, training):
        pass

    def step(self, training):
        self.left -= 1
        if not self.left:
            raise CutError


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2, fused=True)


def fit(vae, data, folder=None, **keywords):
    """With every step kept."""
    keywords = {"num_epochs": EPOCHS, "batch_size": BATCH, "optimizer": adam, "progress": False, **keywords}
    keywords |= {"compile": keywords.get("compile", False), "seed": 3, "device": PLACE[0]}
    if isinstance(keywords.get("loss"), type(lambda: 0)):
        keywords["loss"] = keywords["loss"]()
    return pv.fit(vae.model, vae.guide, data, resume=folder, checkpoint_every=0.0, **keywords)


def columns(history):
    """All but the times."""
    return {name: value for name, value in asdict(history).items() if "seconds" not in name}


def tensors(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_resumes(
    tmp_path, make, data, cut, *, callbacks=lambda: [], after=lambda callbacks: None, **keywords
):
    """Cut in the given step and taken up by fresh objects, twice: the same weights and history."""
    start, found = make().state_dict(), []
    for name in ("whole", "cut"):
        for steps in {"whole": [0], "cut": [cut, 2, 0]}[name]:  # 0 cuts nothing
            vae, mine = make(), callbacks()
            begun = (tmp_path / name / "checkpoints").exists()
            vae.load_state_dict(make().state_dict() if begun else start)
            torch.rand(3)
            try:
                history = fit(vae, data(), tmp_path / name, callbacks=[*mine, CutAfter(steps)], **keywords)
            except CutError:
                continue
        after(mine)
        found.append((columns(history), tensors(vae)))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])


@pytest.fixture(autouse=True)
def place(device):
    PLACE[0] = device


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Kills of processes, as in test_kills.py, lose nothing that was written: only a machine's end does."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def x():
    return binary(ROWS)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 8])
def test_cut_in_any_step(tmp_path, x, cut):
    """In the first, the second, an epoch's last, the next one's first, amid it, the last but one."""
    assert_resumes(tmp_path, a_vae, lambda: x, cut, validation=x)


def redrawn():
    values = torch.randint(0, 256, (ROWS, FEATURES), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    return pv.datasets.Split(values, scale=255, redraw=True)


DATA = {
    "redrawn": redrawn,
    "subset": lambda: Subset(redrawn(), range(ROWS - 1)),
    "loader": lambda: DataLoader(redrawn(), BATCH, shuffle=True),
    "loader with a generator": lambda: DataLoader(
        redrawn(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(9)
    ),
    "loader with a sampler": lambda: DataLoader(
        redrawn(), BATCH, sampler=RandomSampler(range(ROWS), generator=torch.Generator().manual_seed(9))
    ),
    "loader with workers": lambda: DataLoader(redrawn(), BATCH, shuffle=True, num_workers=1),
}


@pytest.mark.parametrize("name", DATA)
def test_data_come_in_the_same_order_with_the_same_draws(tmp_path, name):
    assert_resumes(tmp_path, a_vae, DATA[name], 5)


class Shaky(nn.Module):
    """A network with running statistics and dropout."""

    def __init__(self, net):
        super().__init__()
        self.net, self.norm, self.drop = net, nn.BatchNorm1d(FEATURES), nn.Dropout(0.3)

    def forward(self, z):
        logits = self.net(z).base_dist.logits
        return dist.Bernoulli(
            logits=self.drop(self.norm(logits.reshape(-1, FEATURES))).view_as(logits)
        ).to_event(1)


def shaky():
    vae = a_vae()
    return pv.VAE(vae.prior, Shaky(vae.likelihood), vae.guide.part)


def test_running_statistics_and_dropout(tmp_path, x):
    assert_resumes(tmp_path, shaky, lambda: x, 5, validation=x)


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.1),
    "milestones": lambda o: lr_scheduler.MultiStepLR(o, [1, 2], 0.1),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0, threshold_mode="abs"),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.5)], [1]
    ),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=EPOCHS + 1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_go_on(tmp_path, x, name):
    assert_resumes(tmp_path, a_vae, lambda: x, 8, scheduler=SCHEDULERS[name])
    rates = columns(fit(a_vae(), x, tmp_path / "whole", scheduler=SCHEDULERS[name]))["learning_rate"]
    assert len({*rates}) > 1


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw, two groups": lambda p: torch.optim.AdamW([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}]),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_go_on(tmp_path, x, name):
    assert_resumes(tmp_path, a_vae, lambda: x, 5, optimizer=OPTIMIZERS[name])


LOSSES = {
    "warm-up by steps": lambda: ELBO(terms=[kl_weight(warmup(9))]),
    "warm-up by epochs": lambda: ELBO(terms=[kl_weight(warmup(2, unit="epochs"))]),
    "IWAE, dreg": lambda: IWAE(3, gradient="dreg"),
    "wake-sleep": lambda: WakeSleep(2),
}


@pytest.mark.parametrize(
    ("name", "compile"),
    [*((name, False) for name in LOSSES), ("warm-up by steps", True), ("IWAE, dreg", True)],
)
def test_objectives_and_their_clocks_go_on(tmp_path, x, name, compile, monkeypatch):
    """The compiler has tests of its own, and takes seconds: graphs run as they are captured."""
    monkeypatch.setattr(CompiledGraph, "compile", lambda self, tensors: None)
    assert_resumes(tmp_path, a_vae, lambda: x, 5, loss=LOSSES[name], compile=compile)


@pytest.mark.parametrize("decided", ["auto", True, False])
def test_a_checkpoint_of_compile_auto_goes_on_as_asked_for_now(tmp_path, x, decided, monkeypatch):
    """Earlier versions decided by the time of the first steps."""
    monkeypatch.setattr(CompiledGraph, "compile", lambda self, tensors: None)
    state = TrainStep.state
    monkeypatch.setattr(TrainStep, "state", lambda self: state(self) | {"compile": decided})
    with pytest.raises(CutError):
        fit(a_vae(), x, tmp_path, callbacks=[CutAfter(5)])
    newest = Checkpoints.newest

    def of_auto(self):
        found = newest(self)
        found["run"]["said"]["compile"] = "auto"
        return found

    monkeypatch.setattr(Checkpoints, "newest", of_auto)
    history = fit(a_vae(), x, tmp_path, callbacks=[CutAfter(1000)], compile=True)
    assert len(history) == EPOCHS
    assert history.compile_seconds > 0


@pytest.mark.slow
def test_compiled_code_goes_on(tmp_path, x):
    assert_resumes(tmp_path, a_vae, lambda: x, 5, compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("places", [("cuda", "cpu"), ("cpu", "cuda")])
def test_goes_on_at_another_device(tmp_path, x, places):
    PLACE[0] = torch.device(places[0])
    with pytest.raises(CutError):
        fit(a_vae(), x, tmp_path, callbacks=[KeepBest(), Averaged(0.5), CutAfter(8)], validation=x)
    PLACE[0] = torch.device(places[1])
    vae, callbacks = a_vae(), [KeepBest(), Averaged(0.5)]
    with pytest.warns(UserWarning, match="bits may differ"):
        history = fit(vae, x, tmp_path, callbacks=callbacks, validation=x)
    assert len(history) == EPOCHS
    for callback in callbacks:
        callback.restore()
    assert {parameter.device.type for parameter in vae.parameters()} == {places[1]}


@pytest.mark.parametrize("cut", [3, 6])
def test_compiled_steps_know_which_batches_are_ragged(tmp_path, x, cut, monkeypatch):
    """The first batch after the cut is the epoch's last, of 3 rows."""
    monkeypatch.setattr(CompiledGraph, "compile", lambda self, tensors: None)
    assert_resumes(tmp_path, a_vae, lambda: x, cut, compile=True, clip=1.0)


def test_the_best_and_the_averages_go_on(tmp_path, x):
    """Validation at a rate that spoils the fit: the best epoch is not the last."""
    seen = []

    def after(callbacks):
        best, averaged = callbacks
        seen.append((best.epoch, best.elbo, best._kept, averaged._averages))

    assert_resumes(
        tmp_path,
        a_vae,
        lambda: x,
        8,
        validation=x,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.5),
        callbacks=lambda: [KeepBest(), Averaged(0.5)],
        after=after,
    )
    (epoch, elbo, kept, averages), (epoch_of_cut, elbo_of_cut, kept_of_cut, averages_of_cut) = seen
    assert (epoch, elbo) == (epoch_of_cut, elbo_of_cut)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(kept, kept_of_cut, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(averages, averages_of_cut, strict=True))


def test_early_stopping_counts_on_and_stays_stopped(tmp_path, x):
    still = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731 (the same noise at every epoch: the first is best)
    vae = a_vae()
    keywords = {"optimizer": still, "validation": x, "num_epochs": 20}
    with pytest.raises(CutError):
        fit(vae, x, tmp_path, callbacks=[KeepBest(patience=2), CutAfter(8)], **keywords)
    for _ in range(2):
        best = KeepBest(patience=2)
        assert len(fit(a_vae(), x, tmp_path, callbacks=[best], **keywords)) == 3
        assert best.epoch == 0


def test_functions_with_pyro_parameters_and_closures(tmp_path):
    x = 3 + torch.randn(ROWS, generator=torch.Generator().manual_seed(1))

    def run(folder, cut):
        pyro.clear_param_store()
        shift = torch.zeros((), requires_grad=True)

        def model(x):
            loc = pyro.param("loc", torch.tensor(0.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(loc + shift, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, scale))

        keywords = {"num_epochs": EPOCHS, "batch_size": BATCH, "progress": False, "compile": False}
        history = pv.fit(
            model,
            guide,
            x,
            optimizer=adam,
            resume=folder,
            checkpoint_every=0,
            callbacks=[CutAfter(cut)],
            **keywords,
        )
        return columns(history), [pyro.param(name).item() for name in ("loc", "scale")], shift.item()

    whole = run(tmp_path / "whole", 0)
    with pytest.raises(CutError):
        run(tmp_path / "cut", 5)
    assert run(tmp_path / "cut", 0) == whole


def test_more_epochs_are_as_if_they_had_been_asked_for_at_once(tmp_path, x):
    start = a_vae().state_dict()
    found = []
    for folder, epochs in (("whole", [4]), ("more", [2, 3, 4])):
        for num_epochs in epochs:
            vae = a_vae()
            vae.load_state_dict(start)
            history = fit(vae, x, tmp_path / folder, num_epochs=num_epochs)
        found.append((columns(history), tensors(vae)))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])
    with pytest.raises(
        ValueError, match="has 4 epochs already, and num_epochs is 3: ask for as many at least"
    ):
        fit(a_vae(), x, tmp_path / "more", num_epochs=3)


def test_a_finished_run_is_returned_at_once(tmp_path, x):
    first = a_vae()
    history = fit(first, x, tmp_path)
    again = a_vae()
    assert columns(fit(again, x, tmp_path, callbacks=[CutAfter(1)])) == columns(history)
    assert_equal(tensors(first), tensors(again))


def test_kept_or_not_the_run_is_the_same(tmp_path, x):
    start, found = a_vae().state_dict(), []
    for folder in (None, tmp_path):
        vae = a_vae()
        vae.load_state_dict(start)
        found.append((columns(fit(vae, x, folder, validation=x)), tensors(vae)))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])


def test_seconds_go_on_from_where_they_were(tmp_path, x):
    history = fit(a_vae(), x, tmp_path, num_epochs=1)
    more = fit(a_vae(), x, tmp_path, num_epochs=3)
    assert more.seconds[0] == history.seconds[0] < more.seconds[1] < more.seconds[2]


OTHERS = {
    "batch_size": ({"batch_size": 6}, "batch_size is 5 there and 6 here"),
    "loss": ({"loss": lambda: IWAE(2)}, "loss.is is Trace_ELBO there and IWAE here"),
    "rate": (
        {"optimizer": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True)},
        r"optimizer.groups\[0\].lr is 0.01 there and 0.001 here",
    ),
    "schedule": ({"scheduler": SCHEDULERS["step"]}, "scheduler is nothing there and {'is': 'StepLR'"),
    "clip": ({"clip": 1.0}, "clip is nothing there and 1.0 here"),
    "compile": ({"compile": True}, "compile is False there and True here"),
    "validation": (
        {"validation": torch.ones(3, FEATURES)},
        "validation is nothing there and {'is': 'data', 'rows': 3",
    ),
    "two": (
        {"batch_size": 6, "clip": 1.0},
        "batch_size is 5 there and 6 here; clip is nothing there and 1.0",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_are_refused_and_listed(tmp_path, x, name):
    fit(a_vae(), x, tmp_path, num_epochs=1)
    keywords, message = OTHERS[name]
    with pytest.raises(ValueError, match=message) as raised:
        fit(a_vae(), x, tmp_path, **keywords)
    assert "\n" not in str(raised.value)
    assert len(fit(a_vae(), x, tmp_path)) == EPOCHS  # and nothing was harmed


def test_other_schedules_of_a_loss_are_told_apart(tmp_path, x):
    fit(a_vae(), x, tmp_path, num_epochs=1, loss=lambda: ELBO(terms=[kl_weight(warmup(9))]))
    with pytest.raises(ValueError, match=r"loss.terms\[0\].weight.length is 9 there and 10 here"):
        fit(a_vae(), x, tmp_path, loss=lambda: ELBO(terms=[kl_weight(warmup(10))]))


def test_other_data_seeds_models_and_callbacks_are_refused(tmp_path, x):
    fit(a_vae(), x, tmp_path, num_epochs=1)
    other = x.clone()
    other[7, 2] = 1 - other[7, 2]
    with pytest.raises(ValueError, match=r"data.fingerprint is \w{8} there and \w{8} here"):
        fit(a_vae(), other, tmp_path)
    with pytest.raises(ValueError, match=r"parts.model.prior.is is StandardNormal there and Laplace"):
        fit(a_vae("laplace"), x, tmp_path)
    with pytest.raises(ValueError, match="callbacks that remember are none there and KeepBest here"):
        fit(a_vae(), x, tmp_path, callbacks=[KeepBest()])
    with pytest.raises(ValueError, match="seed is 3 there and 4 here"):
        pv.fit(
            *(a_vae().model, a_vae().guide, x),
            **{"num_epochs": 1, "batch_size": BATCH, "optimizer": adam, "compile": False, "seed": 4},
            resume=tmp_path,
            progress=False,
        )


def test_another_place_is_a_warning(tmp_path, x, monkeypatch):
    """As a checkpoint of a GPU is on a CPU: it goes on, and says that bits may differ."""
    fit(a_vae(), x, tmp_path, num_epochs=1)
    monkeypatch.setattr(
        "pyrovae.training.fit.environment",
        lambda device: {"torch": torch.__version__, "device": "NVIDIA H100", "threads": 1},
    )
    with pytest.warns(UserWarning, match=r"device is .* there and NVIDIA H100 here.*: bits may differ"):
        assert len(fit(a_vae(), x, tmp_path, num_epochs=2)) == 2


def test_what_cannot_be_resumed_is_said_before_training(tmp_path, x):
    class Odd(KeepBest):
        def state_dict(self):
            return {"file": open}

    class Never(CutAfter):
        pass

    with pytest.raises(
        TypeError, match=r"'callbacks.0.1.file' is a builtin_function_or_method, which cannot be kept"
    ):
        fit(a_vae(), x, tmp_path, callbacks=[Odd(), Never(1)], validation=x)
    loader = DataLoader(TensorDataset(x), BATCH, num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers=True cannot be resumed exactly"):
        fit(a_vae(), loader, tmp_path)
