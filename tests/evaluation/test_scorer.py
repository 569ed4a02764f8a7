"""evaluate(compile=True): the same answers through graphs; precision; what no graph can do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, a_vae, binary
from known_models import MODELS

import pyrovae as pv
from pyrovae.core import programs
from pyrovae.evaluation.results import FIELDS
from pyrovae.evaluation.scorer import Scorer


@pytest.fixture
def uncompiled(monkeypatch):
    """Graphs run as they were captured: torch's compiler takes ten seconds for each."""
    monkeypatch.setattr("pyrovae.compiler.backend.CompiledGraph.compile", lambda self, tensors: None)


def both(model, guide, x, **keywords):
    keywords = {"num_samples": 200, "progress": False, **keywords}
    return [pv.evaluate(model, guide, x, compile=compile, **keywords) for compile in (False, True)]


def seeded(function, *args, **keywords):
    torch.manual_seed(1)
    return function(*args, **keywords)


def check_same(eager, compiled):
    """The draws are the same, and float32 rounds in another order."""
    for name in ("log_evidence", "elbo", "reconstruction", "kl"):
        torch.testing.assert_close(getattr(compiled, name), getattr(eager, name), rtol=1e-5, atol=2e-4)
    assert torch.equal(compiled.draws, eager.draws)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_the_same(name):
    model, guide, x, _ = MODELS[name]()
    check_same(*both(model, guide, x[:80]))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "keywords",
    [
        {"num_samples": 300},  # two passes and a ragged one
        {"num_samples": 5},
        {"num_samples": 1},
        {"chunk_size": 7},
        {"num_samples": 100, "target_se": 0.05, "max_samples": 3000},
        {"proposal": "adapted"},
        {"proposal": "refined"},
        {"method": "ais", "num_samples": 3, "num_temperatures": 4},
    ],
    ids=lambda keywords: " ".join(f"{name}={value}" for name, value in keywords.items()),
)
def test_however_the_draws_are_made(keywords):
    vae = a_vae()
    eager, compiled = both(vae.model, vae.guide, binary(70), **keywords)
    check_same(eager, compiled)
    assert compiled.conventions["compiled"] is True
    assert "compiled" not in eager.conventions
    assert pv.compare({"a": eager, "b": compiled})["b"].verdict == "too close to call"


@pytest.mark.usefixtures("uncompiled")
def test_log_weights_alone():
    vae, x = a_vae(), binary(6)
    eager, compiled, narrow = (
        seeded(pv.log_weights, vae.model, vae.guide, x, num_samples=30, **keywords)
        for keywords in ({}, {"compile": True}, {"compile": True, "precision": "bfloat16"})
    )
    assert eager.requires_grad
    assert not compiled.requires_grad
    torch.testing.assert_close(compiled, eager.detach(), rtol=0, atol=2e-4)
    assert 0 < (narrow - compiled).abs().max() < 0.3
    with pytest.raises(ValueError, match="precision is 'double'"):
        pv.log_weights(vae.model, vae.guide, x, precision="double")


@pytest.mark.usefixtures("uncompiled")
def test_one_graph_serves_all_tiles_and_passes():
    vae = a_vae()
    scorer = Scorer(vae.model, compile=True)
    from pyrovae.core.programs import inspect
    from pyrovae.evaluation.importance import weigh

    for x in (binary(64), binary(64)):
        structure = inspect(vae.model, vae.guide, x)
        pieces = list(weigh(scorer, vae.guide, (x,), {}, structure, 300))
        assert [len(weights) for weights, _ in pieces] == [128, 128, 44]
    assert len(scorer.graphs._graphs) == 1


def test_torchs_compiler_gives_the_same_and_weights_are_read_at_each_call():
    vae, x = a_vae(), binary(70)
    check_same(*both(vae.model, vae.guide, x))
    scorer = Scorer(vae.model, compile=True)
    z = torch.randn(5, 70, 4)
    latents = {"z": (z, {})}
    structure = programs.inspect(vae.model, vae.guide, x)
    for _ in range(2):
        found = sum(scorer(latents, (x,), {}, structure, 5))
        exact = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
        torch.testing.assert_close(found, exact.double(), rtol=1e-5, atol=1e-4)
        with torch.no_grad():
            vae.likelihood.net.layers[-1].bias.add_(1.0)


@pytest.mark.usefixtures("uncompiled")
def test_data_are_looked_at_though_a_graph_does_not():
    vae, x = a_vae(), binary(100)
    x[70, 3] = 0.3
    with pytest.raises(ValueError, match=r"data rows 64 to 99: site 'x': value 0.3 in row 6 of the batch"):
        pv.evaluate(vae.model, vae.guide, x, num_samples=5, compile=True, progress=False)


def test_what_no_graph_can_do_runs_by_itself_and_says_so():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            loc = z if z.sum() > 1e9 else z + 1
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.warns(UserWarning, match="the value of a tensor decides what runs"):
        check_same(*both(model, guide, torch.randn(5), num_samples=50))


def test_bfloat16_is_another_model_by_a_little():
    vae, x = a_vae(), binary(70)
    wide, narrow = (
        pv.evaluate(vae.model, vae.guide, x, num_samples=300, precision=precision, progress=False)
        for precision in ("float32", "bfloat16")
    )
    off = (narrow.log_evidence - wide.log_evidence).abs()
    assert 0 < off.max() < 0.05
    assert narrow.conventions["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="compare: precision is float32 for 'a' and bfloat16 for 'b'"):
        pv.compare({"a": wide, "b": narrow})
    with pytest.raises(ValueError, match="precision is 'float16': 'float32', 'tf32' or 'bfloat16'"):
        pv.evaluate(vae.model, vae.guide, x, precision="float16", progress=False)


def test_the_columns_of_a_single_datum_of_a_fixed_guide():
    from pyro.infer.autoguide import AutoNormal

    vae, x = a_vae(), torch.eye(FEATURES)
    guide = AutoNormal(vae.model)
    guide(x)
    result = pv.evaluate(vae.model, guide, x, num_samples=50, progress=False)
    assert all(getattr(result, name).shape == (FEATURES,) for name in FIELDS)
