"""Every way of estimating log p(x), on every model whose log p(x) is known: as often right as it says.

An interval of 1.96 standard errors covers between 90% and 99% of some hundred data, each drawn anew: five
standard deviations of such a share either way come to 94.9% +- 5%.
"""

from __future__ import annotations

import pytest
from known_models import MODELS, ROWS

import pyrovae as pv

WAYS = {
    "importance sampling": {"num_samples": 1000},
    "adaptive": {"num_samples": 100, "target_se": 0.05, "max_samples": 6400},
    "adapted": {"num_samples": 300, "proposal": "adapted"},
    "annealing": {"method": "ais", "num_samples": 32, "num_temperatures": 30},
}


NONE = {("bits", "adapted"), ("bits", "annealing"), ("50 latents", "adapted")}
"""Discrete, which are refused by name; more latents than so few draws can fit."""

LONG = {
    *(("50 latents", "annealing"), ("50 latents", "adaptive"), ("5 latents", "annealing")),
    ("1 latent", "annealing"),
    *(("curved", "annealing"), ("two modes", "annealing"), ("two modes", "adaptive"), ("curved", "adaptive")),
}
"""Each takes more than ten seconds, and others go the same way."""


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(m, w, marks=[pytest.mark.slow] if (m, w) in LONG else [])
        for m in MODELS
        for w in WAYS
        if (m, w) not in NONE
    ],
)
def test_intervals_cover_the_truth_at_the_stated_rate(name, way, record_property):
    model, guide, x, exact = MODELS[name]()
    found = pv.evaluate(model, guide, x, progress=False, **WAYS[way])
    score = (found.corrected - exact) / found.standard_error
    covered = (score.abs() < 1.96).double().mean().item()
    record_property("covered", covered)
    print(f"{name}, {way}: {covered:.1%} of {ROWS}, error {found.standard_error.mean():.3f} nats")
    assert 0.90 <= covered <= 0.99
