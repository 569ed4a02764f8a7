"""Figures of codes: points, bars and histograms are read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyrovae import plots
from pyrovae.evaluation.diagnostics import ActiveUnits, Codes


def some_codes(dims: int, rows: int = 60) -> Codes:
    means = torch.randn(rows, dims, dtype=torch.float64) * torch.arange(dims, 0, -1)
    names = tuple(f"z[{i}]" for i in range(dims))
    return Codes(means, means + 0.1, torch.randn(rows, dims, dtype=torch.float64), names)


def test_codes_of_two_dimensions_are_where_they_are():
    found, labels = some_codes(2), torch.arange(60) % 3
    figure = plots.codes(found, labels)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for label, points in enumerate(axes.collections):
        np.testing.assert_allclose(points.get_offsets(), found.means[labels == label])
    named = {text.get_text(): text.get_position() for text in axes.texts}
    for label in range(3):
        np.testing.assert_allclose(named[str(label)], found.means[labels == label].median(0).values)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")


def test_many_classes_have_numbers_and_no_names_over_them():
    (axes,) = plots.codes(some_codes(2), torch.arange(60) % 30).axes
    assert len(axes.collections) == 30
    assert not axes.texts


def test_classes_differ_in_grey_by_their_numbers():
    (axes,) = plots.codes(some_codes(2), torch.arange(60) % 3).axes
    markers = [points.get_paths()[0].vertices.tolist() for points in axes.collections]
    assert markers[0] != markers[1] != markers[2] != markers[0]


def test_codes_of_more_dimensions_are_on_their_principal_components():
    found = some_codes(5)
    (axes,) = plots.codes(found).axes
    shown = np.asarray(axes.collections[0].get_offsets())
    values, vectors = np.linalg.eigh(np.cov(found.means.numpy().T))
    expected = (found.means - found.means.mean(0)).numpy() @ vectors[:, :-3:-1]
    np.testing.assert_allclose(np.abs(shown), np.abs(expected), atol=1e-9)
    assert f"{values[-1] / values.sum():.0%} of the variance" in axes.get_xlabel()
    assert f"{values[-2] / values.sum():.0%}" in axes.get_ylabel()


def test_the_code_of_one_datum_has_a_plane_too():
    (axes,) = plots.codes(some_codes(5, rows=1)).axes
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[0.0, 0.0]]


def test_codes_that_have_no_plane_or_other_labels_are_refused():
    with pytest.raises(ValueError, match="a code of one dimension has no plane"):
        plots.codes(some_codes(1))
    with pytest.raises(ValueError, match="59 labels of 60 codes"):
        plots.codes(some_codes(2), torch.zeros(59))


def test_aggregate_posterior_has_the_dimensions_furthest_apart_first():
    found = some_codes(5, rows=300)
    figure = plots.aggregate_posterior(found, count=4)
    figure.draw_without_rendering()
    order = found.apart.argsort(descending=True).tolist()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [
        f"z[{i}]: distance {found.apart[i]:.2f}" for i in order[:4]
    ]
    bars = shown[0].patches[:30]
    edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    values = found.draws[:, order[0]].clamp(edges[0], edges[-1]).numpy()
    expected, _ = np.histogram(values, edges, density=True)
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected, rtol=1e-6)
    assert shown[0].patches[30].get_hatch()


def test_bits_are_two_bars_each():
    bits = (torch.arange(20) % 4 == 0).double()[:, None]
    figure = plots.aggregate_posterior(Codes(bits, bits, 1 - bits, ("z",)))
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.75, 0.25, 0.25, 0.75])
    assert list(axes.get_xticks()) == [0, 1]
    constant = torch.ones(20, 1)
    plots.aggregate_posterior(Codes(constant, constant, constant, ("z",))).draw_without_rendering()


@pytest.mark.parametrize(
    ("variances", "active"), [([0.5, 2.0, 0.001, 0.0], 2), ([1.0, 2.0], 2), ([0.0, -1e-4], 0)]
)
def test_active_units_are_the_bars_above_the_line(variances, active):
    values = torch.tensor(variances, dtype=torch.float64)
    thresholds = torch.tensor([0.01], dtype=torch.float64)
    figure = plots.active_units(ActiveUnits(thresholds, (values > 0.01).sum()[None], values))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    bars = axes.patches
    line = axes.lines[0].get_ydata()[0]
    assert line == 0.01
    assert len(bars) == len(variances)
    assert sum(bar.get_height() > line for bar in bars) == active
    above = sorted((value for value in variances if value > 0.01), reverse=True)
    assert [bar.get_height() for bar in bars][:active] == pytest.approx(above)
    assert [bool(bar.get_hatch()) for bar in bars] == [False] * active + [True] * (len(bars) - active)
    assert axes.get_ylim()[0] < line
