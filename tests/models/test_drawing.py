"""pyro.render_model of every part: its sites, its plate, what is observed, and what depends on what."""

from __future__ import annotations

import shutil

import pyro
import pytest
from components import LIKELIHOODS, PAIRS, a_vae, binary
from pyro.infer.inspect import get_model_relations

A_PAIR_FOR_EACH = [*{p: (p, q) for p, q in PAIRS}.values(), *{q: (p, q) for p, q in PAIRS}.values()]


@pytest.mark.parametrize(("prior", "guide"), sorted(set(A_PAIR_FOR_EACH)))
def test_pyro_sees_z_and_x_in_the_plate_of_the_data(prior, guide):
    vae, x = a_vae(prior, guide=guide), binary(3)
    found = get_model_relations(vae.model, (x,))
    assert found["sample_sample"] == {"z": [], "x": ["z"]}
    assert found["plate_sample"] == {"data": ["z", "x"]}
    assert found["observed"] == ["x"]
    found = get_model_relations(vae.guide, (x,))
    assert (found["sample_sample"], found["observed"]) == ({"z": []}, [])
    assert found["plate_sample"] == {"data": ["z"]}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_pyro_sees_that_x_depends_on_z(name):
    vae, x = a_vae(likelihood=name), LIKELIHOODS[name].data(3)
    found = get_model_relations(vae.model, (x,))
    assert (found["sample_sample"], found["observed"]) == ({"z": [], "x": ["z"]}, ["x"])


def test_a_drawing_has_an_edge_from_z_to_x_and_names_the_distributions(tmp_path):
    pytest.importorskip("graphviz")
    vae, x = a_vae(), binary(3)
    drawn = pyro.render_model(vae.model, model_args=(x,), render_distributions=True)
    lines = [line.strip() for line in drawn.source.splitlines()]
    assert "z -> x" in lines
    assert "subgraph cluster_data {" in lines
    assert 'distribution_description_node [label="z ~ Normal\\lx ~ Bernoulli\\l" shape=plaintext]' in lines
    assert "x [label=x fillcolor=gray shape=ellipse style=filled]" in lines
    if shutil.which("dot"):
        drawn.render(tmp_path / "model", format="png")
        assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
