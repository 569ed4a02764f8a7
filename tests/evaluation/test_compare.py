"""compare: differences and errors of made-up results, refusals, and false alarms at the stated rate."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae.evaluation.results import FIELDS
from pyrovae.testing import LinearGaussian

ROWS = 400


def result(log_evidence, error=0.1, khat=0.3, **conventions):
    n = len(log_evidence)
    of = {name: torch.zeros(n, dtype=torch.float64) for name in FIELDS}
    of |= {"log_evidence": log_evidence.double(), "standard_error": torch.full((n,), error).double()}
    of |= {"khat": torch.full((n,), khat).double()}
    said = {
        "dataset": "digits",
        "split": "test",
        "rows": n,
        "num_samples": 100,
        "method": "importance sampling",
    }
    return pv.Evaluation(**of, num_samples=100, conventions=said | {"seed": 0} | conventions)


def two(gain=0.5, spread=1.0, error=0.1):
    base = 20 * torch.randn(ROWS)
    return result(base, error), result(base + gain + spread * torch.randn(ROWS), error)


def test_differences_are_paired_and_errors_kept_apart():
    a, b = two(error=0.3)
    found = pv.compare({"a": a, "b": b})
    difference = b.log_evidence - a.log_evidence
    assert list(found.differences) == ["b", "a"]
    assert found["b"].difference == pytest.approx(difference.mean().item())
    total = difference.var().item() / ROWS
    assert found["b"].monte_carlo == pytest.approx(math.sqrt(2 * 0.3**2 / ROWS), rel=1e-6)
    assert found["b"].test_set == pytest.approx(math.sqrt(total - 2 * 0.3**2 / ROWS), rel=1e-6)
    assert found["b"].error == pytest.approx(math.sqrt(total), rel=1e-6)
    assert math.isnan(found["b"].training)
    assert found["a"].verdict == "reference"
    assert found["b"].verdict == "better"
    assert pv.compare({"a": a, "b": b}, reference="b")["a"].verdict == "worse"
    # Unpaired it would be lost: the data's own spread is 20.
    assert found["b"].difference < 2 * math.sqrt(2 * 20**2 / ROWS)


def test_trainings_have_an_error_of_their_own():
    base = torch.randn(ROWS)
    a = [result(base + shift) for shift in (0.0, 0.2, 0.4)]
    b = [result(base + shift) for shift in (0.9, 1.5)]
    found = pv.compare({"a": a, "b": b})["b"]
    assert found.difference == pytest.approx(1.0)
    assert found.training == pytest.approx(math.sqrt(0.04 / 3 + 0.18 / 2))
    assert found.error >= found.training
    assert "trained once" not in str(pv.compare({"a": a, "b": b}))
    assert "trained once, so that the error of training is unknown: b" in str(pv.compare({"a": a, "b": b[0]}))


def test_a_difference_within_the_bias_is_not_called():
    """A noisy estimate is too low by half its squared error."""
    base = torch.randn(ROWS)
    a, b = result(base, error=0.05), result(base - 0.5 + 0.01 * torch.randn(ROWS), error=1.0)
    found = pv.compare({"a": a, "b": b})["b"]
    assert found.bias == pytest.approx(-0.5 + 0.05**2 / 2)
    assert found.verdict == "too close to call"
    assert pv.compare({"a": a, "b": result(base - 2.0, error=1.0)})["b"].verdict == "worse"


def test_equal_models_are_told_apart_as_often_as_stated():
    """Of 400 pairs of equals at twice the error 4.6% are; 9 is the 99.9th percentile of 100 times that."""
    alarms = sum(
        pv.compare(dict(zip("ab", two(gain=0.0), strict=True)))["b"].verdict != "too close to call"
        for _ in range(100)
    )
    assert 0 < alarms <= 12


def test_the_table_has_a_line_for_each_model_and_says_what_it_is_of():
    a, b = two()
    said = str(
        pv.compare(
            {
                "a model of a long name": a,
                "b": dataclasses.replace(b, khat=b.khat + (torch.arange(ROWS) < 100)),
            }
        )
    )
    assert "digits test, 400 rows, K = 100 draws, importance sampling; nats per datum" in said
    assert "paired with a model of a long name" in said
    assert "up to 25% of the rows have k-hat beyond 1" in said
    lines = said.splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == ["b", "a model of a long name"]
    assert "± 0.0" in lines[2]
    assert lines[2].endswith("better")
    assert lines[3].endswith("reference")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "others"),
        ("split", "validation"),
        ("binarisation", "static"),
        ("dequantisation", "uniform"),
        ("num_samples", 1000),
        ("method", "annealed importance sampling"),
        ("dtype", "float64"),
        ("fingerprint", "0badcafe"),
    ],
)
def test_results_of_other_things_are_refused(key, value):
    a, b = two()
    b.conventions[key] = value
    with pytest.raises(
        ValueError, match=rf"compare: .*{key} is .* for 'a' and {value} for 'b': evaluate both"
    ):
        pv.compare({"a": a, "b": b})


def test_a_density_is_not_held_against_a_probability():
    x = torch.bernoulli(torch.full((64, 4), 0.5))
    pair = {"bits": pv.likelihoods.Bernoulli, "reals": partial(pv.likelihoods.Normal, scale=1.0)}
    found = {}
    for name, likelihood in pair.items():
        guide = pv.guides.Normal(pv.networks.MLP(4, 2))
        vae = pv.VAE(pv.priors.StandardNormal(1), likelihood(pv.networks.MLP(1, 4)), guide)
        found[name] = pv.evaluate(vae.model, vae.guide, x, num_samples=30, progress=False)
    assert [each.conventions["measure"] for each in found.values()] == ["probability", "density"]
    with pytest.raises(ValueError, match=r"p\(x\) is a probability for 'bits' and a density for 'reals'"):
        pv.compare(found)
    del found["reals"].conventions["measure"]  # as a file of before it was said
    assert set(pv.compare(found).differences) == {"bits", "reals"}


def test_what_is_no_comparison_is_refused():
    a, b = two()
    with pytest.raises(ValueError, match="compare: 1 model given, at least 2 are needed"):
        pv.compare({"a": a})
    with pytest.raises(ValueError, match="there is no 'c': the reference is one of a, b"):
        pv.compare({"a": a, "b": b}, reference="c")
    for wrong in (a.elbo, [], [a.elbo], "runs/b"):
        with pytest.raises(TypeError, match=r"'b' is .*: pass what pyrovae.evaluate returned"):
            pv.compare({"a": a, "b": wrong})


def test_results_of_evaluate_compare_and_other_rows_are_seen():
    right, x = LinearGaussian(torch.ones(3, 1)), torch.randn(80, 3)
    vae = a_vae()
    found = pv.evaluate(vae.model, vae.guide, binary(80), num_samples=5, progress=False)
    of = [
        pv.evaluate(right.model, right.guide, rows, num_samples=5, progress=False) for rows in (x, x.flip(0))
    ]
    assert pv.compare({"a": of[0], "b": of[0]})["b"].verdict == "too close to call"
    for other in (found, of[1]):
        other.conventions["measure"] = "density"
        with pytest.raises(ValueError, match="compare: the rows differ, fingerprint is"):
            pv.compare({"a": of[0], "b": other})


def test_few_data_and_trainings_call_no_more_than_many():
    """Of equals, 4.6% are called at any number of rows or trainings; 38 of 400 is 4.5 deviations above."""
    for rows, seeds in ((1, 1), (3, 1), (10, 1), (50, 2)):
        alarms = 0
        for _ in range(400):
            base, spread = torch.randn(rows), 0.0 if seeds == 1 else 3.0
            a, b = (
                [result(base + torch.randn(rows) + spread * torch.randn(1), 0.01) for _ in range(seeds)]
                for _ in range(2)
            )
            alarms += pv.compare({"a": a, "b": b})["b"].verdict not in ("too close to call", "reference")
        assert alarms <= 38, (rows, seeds)
        assert rows > 1 or alarms == 0


def test_the_error_of_training_counts_where_one_side_knows_it():
    base = torch.randn(ROWS)
    a = [result(base + shift, 0.01) for shift in (-1.0, 0.0, 1.0, 2.0, 0.5)]
    found = pv.compare({"a": a, "b": result(base + 1.0, 0.01)})["b"]
    assert found.training == pytest.approx((torch.tensor([-1.0, 0.0, 1.0, 2.0, 0.5]).var().item() / 5) ** 0.5)
    assert found.verdict == "too close to call"


def test_lower_bounds_and_nothing_are_not_told_apart():
    base = torch.randn(ROWS)
    found = pv.compare({"a": result(base, khat=1.5), "b": result(base + 5, khat=1.5)})
    assert found["b"].verdict == "cannot be told"
    nothing = torch.full((ROWS,), -torch.inf)
    found = pv.compare({"a": result(nothing), "b": result(nothing)})
    assert (found["a"].verdict, found["b"].verdict) == ("reference", "cannot be told")
