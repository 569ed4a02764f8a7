"""Annealing through graphs: the gradients and densities of eager runs, for every tile, without a flip."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary
from known_models import MODELS

import pyrovae as pv
from pyrovae.evaluation.annealing import ais, bdmc
from pyrovae.evaluation.annealing_path import Slopes, _slope, path_between
from pyrovae.evaluation.proposals import PROPOSALS
from pyrovae.testing import LinearGaussian


@pytest.fixture(autouse=True)
def uncompiled(request, monkeypatch):
    """Graphs run as they were captured, but where a test says otherwise: torch's compiler takes long."""
    if "compiled_by_torch" not in request.node.name:
        monkeypatch.setattr("pyrovae.compiler.backend.CompiledGraph.compile", lambda self, tensors: None)


def slopes_of(model, guide, x, start="guide", precision="float32"):
    """Eagerly and by a graph: gradients and densities at the same points, of two tiles of the data."""
    slopes, found = Slopes(model, guide, precision), []
    for rows in (x[:5], x[5:10]):
        eager, compiled = (path_between(model, guide, (rows,), start, 0, None, s) for s in (None, slopes))
        point = eager.draw(6)
        found.append([_slope(path, point, beta) for path in (eager, compiled) for beta in (0.0, 0.3, 1.0)])
    return slopes.graphs, found


def check_same(found):
    for tile in found:
        for (slope, *ends), (other, *others) in zip(tile[:3], tile[3:], strict=True):
            for a, b in zip([*slope, *ends], [*other, *others], strict=True):
                torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "bits"])
def test_every_model_gives_the_same_at_every_temperature_and_tile(name, start):
    model, guide, x, _ = MODELS[name]()
    graphs, found = slopes_of(model, guide, x, start)
    check_same(found)
    assert len(graphs._graphs) == 1
    assert graphs.cause is None


def test_chains_whose_moves_are_all_accepted_end_where_eager_ones_do():
    """With a guide that is exact every move is accepted, and no rounding decides anything."""
    oracle = LinearGaussian(torch.ones(3, 2))
    x = oracle.sample(70)
    keywords = {"num_samples": 3, "num_temperatures": 8, "method": "ais", "progress": False}
    eager, compiled = (
        pv.evaluate(oracle.model, oracle.guide, x, compile=compile, **keywords) for compile in (False, True)
    )
    torch.testing.assert_close(compiled.log_evidence, eager.log_evidence, rtol=0, atol=1e-4)
    torch.testing.assert_close(compiled.log_evidence, oracle.log_evidence(x).double(), rtol=0, atol=1e-4)


def test_graphs_compiled_by_torch_give_the_same():
    vae = a_vae()
    graphs, found = slopes_of(vae.model, vae.guide, binary(10))
    check_same(found)
    assert graphs.cause is None


def test_bounds_from_both_sides_through_graphs_enclose_the_truth():
    oracle = LinearGaussian(torch.ones(3, 2), widen=2.0)
    bounds = bdmc(
        oracle.model, oracle.guide, torch.zeros(20, 3), num_temperatures=60, num_samples=8, compile=True
    )
    exact = oracle.log_evidence(bounds.data).double()
    below, above = exact - bounds.lower, bounds.upper - exact
    assert (below > -4 * bounds.lower_error).all()
    assert (above > -4 * bounds.upper_error).all()


def test_layers_in_bfloat16_move_the_densities_a_little_and_nothing_else():
    vae = a_vae()
    _, (low, _) = slopes_of(vae.model, vae.guide, binary(10), precision="bfloat16")
    full, rounded = low[2][2], low[5][2]
    change = (rounded - full).abs()
    assert 1e-6 < change.max() < 0.3
    assert full.dtype == rounded.dtype == torch.float64


def test_bounds_that_may_follow_the_data_and_fitted_proposals_run_without_a_graph():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1 + x[:, 0].abs()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1 + x[:, 0].abs()))

    x = torch.randn(4, 1)
    keywords = {"num_samples": 4, "num_temperatures": 6}
    with pytest.warns(UserWarning, match="the bounds of site 'z' are tensors, and may follow the data"):
        compiled = ais(model, guide, x, compile=True, **keywords)
    torch.testing.assert_close(compiled.log_weights, ais(model, guide, x, **keywords).log_weights)

    vae = a_vae()
    x = binary(6)
    adapted = PROPOSALS["refined"](vae.model, vae.guide)
    with pytest.warns(UserWarning, match="is fitted to its data once"):
        compiled = ais(vae.model, adapted, x, compile=True, **keywords)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager = ais(vae.model, adapted, x, **keywords)
    torch.testing.assert_close(compiled.log_weights, eager.log_weights)
