"""The explorer's answers are the library's, and this machine alone gets them."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from exploring import HERE, stored
from fastapi.testclient import TestClient
from torch.utils.data import Subset

import pyrovae as pv
from pyrovae.data.shards import write_shards
from pyrovae.reports import explorer
from pyrovae.reports.explorer.answers import Datum, as_datum, moments


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # as the command line has it
    yield stored(tmp_path_factory.mktemp("runs") / "räksmörgås", latent_dim=3)
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def app(a_run):
    return explorer.app(a_run)


@pytest.fixture(autouse=True)
def as_the_command_line(fixed_start):
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def client(app):
    return TestClient(app, base_url=HERE)


@pytest.fixture
def vae(a_run):
    return pv.load(a_run).eval()


@pytest.fixture(scope="module")
def test_split():
    return pv.datasets.load("mnist-mini").test


def asked(client, path, **question):
    response = client.post(path, json=question)
    assert response.status_code == 200, response.text
    return response.json()


def refused(response, code, said):
    assert response.status_code == code, response.text
    assert re.search(said, response.json()["error"]), response.text
    assert "\n" not in response.json()["error"]
    assert len(response.text) < 500


@torch.no_grad()
def test_decode_gives_the_mean_of_the_likelihood(client, vae):
    z = [0.3, -1.25, 2.0]
    mean = asked(client, "/decode", z=z)["mean"]
    assert torch.equal(torch.tensor(mean), vae.decode(torch.tensor(z)).mean)


@torch.no_grad()
def test_encode_gives_the_guide_and_the_reconstruction(client, vae, test_split):
    answer = asked(client, "/encode", row=7)
    x = test_split[7:8]
    q = vae.encode(x)
    assert torch.equal(torch.tensor(answer["x"]), x[0])
    assert torch.equal(torch.tensor(answer["loc"]), q.mean[0])
    torch.testing.assert_close(torch.tensor(answer["scale"]), q.stddev[0])
    assert torch.equal(torch.tensor(answer["reconstruction"]), vae.reconstruct(x)[0])
    assert answer["label"] == test_split.labels[7]
    assert answer["notes"] == ["binarisation dynamic"]


@pytest.mark.parametrize("proposal", ["guide", "widened"])
def test_evaluate_is_the_librarys_of_the_same_seed(client, vae, test_split, proposal):
    answer = asked(client, "/evaluate", row=7, num_samples=30, seed=5, proposal=proposal)
    found = pv.evaluate(
        *(vae.model, vae.guide, Subset(test_split, [7])),
        **{"num_samples": 30, "seed": 5, "progress": False},
        proposal=None if proposal == "guide" else proposal,
    )
    for name in ("log_evidence", "standard_error", "elbo", "elbo_error", "kl", "ess", "khat"):
        assert answer[name] == getattr(found, name).item(), name
    limit = 1 - 1 / math.log10(30)
    word = "reliable" if found.khat < limit else "doubtful" if found.khat <= 1 else "beyond"
    assert (answer["reliability"], answer["threshold"]) == (word, limit)
    assert answer["error_is_known"] == (found.ess.item() >= 5)
    assert answer["conventions"] == ["binarisation dynamic"]


def test_numbers_that_json_lacks_are_words(client):
    answer = asked(client, "/evaluate", row=0, num_samples=1)
    assert (answer["standard_error"], answer["khat"]) == ("nan", "nan")
    assert answer["reliability"] == "unknown: k-hat needs 25 draws"
    json.dumps(answer, allow_nan=False)


@torch.no_grad()
def test_draws_of_the_prior_are_by_their_seed(client, vae):
    first, again, other = (asked(client, "/draw", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["z"] != other["z"]
    assert torch.equal(torch.tensor(first["mean"]), vae.decode(torch.tensor(first["z"])).mean)


def test_the_plane_is_along_the_first_principal_axes(client, vae, test_split):
    about = client.get("/about").json()
    codes = torch.cat([vae.encode(test_split[row : row + 1]).mean for row in about["shown"]]).detach()
    axes, centre = torch.tensor(about["axes"]), torch.tensor(about["centre"])
    torch.testing.assert_close(axes @ axes.T, torch.eye(2))
    torch.testing.assert_close(torch.tensor(about["points"]), (codes - centre) @ axes.T, atol=1e-4, rtol=1e-4)
    largest = torch.linalg.eigvalsh(codes.T.cov(correction=0)).flip(0)
    shares = torch.tensor(about["shares"])
    torch.testing.assert_close(shares, (largest / largest.sum())[:2], atol=1e-4, rtol=1e-4)
    variances = codes.var(0)
    assert about["order"] == variances.argsort(descending=True).tolist()
    assert about["labels"] == test_split.labels[about["shown"]].tolist()
    assert (torch.tensor(about["low"]) <= codes.amin(0)).all()
    assert (torch.tensor(about["high"]) >= codes.amax(0)).all()


def test_a_plane_of_two_latents_is_latent_space_itself(tmp_path):
    about = TestClient(explorer.app(stored(tmp_path, latent_dim=2)), base_url=HERE).get("/about").json()
    assert (about["axes"], about["centre"]) == ([[1, 0], [0, 1]], [0, 0])


def test_data_that_are_no_images_are_decoded_and_not_drawn(tmp_path):
    recipe = {"dataset": "linear-gaussian", "likelihood": "Normal", "latent_dim": 1}
    client = TestClient(explorer.app(stored(tmp_path, **recipe)), base_url=HERE)
    about = client.get("/about").json()
    assert not about["is_image"]
    assert not about["takes_drawings"]
    assert about["labels"] is None
    assert about["axes"] == [[1], [0]]
    assert len(asked(client, "/decode", z=[0.5])["mean"]) == 8
    refused(client.post("/encode", json={"pixels": [0.5] * 8}), 422, "no grey images: choose a row")


def test_a_datum_alone_and_labels_that_are_no_classes_are_shown_too(tmp_path):
    for name in ("train", "validation", "test"):
        write_shards(torch.ones(1, 9), tmp_path / name, labels=torch.ones(1, 2), shape=(3, 3))
    recipe = {"dataset": "shards", "latent_dim": 3, "likelihood": "Normal"}
    client = TestClient(
        explorer.app(stored(tmp_path / "run", root=tmp_path, **recipe), tmp_path), base_url=HERE
    )
    about = client.get("/about").json()
    assert (about["labels"], len(about["axes"]), about["points"]) == (None, 2, [[0, 0]])
    assert asked(client, "/encode", row=0)["label"] is None


def test_a_row_that_is_drawn_anew_is_evaluated_as_it_is_shown(tmp_path):
    for name in ("train", "validation", "test"):
        write_shards(torch.full((2, 9), 0.5), tmp_path / name, shape=(3, 3), redraw=True)
    folder = stored(tmp_path / "run", root=tmp_path, dataset="shards", latent_dim=2)
    client = TestClient(explorer.app(folder, tmp_path), base_url=HERE)
    shown = [asked(client, "/encode", row=1, seed=seed)["x"] for seed in (3, 3, 4)]
    assert shown[0] == shown[1] != shown[2]
    vae = pv.load(folder).eval()
    for x, seed in ((shown[0], 3), (shown[2], 4)):
        found = asked(client, "/evaluate", row=1, seed=seed, num_samples=30)
        wanted = pv.evaluate(
            vae.model, vae.guide, torch.tensor([x]), num_samples=30, seed=seed, progress=False
        )
        assert found["log_evidence"] == wanted.log_evidence.item()


def test_latents_without_straight_lines_are_drawn_only(tmp_path):
    folder = stored(tmp_path, latent_dim=4, prior="UniformSphere", guide="PowerSpherical")
    client = TestClient(explorer.app(folder), base_url=HERE)
    about = client.get("/about").json()
    assert (about["kind"], about["is_real"]) == ("directions", False)
    assert math.isclose(sum(z * z for z in asked(client, "/draw", seed=1)["z"]), 1, rel_tol=1e-5)
    refused(client.post("/decode", json={"z": [1, 0, 0, 0]}), 422, "latents are directions: draw them")


def test_moments_are_by_draws_where_there_is_no_closed_form():
    base = torch.distributions.Normal(torch.zeros(2), 1.0)
    moved = torch.distributions.transforms.AffineTransform(torch.tensor([1.0, -2.0]), 0.5)
    q = torch.distributions.TransformedDistribution(torch.distributions.Independent(base, 1), [moved])
    found = moments(q)
    assert found.drawn
    # 1,000 draws: standard errors 0.5 / sqrt(1000) = 0.016 and 0.011, taken fourfold
    torch.testing.assert_close(found.mean, torch.tensor([1.0, -2.0]), atol=0.064, rtol=0)
    torch.testing.assert_close(found.scale, torch.tensor([0.5, 0.5]), atol=0.045, rtol=0)


MADE = {
    "dynamic": ({"binarisation": "dynamic", "values": "{0, 1}"}, "bits drawn with the grey values as prob"),
    "threshold": ({"binarisation": "threshold", "values": "{0, 1}"}, "bits: 1 above 1/2"),
    "grey": ({"binarisation": "none", "values": "[0, 1]", "levels": 256}, "256 grey levels"),
    "noise": (
        {"binarisation": "none", "dequantisation": "uniform", "values": "(0, 1)", "levels": 256},
        "256 grey levels with uniform noise, seed 0",
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_drawing_is_made_a_datum_as_the_data_were(kind):
    conventions, said = MADE[kind]
    grey = torch.linspace(0, 1, 784)
    split, done = as_datum(Datum(pixels=grey.tolist()), (28, 28), conventions)
    x = split[0]
    assert done[0].startswith(said)
    assert split.conventions["binarisation"] == conventions["binarisation"]
    if kind == "threshold":
        assert torch.equal(x, (grey > 0.5).float())
    elif kind == "dynamic":
        assert set(x.tolist()) == {0, 1}
        assert not x[0]
        assert x[-1]
        # 784 bits of probabilities 0 to 1: their mean has error sqrt(1 / 6 / 784) = 0.015, taken fourfold
        assert abs(x.mean() - 0.5) < 0.06
    else:
        assert ((x - grey).abs() <= 1.5 / 255).all()  # half a level, and where in the level
        assert ((x > 0) & (x < 1)).all() == (kind == "noise")


def test_a_drawing_is_evaluated_as_what_the_model_sees(client, vae):
    pixels = [float(5 < i % 28 < 9) for i in range(784)]
    seen = asked(client, "/encode", pixels=pixels, fit=True, seed=2)
    answer = asked(client, "/evaluate", pixels=pixels, fit=True, seed=2, num_samples=30)
    x = torch.tensor([seen["x"]])
    found = pv.evaluate(vae.model, vae.guide, x, num_samples=30, seed=2, progress=False)
    assert answer["log_evidence"] == found.log_evidence.item()
    columns = x.reshape(28, 28).sum(0).nonzero()[:, 0]
    assert 13 <= columns.float().mean() <= 14.5  # in the middle, 13.5, give or take its drawn edges


REFUSED = {
    "too few": ("/decode", {"z": [0.0, 1.0]}, 422, "z has 2 numbers, expected 3"),
    "none": ("/decode", {"z": []}, 422, "z: List should have at least 1 item"),
    "huge": ("/decode", {"z": [1e30, 0, 0]}, 422, "z.0: Input should be less than or equal to 10000"),
    "words": ("/decode", {"z": ["one", 0, 0]}, 422, "z.0: Input should be a valid number"),
    "other keys": ("/decode", {"z": [0, 0, 0], "y": 1}, 422, "y: Extra inputs are not permitted"),
    "no row": ("/encode", {"row": 1000}, 422, "row 1,000: the test split has rows 0 to 999"),
    "below": ("/encode", {"row": -1}, 422, "row: Input should be greater than or equal to 0"),
    "neither": ("/encode", {}, 422, "pass a row of the test split, or pixels"),
    "both": ("/encode", {"row": 1, "pixels": [0.5]}, 422, "and not both"),
    "few pixels": ("/encode", {"pixels": [0.5] * 9}, 422, "9 pixels, expected 784: 28 rows of 28"),
    "black": ("/encode", {"pixels": [0.0] * 784}, 422, "black all over: draw something"),
    "bright": ("/encode", {"pixels": [7.0] * 784}, 422, "pixels.0: .* equal to 1, got 7.0; .*; and 782 more"),
    "no draws": ("/evaluate", {"row": 0, "num_samples": 0}, 422, "num_samples: .* equal to 1"),
    "many draws": ("/evaluate", {"row": 0, "num_samples": 10**9}, 422, "num_samples: .* equal to 10000"),
    "strange": (
        "/evaluate",
        {"row": 0, "proposal": "best"},
        422,
        "proposal: Input should be 'guide', 'auto'",
    ),
    "seed": ("/draw", {"seed": -1}, 422, "seed: Input should be greater"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_answered_is_said_in_one_line(kind, client):
    path, question, code, said = REFUSED[kind]
    refused(client.post(path, json=question), code, said)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_have_to_be_finite(number, client):
    json_with = {"content": f'{{"z": [{number}, 0, 0]}}', "headers": {"content-type": "application/json"}}
    refused(client.post("/decode", **json_with), 422, "z.0: Input should be a finite number")


def test_pages_of_other_sites_get_no_answer(client):
    question = {"z": [0, 0, 0]}
    for host in ("example.com", "127.0.0.1.example.com", "10.0.0.1"):  # DNS rebinding
        response = client.post("/decode", json=question, headers={"host": host})
        assert (response.status_code, response.text) == (400, "Invalid host header")
        assert client.get("/", headers={"host": host}).status_code == 400
    strange = {"origin": "http://example.com"}
    refused(
        client.post("/decode", json=question, headers=strange), 403, "a page of http://example.com may not"
    )
    assert client.post("/decode", json=question, headers={"origin": HERE}).status_code == 200
    assert client.post("/decode", json=question, headers={"host": "localhost:80"}).status_code == 200
    text = json.dumps(question)
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        None,
    ):  # as forms do
        headers = {} if kind is None else {"content-type": kind}
        refused(client.post("/decode", content=text, headers=headers), 415, "send JSON")
    assert "access-control-allow-origin" not in client.get("/about", headers={"origin": HERE}).headers


def test_questions_are_of_limited_size(client):
    headers = {"content-type": "application/json"}
    refused(client.post("/decode", content=b" " * (1 << 20), headers=headers), 413, "at most 524,288 bytes")
    for length in ("9" * 5000, "0" * 20 + "1000000"):
        claimed = client.post("/decode", content=b"{}", headers={**headers, "content-length": length})
        refused(claimed, 413, "at most 524,288 bytes")
    chunks = client.post("/decode", content=iter([b"{}"]), headers=headers)
    refused(chunks, 411, "send a Content-Length")
    refused(client.post("/decode", content="{", headers=headers), 422, "Invalid JSON")


def test_other_addresses_are_not_found(client):
    for path in ("/none", "/server.py", "/..%2fserver.py", "/docs", "/openapi.json"):
        response = client.get(path)
        assert response.status_code == 404
        assert "\n" not in response.json()["error"]
    refused(client.get("/none"), 404, "/none: there is no such page, open /")
    refused(client.get("/decode"), 404, "no such page")
    refused(client.put("/decode", json={}), 405, "PUT /decode: Method Not Allowed")


def test_the_page_asks_nothing_of_other_machines(client):
    """Neither does it have code or styles within, which its own policy would refuse."""
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("/", *re.findall(r'(?:src|href)="(/[^"]+)"', page.text), "/datum.js", "/plane.js"):
        response = client.get(name)
        assert response.status_code == 200
        assert not re.search(r"https?://|//[a-z]+\.", response.text)
    assert not re.search(r"<style|style=|onclick|<script[^>]*>[^<]", page.text)
