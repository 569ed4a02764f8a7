"""Figures show what they are given: pixels and curves are read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import plots

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
