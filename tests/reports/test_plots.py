"""Figures show what they are given: pixels and curves are read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.evaluation.results import FIELDS, Evaluation
from pyrovae.evaluation.weights import khat_threshold
from pyrovae.testing import LinearGaussian

SHAPE = (2, 3)


@pytest.fixture
def vae():
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.networks.MLP(2, 6)),
        pv.guides.Normal(pv.networks.MLP(6, 4)),
    )


def tile(figure, row: int, column: int) -> np.ndarray:
    (axes,) = figure.axes
    canvas = axes.images[0].get_array()
    top, left = row * (SHAPE[0] + 1), column * (SHAPE[1] + 1)
    return np.asarray(canvas[top : top + SHAPE[0], left : left + SHAPE[1]])


def test_grid_puts_each_image_in_its_place():
    rows = [torch.rand(4, 6), torch.rand(4, 6)]
    figure = plots.image_grid(rows, SHAPE, ["a", "b"], "title")
    np.testing.assert_allclose(tile(figure, 1, 2), rows[1][2].reshape(SHAPE).numpy())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    with pytest.raises(ValueError, match="expected images of shape"):
        plots.image_grid(rows, (6,))


def test_reconstructions_stand_under_their_data(vae):
    x = torch.bernoulli(torch.full((3, 6), 0.5))
    figure = plots.reconstructions(vae, x, SHAPE)
    np.testing.assert_allclose(tile(figure, 0, 1), x[1].reshape(SHAPE).numpy())
    expected = vae.reconstruct(x)[1].detach().reshape(SHAPE).numpy()
    np.testing.assert_allclose(tile(figure, 1, 1), expected, rtol=1e-6)


def test_interpolation_begins_and_ends_at_its_pair(vae):
    a, b = torch.zeros(2, 6), torch.ones(2, 6)
    figure = plots.interpolation(vae, a, b, SHAPE, steps=5)
    for column, x in ((0, a), (4, b)):
        expected = vae.reconstruct(x)[1].detach().reshape(SHAPE).numpy()
        np.testing.assert_allclose(tile(figure, 1, column), expected, rtol=1e-6)


def test_plane_has_the_first_latent_across_and_the_second_up(vae):
    figure = plots.latent_plane(vae, SHAPE, points=3)
    edge = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(5 / 6))
    for row, column, z in ((0, 2, [edge, edge]), (2, 0, [-edge, -edge]), (1, 2, [edge, 0.0])):
        expected = vae.decode(torch.tensor(z)).mean.detach().reshape(SHAPE).numpy()
        np.testing.assert_allclose(tile(figure, row, column), expected, rtol=1e-4)


def test_samples_are_as_many_as_asked(vae):
    (axes,) = plots.samples(vae, SHAPE, rows=2, columns=5).axes
    assert axes.images[0].get_array().shape == (2 * 3 - 1, 5 * 4 - 1)


def test_learning_curves_show_the_history(vae):
    x = torch.eye(6)
    history = pv.fit(vae.model, vae.guide, x, num_epochs=3, validation=x, progress=False)
    figure = plots.learning_curves(history)
    for axes, name in zip(figure.axes, ("elbo", "reconstruction", "kl"), strict=True):
        training, validation = axes.lines
        np.testing.assert_allclose(training.get_ydata(), getattr(history, name))
        np.testing.assert_allclose(validation.get_ydata(), getattr(history, f"validation_{name}"))
        assert list(training.get_xdata()) == [1, 2, 3]


def test_calibration_has_the_band_and_every_curve():
    oracle = LinearGaussian(torch.randn(6, 2), noise=0.5, shift=0.3)
    found = pv.diagnostics.calibration(oracle.model, oracle.guide, torch.zeros(1, 6), num_simulations=300)
    left, right = plots.calibration(found).axes
    lines = [*left.lines, *right.lines]
    assert len(right.lines) == 1
    drawn = sorted(tuple(np.round(line.get_ydata(), 9)) for line in lines)
    curves = np.pad(found.difference.numpy().T, ((0, 0), (1, 1)))
    assert drawn == sorted(tuple(np.round(curve, 9)) for curve in curves)
    dashed = [line for line in lines if line.get_linestyle() == "--"]
    assert len(dashed) == int(found.outside.sum()) >= 2
    named = {text.get_text() for axes in (left, right) for text in axes.texts}
    assert found.names[found.worst[0]] in named
    assert named <= {name for name, out in zip(found.names, found.outside, strict=True) if out}
    assert left.get_title() == f"latents: {int(found.outside[:2].sum())} of 2 outside"
    edge = left.collections[0].get_paths()[0].vertices
    assert edge[:, 1].max() == pytest.approx(found.upper.max().item())
    assert edge[:, 1].min() == pytest.approx(found.lower.min().item())


def test_bars_of_gaps_end_at_the_whole(vae):
    x = torch.eye(6)
    settings = {"num_samples": 50, "steps": 5, "progress": False}
    found = {"a": pv.diagnostics.gaps(vae.model, vae.guide, x, **settings)}
    (axes,) = plots.gaps(found).axes
    first, second = axes.patches
    assert first.get_width() == pytest.approx(found["a"].amortisation.mean().item())
    assert second.get_x() + second.get_width() == pytest.approx(found["a"].inference.mean().item())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a"]


def test_bars_of_kl_fall(vae):
    found = pv.diagnostics.kl_by_dimension(vae.model, vae.guide, torch.eye(6))
    (axes,) = plots.kl(found).axes
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == sorted(found.means.tolist(), reverse=True)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [found.names[i] for i in found.means.argsort(descending=True)]


def a_result(khat: list[float], error: list[float], num_samples: int = 1000) -> Evaluation:
    columns = {name: torch.arange(len(khat)).double() - 90 for name in FIELDS}
    columns |= {"khat": torch.tensor(khat).double(), "standard_error": torch.tensor(error).double()}
    columns |= {"draws": torch.full((len(khat),), float(num_samples))}
    return Evaluation(**columns, num_samples=num_samples)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "loader"])
def test_worst_data_stand_above_their_own_numbers(kind):
    x = torch.rand(9, 6)
    khat = [0.1, 0.9, torch.nan, 2.0, 0.2, torch.inf, 0.3, 0.3, -torch.inf]
    result = a_result(khat, [0.1, 0.2, 0.3, 0.04, 0.5, 0.6, 0.7, 0.8, 0.0])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)
    data = {"tensor": x, "tuple": (x, torch.zeros(9)), "loader": loader}[kind]
    figure = plots.worst(result, data, SHAPE, count=8)
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 8
    for axes, row in zip(shown, (5, 3, 1, 7, 6, 4, 0, 8), strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), x[row].reshape(SHAPE).numpy())
        assert axes.get_xlabel().startswith(f"row {row}\n${row - 90:.1f} \\pm")
    assert [axes.get_xlabel().split(" = ")[1] for axes in shown[:2]] == ["$\\infty$", "2.00"]


def test_worst_of_other_data_is_refused():
    result = a_result([0.1, 0.2], [0.1, 0.1])
    with pytest.raises(ValueError, match="the result is of 2 rows, the data have 3"):
        plots.worst(result, torch.rand(3, 6), SHAPE)
    with pytest.raises(ValueError, match="expected images of shape"):
        plots.worst(result, torch.rand(2, 6), (6,))


def test_reliability_puts_each_datum_in_its_place():
    result = a_result([0.1, 0.9, 0.65, 2.0, torch.inf, -torch.inf], [0.1, 0.2, 0.3, 0.4, 0.5, 0.0])
    figure = plots.reliability(result)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    reliable, doubtful, beyond = (points.get_offsets() for points in axes.collections)
    np.testing.assert_allclose(reliable[:2], [[0.1, 0.1], [0.65, 0.3]])
    np.testing.assert_allclose(doubtful, [[0.9, 0.2]])
    np.testing.assert_allclose(beyond[0], [2.0, 0.4])
    assert reliable[2][0] < 0.0  # a perfect guide: at the left edge, and inside the figure
    assert beyond[1][0] > 2.0
    lowest, highest = axes.get_xlim()
    assert lowest < reliable[2][0] < beyond[1][0] < highest
    assert {line.get_xdata()[0] for line in axes.lines} == {khat_threshold(1000), 1.0}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["3 reliable (below 0.67)", "1 doubtful", "2 beyond 1"]


def test_reliability_of_a_perfect_guide_and_of_too_few_draws():
    plots.reliability(a_result([-torch.inf] * 3, [0.0] * 3)).draw_without_rendering()
    with pytest.raises(ValueError, match="k-hat needs 25 draws, there were 10"):
        plots.reliability(a_result([torch.nan], [0.1], num_samples=10))
