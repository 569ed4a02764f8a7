"""Figures of log p(x): counts, boxes and error bars are read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.evaluation.results import FIELDS, Evaluation


def a_result(log_evidence: torch.Tensor, error: float = 0.1) -> Evaluation:
    columns = {name: torch.full((len(log_evidence),), 0.1, dtype=torch.float64) for name in FIELDS}
    columns |= {"log_evidence": log_evidence.double()}
    columns |= {"standard_error": torch.full((len(log_evidence),), error, dtype=torch.float64)}
    return Evaluation(**columns, num_samples=100, conventions={"num_samples": 100, "method": "is"})


def test_every_datum_is_counted_and_the_least_are_named():
    values = torch.randn(200) - 90
    (axes,) = plots.evidence(a_result(values)).axes
    assert sum(bar.get_height() for bar in axes.patches) == 200
    mean, least = axes.lines
    assert mean.get_xdata()[0] == pytest.approx(values.double().mean().item())
    low = values.argsort()[:3]
    np.testing.assert_allclose(least.get_xdata(), values[low])
    assert least.get_label() == f"lowest: rows {', '.join(map(str, low.tolist()))}"


def test_boxes_have_the_medians_of_their_classes():
    values, labels = torch.randn(60) - 90, torch.arange(60) % 3 + 4
    figure = plots.evidence(a_result(values), labels)
    figure.draw_without_rendering()
    axes = figure.axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4 (20)", "5 (20)", "6 (20)"]
    medians = [line.get_xdata()[0] for line in axes.lines if line.get_linewidth() == 2]
    expected = [np.median(values[labels == each].double()) for each in (4, 5, 6)]
    np.testing.assert_allclose(medians, expected)
    ends = np.concatenate([line.get_xdata() for line in axes.lines if line.get_linestyle() != "None"])
    for each in (4, 5, 6):
        some = values[labels == each].double().numpy()
        inside = some[(some >= np.percentile(some, 5)) & (some <= np.percentile(some, 95))]
        assert {inside.min(), inside.max()} <= {*ends.tolist()}
    with pytest.raises(ValueError, match="59 labels of 60 rows"):
        plots.evidence(a_result(values), labels[1:])


def test_of_many_classes_the_lowest_are_shown():
    values, labels = torch.randn(300) - 90, torch.arange(300) % 50
    axes = plots.evidence(a_result(values), labels).axes[1]
    lowest = sorted(range(50), key=lambda each: values[labels == each].median().item())[:20]
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{each} (6)" for each in lowest]
    assert axes.get_title() == "the 20 lowest of 50 classes"


def test_differences_are_where_the_table_has_them_with_two_errors():
    values, noise = torch.randn(400) - 90, torch.randn(400)
    found = pv.compare(
        {
            "a$b$": a_result(values),
            "same": a_result(values + 0.3 * (noise - noise.mean())),
            "worse": a_result(values - 1 + 0.3 * noise),
            "better": a_result(values + 1 + 0.3 * noise),
        }
    )
    figure = plots.comparison(found)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = list(found.differences)
    assert [label.get_text().replace("\\", "") for label in axes.get_yticklabels()] == names
    segments = {round(each[0][1]): each for bars in axes.collections for each in bars.get_segments()}
    for place, name in enumerate(names):
        if name == found.reference:
            assert place not in segments
            continue
        each = found[name]
        low, high = (end[0] for end in segments[place])
        assert (low + high) / 2 == pytest.approx(each.difference, abs=1e-9)
        assert (high - low) / 2 == pytest.approx(2 * each.error)
    assert [text.get_text() for text in axes.texts] == [found[name].verdict for name in names]
    assert {found[name].verdict for name in names} == {"better", "worse", "too close to call", "reference"}


def test_a_single_datum_has_no_error_bar():
    found = pv.compare({"a": a_result(torch.tensor([-90.0])), "b": a_result(torch.tensor([-91.0]))})
    plots.comparison(found).draw_without_rendering()
