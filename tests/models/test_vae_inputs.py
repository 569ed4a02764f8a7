"""What a VAE answers to bad data, to parts that do not fit, and to the slips of a first day."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, PRIORS, a_vae, to_z
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import guides


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((20, FEATURES), 0.4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            torch.full((4, FEATURES), 0.5),
            r"value 0.5 in row 0 of the batch is outside Bernoulli: binarise, or use Cont",
        ),
        (
            torch.eye(FEATURES).index_fill(0, torch.tensor([2]), 137),
            r"value 137 in row 2 of the batch.* divide 8-bit",
        ),
        (
            -torch.eye(FEATURES),
            r"value -1 in row 0 of the batch is outside Bernoulli: use Normal, Laplace",
        ),
        (torch.full((4, FEATURES), torch.nan), r"(value nan|NaN) in row 0.*: drop the row"),
        (torch.zeros(4, FEATURES - 1), r"MLP: expected shape \(..., 6\), got \(4, 5\)"),
        (torch.zeros(4, FEATURES, dtype=torch.uint8), r"MLP: expected floating point, got torch.uint8"),
        (torch.zeros(4, FEATURES, dtype=torch.bool), r"got torch.bool: use x.float\(\)$"),
        (torch.zeros(4, 2, 3), r"expected shape \(..., 6\), got \(4, 2, 3\): flatten the rows"),
        (torch.zeros(4, FEATURES, dtype=torch.float16), r"MLP: input is torch.float16, weights are"),
    ],
)
def test_bad_data_are_refused_in_one_line(data, message):
    vae = a_vae()
    if data.dtype in (torch.float32, torch.float64):
        data = data.to(torch.get_default_dtype())
    for call in (pv.log_weights, partial(pv.fit, num_epochs=1, progress=False)):
        with pytest.raises(ValueError, match=message) as raised:
            call(vae.model, vae.guide, data)
        assert "\n" not in str(raised.value)


def test_programs_called_with_nothing_say_what_they_need():
    vae = a_vae()
    with pytest.raises(ValueError, match="data x, or with size="):
        vae.model()
    with pytest.raises(ValueError, match="is called with data x"):
        vae.guide()
    with pytest.raises(ValueError, match="at least 2"):
        vae.interpolate(torch.zeros(FEATURES), torch.zeros(FEATURES), steps=1)


def test_guide_and_prior_of_different_widths_are_named(x):
    vae = pv.VAE(
        pv.priors.StandardNormal(LATENTS + 1), LIKELIHOODS["bernoulli"].make(), guides.Normal(to_z())
    )
    with pytest.raises(ValueError, match=r"site 'z': the guide gives shape \(20, 4\), .* \(5,\)"):
        Trace_ELBO()(vae.model, vae.guide)(x)


def test_likelihood_of_another_width_is_named(x):
    vae = pv.VAE(
        PRIORS["standard_normal"].make(),
        pv.likelihoods.Bernoulli(pv.networks.MLP(LATENTS, 9)),
        guides.Normal(to_z()),
    )
    with pytest.raises(
        ValueError, match=r"data of shape \(20, 6\), and .* Bernoulli has rows of \(9,\): make its network"
    ):
        Trace_ELBO()(vae.model, vae.guide)(x)


def test_guide_network_of_odd_width_is_refused(x):
    with pytest.raises(ValueError, match="loc and log variance, an even width; it gives 5"):
        pv.guides.Normal(pv.networks.MLP(FEATURES, 5))(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v, x: fit_one(v.guide, v.model, x), ValueError, "observes nothing: is obs= forgotten, or"),
        (lambda v, x: pv.log_weights(v.guide, v.model, x), ValueError, "observes nothing: is obs= forgotten"),
        (lambda v, x: fit_one(v, v.guide, x), TypeError, "a VAE is two programs: pass vae.model and vae.g"),
        (lambda v, x: fit_one(v.model, v.guide, (x, x[:, 0])), ValueError, "give 2 tensors a row.*labels"),
        (
            lambda v, x: fit_one(v.model, v.guide, pv.datasets.load("mnist-mini")),
            TypeError,
            r"such as \.train",
        ),
        (lambda v, x: fit_one(v.model, v.guide, x, loss=Trace_ELBO), TypeError, r"pass Trace_ELBO\(\)"),
        (lambda v, x: pv.VAE(pv.priors.StandardNormal, v.likelihood, v.guide.part), TypeError, "a part is a"),
        (lambda v, x: pv.VAE(4, v.likelihood, v.guide.part), TypeError, "a part is a module, .* got 4"),
        (
            lambda v, x: fit_one(v.model, pv.VAE(v.prior, v.likelihood, nn.Linear(6, 3)).guide, x),
            TypeError,
            r"a part returned a Tensor, expected a Distribution: .*guides.Normal\(net\)",
        ),
        (lambda v, x: pv.networks.MLP(2, 3, hidden=4), ValueError, r"a list of widths, hidden=\[4\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:Found")  # Pyro's own on a swapped pair, ahead of the error
def test_slips_are_answered_with_their_mend(call, error, message, x):
    with pytest.raises(error, match=message):
        call(a_vae(), x)


def fit_one(model, guide, data, **keywords):
    return pv.fit(model, guide, data, num_epochs=1, progress=False, **keywords)
