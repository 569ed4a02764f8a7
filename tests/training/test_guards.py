"""What fit does about steps that go wrong, and about those that might: stops, goes back, clips, averages."""

from __future__ import annotations

import math
import os
import signal
import threading
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, PRIORS, a_vae, binary
from torch import nn
from torch.optim import lr_scheduler

import pyrovae as pv
from pyrovae.compiler.backend import CompiledGraph
from pyrovae.core.signals import noticed
from pyrovae.objectives import ELBO, kl_weight, warmup
from pyrovae.storage.checkpoints import Checkpoints
from pyrovae.training.callbacks import Averaged, KeepBest, Log
from pyrovae.training.step import TrainStep


@pytest.fixture
def as_captured(monkeypatch):
    """Graphs run as they are captured: the compiler has tests of its own, and takes seconds."""
    monkeypatch.setattr(CompiledGraph, "compile", lambda self, tensors: None)


@pytest.fixture
def x(device):
    return binary(50).to(device)


def fit(vae, data, **keywords):
    keywords = {"num_epochs": 3, "batch_size": 16, "progress": False, "compile": False, **keywords}
    return pv.fit(vae.model, vae.guide, data, device=data.device, **keywords)


def weights_of(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


class Breaking(nn.Module):
    """Logits, infinite at one call with gradients: the look for parameters is the first, then 4 an epoch."""

    def __init__(self, call, times=1):
        super().__init__()
        self.net, self.calls = nn.Linear(4, FEATURES), torch.zeros(())
        self._at, self._times = call, times

    def forward(self, z):
        logits = self.net(z)
        self.calls += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.calls >= self._at and self._times:
            self._times -= 1
            logits = logits * math.inf
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)


def breaking(call, times=1):
    return pv.VAE(PRIORS["standard_normal"].make(), Breaking(call, times), a_vae().guide.part)


@pytest.mark.parametrize("schedule", [None, lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0)])
def test_rollback_takes_the_epoch_again_at_half_the_rate(x, schedule):
    """The run is then that of one which went well, at half the rate from that epoch on."""
    start = breaking(1, 0).state_dict()
    found = []
    for call in (7, 0):  # amid the second epoch, and never
        vae = breaking(call, int(call > 0))
        vae.load_state_dict(start)
        rates = {0: 1e-3, 1: 5e-4, 2: 5e-4}

        def halve(training, rates=rates, call=call):
            if not call:
                for group in training.optimizer.param_groups:
                    group["lr"] = rates[min(training.epoch + 1, 2)]

        keywords = {"loss": ELBO(terms=[kl_weight(warmup(9))]), "callbacks": [halve]}
        if call:
            with pytest.warns(
                UserWarning, match=r"epoch 1, batch 1: site 'x'.* back to epoch 1, batch 0, with"
            ):
                history = fit(vae, x, on_failure="rollback", scheduler=schedule, **keywords)
        else:
            history = fit(vae, x, **keywords)
        found.append((history, weights_of(vae)))
    assert found[0][0].learning_rate == [1e-3, 5e-4, 5e-4]
    assert found[0][0].elbo == found[1][0].elbo
    assert torch.equal(found[0][1], found[1][1])


def test_rollback_gives_up_after_three_times(x):
    vae = breaking(3, 99)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(FloatingPointError, match="batch 0"):
            fit(vae, x, on_failure="rollback")
    said = [str(warning.message) for warning in caught]
    assert ["(1 of 3 times)" in said[0], "(3 of 3 times)" in said[2], len(said)] == [True, True, 3]
    assert "0.000125" in said[2]
    assert all(parameter.isfinite().all() for parameter in vae.parameters())


def test_a_run_that_was_cut_after_a_rollback_ends_the_same(tmp_path, x, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    start, found = breaking(1, 0).state_dict(), []

    class Stop(KeepBest):
        def __init__(self, steps):
            super().__init__()
            self.left = steps

        def step(self, training):
            self.left -= 1
            if not self.left:
                raise RuntimeError("cut")

    for name, cuts in (("whole", [0]), ("cut", [9, 0])):
        for cut in cuts:
            vae = breaking(7, int(cut == 9 or name == "whole"))
            vae.load_state_dict(start)
            keywords = {"resume": tmp_path / name, "checkpoint_every": 0, "on_failure": "rollback"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    history = fit(vae, x, callbacks=[Stop(cut)], validation=x, **keywords)
                except RuntimeError:
                    assert cut
        found.append((history.elbo, history.learning_rate, weights_of(vae)))
    assert found[0][:2] == found[1][:2]
    assert found[0][1] == [1e-3, 5e-4, 5e-4]
    assert torch.equal(found[0][2], found[1][2])


class Spoiling:
    """Moves the decoder far off, in the second epoch, so many times."""

    def __init__(self, vae, times):
        self.vae, self.times = vae, times

    def __call__(self, training):
        pass

    def step(self, training):
        if training.epoch == 1 and self.times:
            self.times -= 1
            with torch.no_grad():
                self.vae.likelihood.net.layers[-1].bias += 100.0


def test_a_run_that_raised_goes_on_with_rollback_from_amid_its_epoch(tmp_path, x):
    """It breaks in the fourth step of the second epoch, and has been kept after the third."""
    keywords = {"resume": tmp_path, "checkpoint_every": 0}
    with pytest.raises(FloatingPointError, match="epoch 1, batch 3"):
        fit(breaking(9), x, **keywords)
    with pytest.warns(UserWarning, match="epoch 1, batch 3: site 'x'.*; back to epoch 1, batch 3, with half"):
        history = fit(breaking(2), x, on_failure="rollback", **keywords)
    assert history.learning_rate == [1e-3, 5e-4, 5e-4]


@pytest.mark.usefixtures("as_captured")
@pytest.mark.parametrize("compile", [False, True])
def test_divergence_is_told(compile):
    vae = a_vae(likelihood="normal_fixed")
    with pytest.raises(FloatingPointError, match=r"diverges: the loss of epoch 1 is .* clip=") as raised:
        fit(vae, torch.randn(50, FEATURES), callbacks=[Spoiling(vae, 1)], compile=compile)
    assert "\n" not in str(raised.value)


def test_divergence_goes_back_too():
    x = torch.randn(50, FEATURES)
    vae = a_vae(likelihood="normal_fixed")
    with pytest.warns(UserWarning, match="diverges: .* back to epoch 1, batch 0, with half the") as caught:
        history = fit(vae, x, callbacks=[Spoiling(vae, 1)], on_failure="rollback")
    assert len(caught) == 1
    assert len(history) == 3
    assert max(history.loss) < 100


@pytest.mark.usefixtures("as_captured")
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_are_clipped_by_torchs_own_norm(x, compile, monkeypatch):
    """With plain SGD of rate 1 a step is minus the gradient, and its norm the limit."""
    steps = []
    taken = TrainStep.step

    def measured(self, *args, **keywords):
        before = weights_of(self.tracked.module)
        sums = taken(self, *args, **keywords)
        steps.append((weights_of(self.tracked.module) - before).norm().item())
        return sums

    monkeypatch.setattr(TrainStep, "step", measured)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
    fit(a_vae(), x, optimizer=sgd, clip=0.01, compile=compile)
    assert steps == pytest.approx([0.01] * 12, rel=1e-3)
    steps.clear()
    fit(
        a_vae(),
        x,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-9),
        clip=1e9,
        compile=compile,
    )
    assert max(steps) < 1e-6


@pytest.mark.usefixtures("as_captured")
def test_gradients_that_a_graph_gives_as_one_tensor_are_clipped_once():
    """Of a + b both have the same gradient."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.zeros(3)) for _ in range(2))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.a + self.b, 1.0).to_event(1), obs=x)

    def guide(x):
        return None

    found = []
    for compile in (False, True):
        model = Sum()
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
        pv.fit(
            *(model, guide, torch.ones(8, 3)),
            **{"optimizer": sgd, "clip": 0.1, "num_epochs": 2, "compile": compile, "progress": False},
        )
        found.append(weights_of(model))
    assert torch.allclose(*found)


def test_averages_are_those_of_the_formula_and_validated_with(x):
    seen, validated = [], []

    class Recording(Averaged):
        def step(self, training):
            super().step(training)
            seen.append(weights_of(vae))

    vae, averaged = a_vae(), Recording(0.8)
    fit(vae, x, callbacks=[averaged, lambda training: validated.append(weights_of(vae))], validation=x)
    expected = [seen[0]]
    for weights in seen[1:]:
        expected.append(0.8 * expected[-1] + 0.2 * weights)
    assert torch.equal(weights_of(vae), seen[-1])
    torch.testing.assert_close(validated, expected[3::4])
    averaged.restore()
    torch.testing.assert_close(weights_of(vae), expected[-1])


def test_averages_change_no_step(x):
    start, found = a_vae().state_dict(), []
    for callbacks in ([], [Averaged(0.5)]):
        vae = a_vae()
        vae.load_state_dict(start)
        fit(vae, x, callbacks=callbacks, validation=x)
        found.append(weights_of(vae))
    assert torch.equal(*found)


def test_a_logger_that_fails_is_one_warning_and_training_goes_on(x):
    rows = []

    def write(row):
        rows.append(row)
        if len(rows) > 1:
            raise ConnectionError("no route to host")

    with pytest.warns(
        UserWarning, match=r"fails \(ConnectionError: no route to host\), and training"
    ) as caught:
        history = fit(a_vae(), x, callbacks=[Log(write)], validation=x)
    assert len(caught) == 1
    assert len(history) == len(rows) == 3
    assert rows[0]["validation_elbo"] == history.validation_elbo[0]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_finishes_the_step_keeps_it_and_leaves(tmp_path, x, number, error):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    class Signalling:
        steps = 0

        def __call__(self, training):
            pass

        def step(self, training):
            self.steps += 1
            if self.steps == 6:
                os.kill(os.getpid(), number)

    signalling = Signalling()
    with pytest.raises(error) as raised:
        fit(a_vae(), x, callbacks=[signalling], resume=tmp_path)
    assert error is KeyboardInterrupt or raised.value.code == 143
    assert signalling.steps == 6
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    state = Checkpoints(tmp_path / "checkpoints").newest()
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 2)
    assert len(fit(a_vae(), x, resume=tmp_path)) == 3


def test_a_signal_in_the_validation_leaves_before_its_end(tmp_path, x):
    """And what goes on does not take the epoch's steps again."""
    start, found = a_vae().state_dict(), []
    for name in ("whole", "cut"):
        vae, batches = a_vae(), []
        vae.load_state_dict(start)

        def note(module, inputs, batches=batches, name=name):
            if not module.training:
                batches.append(1)
                if name == "cut" and len(batches) == 1:
                    os.kill(os.getpid(), signal.SIGINT)

        vae.model.register_forward_pre_hook(note)
        keywords = {"validation": x, "resume": tmp_path / name, "callbacks": [Averaged(0.5)]}
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                fit(vae, x, **keywords)
            assert len(batches) == 1
            state = Checkpoints(tmp_path / name / "checkpoints").newest()
            assert (state["position"]["epoch"], state["position"]["step"]) == (0, 4)
        keywords["callbacks"] = [Averaged(0.5)]
        history = fit(vae, x, **keywords)
        found.append((history.validation_elbo, weights_of(vae)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_a_second_signal_leaves_at_once():
    with noticed() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fit_leaves_at_once_at_a_second_ctrl_c(tmp_path, x):
    """In the second step of the second epoch, which is not kept; the first epoch is."""

    class Impatient:
        steps = 0

        def __call__(self, training):
            pass

        def step(self, training):
            self.steps += 1
            if self.steps == 6:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                self.steps = None

    impatient = Impatient()
    with pytest.raises(KeyboardInterrupt):
        fit(a_vae(), x, callbacks=[impatient], resume=tmp_path)
    assert impatient.steps == 6
    position = Checkpoints(tmp_path / "checkpoints").newest()["position"]
    assert (position["epoch"], position["step"]) == (1, 0)


def test_on_another_thread_handlers_are_left_alone(tmp_path, x):
    found = []

    def run():
        before = signal.getsignal(signal.SIGINT)
        found.append(len(fit(a_vae(), x, resume=tmp_path)))
        found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [3, True]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"on_failure": "retry"}, "on_failure is 'retry': 'raise' or 'rollback'"),
        ({"clip": 0.0}, "fit: clip must be positive"),
        ({"scheduler": lambda o: o}, "scheduler gave a Adam, and not one of torch's schedulers"),
        (
            {"scheduler": lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), 1)},
            "scheduler is a function that makes one of the optimizer",
        ),
    ],
)
def test_bad_arguments_are_refused(x, keywords, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(a_vae(), x, **keywords)
    with pytest.raises(ValueError, match="Averaged: decay is 1: within 0 and 1"):
        Averaged(1)
    with pytest.raises(RuntimeError, match="nothing to restore"):
        Averaged().restore()
