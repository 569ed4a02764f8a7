"""The report: what stands on the page is what the runs are, and a browser shows all of it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import chromium, console_errors, needs_browser, resize
from matplotlib.figure import Figure
from PIL import Image

import pyrovae as pv
from pyrovae import cli
from pyrovae.core.random import stream
from pyrovae.data.shards import write_shards
from pyrovae.reports.plots.style import BLUE, ORANGE
from pyrovae.runs.build import build, load_data
from pyrovae.runs.folder import describe, prepare
from pyrovae.runs.recipe import Recipe
from pyrovae.training.history import History

document = sys.modules["pyrovae.reports.report"]  # the folder's own attribute of that name is the function

STRANGE = '<script>alert("&1")'
VOID = {"meta", "link", "img", "br"}
LINEAR = Recipe(dataset="linear-gaussian", likelihood="Normal", latent_dim=3, hidden=(8,), num_epochs=3)
CITED = {"1312.6114", "1509.00519", "1507.02646", "1905.06922"}
COLUMNS = ("elbo", "reconstruction", "kl", "validation_elbo", "validation_reconstruction", "validation_kl")


@pytest.fixture(autouse=True)
def as_the_command_line(fixed_start):
    torch.set_default_dtype(torch.float32)


def a_run(
    folder: Path,
    recipe: Recipe,
    num_samples: int | None = 30,
    *,
    history: bool = True,
    root: Path | None = None,
) -> Path:
    """What train and evaluate leave, of weights that were never trained."""
    dataset = load_data(recipe, root)
    run = describe(recipe, dataset, dataset.train.values.shape[1])
    with stream("weights", recipe.seed):
        vae = build(recipe, run.features, run.shape, dataset.train)
    pv.save(vae, folder, run)
    if history:
        came = History(epoch=[0, 1, 2], seconds=[1.0, 2.0, 3.0], loss=[3.0] * 3, learning_rate=[0.1] * 3)
        for place, name in enumerate(COLUMNS):
            getattr(came, name).extend([-30.25 - place, -20.25 - place, -25.25 - place])
        (folder / "history.json").write_text(json.dumps(asdict(came)))
    if num_samples is not None:
        result = pv.evaluate(vae.model, vae.guide, dataset.test, num_samples=num_samples, progress=False)
        result.save(folder / "evaluation.nc")
    return folder


def only(monkeypatch, names: str) -> None:
    """Of the parts that are computed and drawn, these alone: the others take their time."""

    def left_out(run):
        raise ValueError("this test leaves it out")

    for name in document.PARTS.keys() - names.split():
        monkeypatch.setitem(document.PARTS, name, left_out)


class Page(HTMLParser):
    """A page taken apart; tags that do not nest are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.text, self.open = path, [], "", []
        self.tables, self.captions, self.lists, self.by_section = [], [], [], {"": ""}
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "li":
            self.lists.append("")
        if tag == "figcaption" and self.open[-2][1]["class"] == "data":
            self.captions.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if "style" in inside:
            return
        self.text += data
        section = next((each["id"] for tag, each in reversed(self.open) if tag == "section"), "")
        self.by_section[section] = self.by_section.get(section, "") + data
        if "td" in inside or "th" in inside:
            self.tables[-1][-1][-1] += data
        if "li" in inside:
            self.lists[-1] += data
        if "figcaption" in inside and self.open[-2][1].get("class") == "data":
            self.captions[-1] += data

    def rows(self, caption: str) -> dict[str, list[str]]:
        """The cells of the one table with such a caption, by the first cell of the row."""
        (place,) = [place for place, each in enumerate(self.captions) if caption in each]
        return {row[0]: row[1:] for row in self.tables[place]}

    def all(self, tag):
        return [attributes for each, attributes in self.tags if each == tag]


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> Path:
    """A run of digits with two latents, in a folder of a strange name."""
    recipe = Recipe(latent_dim=2, hidden=(8,), num_epochs=3)
    return a_run(tmp_path_factory.mktemp("runs") / STRANGE, recipe)


@pytest.fixture(scope="module")
def page(strange) -> Page:
    return Page(pv.report(strange, num_samples=4))


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "linear", LINEAR, num_samples=20)


@pytest.fixture(scope="module")
def several(tmp_path_factory, linear) -> Page:
    """Two runs of one data set, and one with nothing but a recipe."""
    folder = linear.parent
    other = a_run(folder / "other", LINEAR.model_copy(update={"seed": 1}), num_samples=20, history=False)
    bare = a_run(folder / "bare", LINEAR, num_samples=None, history=False)
    (bare / "weights.safetensors").unlink()
    return Page(pv.report([linear, other, bare], folder / "several.html", num_samples=4))


def test_pictures_are_inside_the_page_and_say_what_they_show(page):
    pictures = page.all("img")
    assert len(pictures) == 12
    for each in pictures:
        kind, content = each["src"].split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(b64decode(content))) as image:
            image.load()
            assert image.size == (int(each["width"]), int(each["height"]))
            low, high = image.convert("L").getextrema()
            assert high - low > 100  # something is drawn
        assert len(each["alt"]) > 20
    assert len({each["alt"] for each in pictures}) == len({each["src"] for each in pictures}) == 12
    assert page.path.stat().st_size < 1.5e6


def test_rare_colours_survive_in_a_picture():
    """One orange mark among a thousand blue ones: a colour off by 10 of 255 is seen by nobody."""
    x = torch.linspace(0, 1, 1000)
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.scatter(x, x, c=BLUE, alpha=0.6)
    axes.plot([0.5], [0.2], "^", color=ORANGE)
    source = document._picture(figure)["source"]
    with Image.open(io.BytesIO(b64decode(source.split(",")[1]))) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).reshape(-1, 3).int()
    orange = torch.tensor([int(ORANGE[i : i + 2], 16) for i in (1, 3, 5)])
    assert (pixels - orange).abs().amax(-1).min() <= 10


def test_nothing_beside_the_page_is_asked_for(page, several):
    for each in (page, several):
        cited = {f"https://arxiv.org/abs/{number}" for number in CITED}
        links = {value["href"] for value in each.all("a") if not value["href"].startswith("#")}
        assert links == cited
        assert {value["href"] for value in each.all("link")} == {"data:,"}
        assert all(value["src"].startswith("data:") for _, value in each.tags if "src" in value)
        assert not {tag for tag, _ in each.tags} & {"script", "iframe", "object", "video"}
        assert not re.search(r"url\(|@import", each.path.read_text())


def test_contents_lead_to_sections_that_are_there(page, several):
    for each in (page, several):
        names = [attributes["id"] for _, attributes in each.tags if "id" in attributes]
        assert len(set(names)) == len(names)
        linked = [value["href"][1:] for value in each.all("a") if value["href"].startswith("#")]
        assert linked == names
        assert len(linked) == (12 if each is several else 11)


def test_a_name_is_text_and_nothing_else(page):
    assert STRANGE in page.by_section[""]
    assert page.all("script") == []
    assert "<script" not in page.path.read_text()


def test_numbers_are_those_that_evaluate_prints(page, strange):
    result = pv.Evaluation.load(strange / "evaluation.nc")
    printed = str(result).splitlines()
    (table,) = [table for table in page.tables if table[1][0] == "log p(x)"]
    assert len(table) == 6
    for row, line in zip(table[1:], printed[2:7], strict=True):
        assert line.split() == " ".join(row).split()
    assert printed[0] in page.by_section["evidence"]
    assert [" ".join(line.split()) for line in printed[7:]] == [
        item for item in page.lists if item in {" ".join(line.split()) for line in printed}
    ]
    row = page.rows("Mean log p(x) in nats")[STRANGE]
    assert row == ["mnist-mini test, 1,000 rows", *table[1][1:], f"{int((result.khat > 1).sum()):,}"]


def test_the_training_is_told_in_the_run_s_own_numbers(page, strange):
    facts = page.rows("Training data, parameters and versions")
    run = pv.recipes.read_run(strange)
    vae = pv.load(strange)
    assert facts["fingerprint of the data"] == [run.fingerprint]
    assert facts["hash of the weights"] == [run.weights]
    for name, part in (("", vae), (" of the likelihood", vae.likelihood), (" of the guide", vae.guide)):
        assert facts[f"parameters{name}"] == [f"{sum(each.numel() for each in part.parameters()):,}"]
    assert (facts["rows"], facts["shape"], facts["epochs finished"]) == (["5000"], ["28 by 28"], ["3 of 3"])
    for package, version in run.versions.items():
        assert facts[f"version of {package}"] == [version]
    curves = page.rows("ELBO, reconstruction E_q[log p(x|z)] and KL")
    assert curves["training, first epoch"] == ["1", "-30.25", "-31.25", "-32.25"]
    assert curves["training, last epoch"] == ["3", "-25.25", "-26.25", "-27.25"]
    assert curves["validation, best epoch"] == ["2", "-23.25", "-24.25", "-25.25"]
    assert curves["validation, last epoch"] == ["3", "-28.25", "-29.25", "-30.25"]
    assert "over 3 epochs, which took 3 s" in page.by_section["curves"]


def test_parts_of_the_kl_are_those_of_diagnostics(page, strange):
    vae, data = pv.load(strange), pv.datasets.load("mnist-mini").test[:1000]
    pair = vae.model, vae.guide
    found = pv.diagnostics.kl_by_dimension(*pair, data, num_samples=4, seed=0)
    means = sorted(found.means.tolist(), reverse=True)
    ninety = next(count for count in (1, 2) if sum(means[:count]) >= 0.9 * sum(means))
    said = page.by_section["kl"]
    assert f"Total: {found.total.mean():.2f} nats. Largest: " in said
    assert f"{means[0]:.2f} nats. {ninety} of 2 dimensions hold 90% of it." in said
    found = pv.diagnostics.information(*pair, data, seed=0)
    rows = page.rows(f"each ± {found.error:.2f}")
    low, high = (max(each, 0.0) for each in found.marginal_kl)
    assert rows["KL(q(z|x) || p(z))"] == [f"{found.rate:.2f}"] * 2
    assert rows["mutual information I(x; z)"] == [
        f"{found.lower:.2f}",
        f"{min(found.upper, found.rate):.2f}",
    ]
    assert rows["KL(q(z) || p(z))"] == [f"{low:.2f}", f"{high:.2f}"]


def test_the_least_reliable_rows_are_those_of_the_result(page, strange):
    result = pv.Evaluation.load(strange / "evaluation.nc")
    rows = page.rows("The five least reliable data")
    assert list(rows)[1:] == [f"row {i}" for i in result.worst(5).tolist()]
    for i in result.worst(5).tolist():
        error, khat = result.standard_error[i], result.khat[i]
        assert rows[f"row {i}"] == [f"{result.log_evidence[i]:.2f}", f"{error:.2g}", f"{khat:.2f}"]


def test_rows_beyond_their_draws_are_counted(strange, tmp_path, monkeypatch):
    only(monkeypatch, "")
    run = tmp_path / "run"
    shutil.copytree(strange, run)
    result = pv.Evaluation.load(run / "evaluation.nc")
    khat = torch.full_like(result.khat, 0.5)
    khat[:3] = torch.tensor([1.01, 1.0, torch.inf])
    replace(result, khat=khat).save(run / "evaluation.nc")
    assert Page(pv.report(run)).rows("k-hat above 1, where it is only a lower bound")["run"][-1] == "2"


def test_several_runs_are_compared_as_compare_does(several, linear):
    results = {
        name: pv.Evaluation.load(linear.parent / name / "evaluation.nc") for name in ("linear", "other")
    }
    found = pv.compare(results)
    (table,) = [table for table in several.tables if "verdict" in table[0]]
    for row, (name, each) in zip(table[1:], found.differences.items(), strict=True):
        assert row[:2] == [name, f"{each.mean:.3f}"]
        assert row[-1] == each.verdict
        line = next(line for line in str(found).splitlines() if line.startswith(f"{name} "))
        assert line.split() == " ".join(row).split()
    told = several.by_section["comparison"]
    assert "bare is not compared: the run was not evaluated on its test data: pyrovae evaluate" in told
    assert "other: seed 1 in place of 0" in several.lists


def test_what_a_run_lacks_is_said_where_it_would_be(several, linear):
    assert "No training curves: there is no history.json" in several.by_section["curves"]
    assert several.rows("Mean log p(x) in nats")["bare"][1:] == ["not evaluated", "", "", ""]
    assert f"pyrovae evaluate {linear.parent / 'bare'}" in several.by_section["evidence"]
    assert several.by_section["samples"].count("No samples: the data are no grey images") == 2
    assert "weights.safetensors: no weights there" in several.by_section["samples"]
    assert several.by_section["evidence"].count("k-hat needs 25 draws, there were 20") == 2
    assert "No active units: " in several.by_section["kl"]
    assert "The data have no classes" in several.by_section["latents"]
    for each in several.by_section.values():
        assert "Traceback" not in each
        assert "nan" not in each.split()


@pytest.fixture
def of_shards(tmp_path, monkeypatch):
    """The page of data on the disk, with labels for some rows of each split; some of its sections."""

    def made(rows: int, draws: int, labels: Callable[[int], torch.Tensor], parts: str) -> Page:
        torch.manual_seed(0)
        only(monkeypatch, parts)
        for name, count in (("train", 9), ("validation", 1), ("test", rows)):
            pixels = torch.randint(2, (count, 9), dtype=torch.uint8)
            write_shards(pixels, tmp_path / name, labels=labels(count), shape=(3, 3))
        recipe = Recipe(dataset="shards", hidden=(4,), latent_dim=3)
        folder = a_run(tmp_path / "run", recipe, draws, root=tmp_path)
        return Page(pv.report(folder, num_samples=4, root=tmp_path))

    return made


def test_one_datum_has_a_page_too(of_shards):
    parts = (
        "evidence_figure reliability_figure kl kl_figure units units_figure worst_figure codes codes_figure"
    )
    page = of_shards(1, 1, lambda count: torch.arange(count) % 3, parts)
    assert "nan" not in re.findall(r"\w+", page.text)
    name, _, *unknown = page.rows("Mean log p(x) in nats")["run"]
    assert (name, unknown) == ("shards test, 1 row", ["", "", "unknown"])
    assert page.rows("K = 1 draws")["log p(x)"][1:] == ["", ""]
    assert page.rows("K = 1 draws")["KL(q(z|x) || p(z))"][1:] == ["", ""]
    assert "No active units: one datum" in page.by_section["kl"]
    assert page.rows("The five least reliable data")["row 0"][1:] == ["unknown", "unknown"]
    assert "standard deviation" not in page.by_section["evidence"]


def test_labels_that_are_no_classes_are_none(of_shards):
    page = of_shards(9, 30, lambda count: torch.rand(count, 2), "evidence_figure codes codes_figure")
    assert "The data have no classes" in page.by_section["latents"]
    assert "Boxes" not in page.by_section["evidence"]


def test_a_line_between_discrete_codes_is_refused_in_a_sentence(tmp_path, monkeypatch):
    only(monkeypatch, "interpolation_figure")
    recipe = Recipe(latent_dim=3, hidden=(8,), prior="Bernoulli", guide="Bernoulli")
    page = Page(pv.report(a_run(tmp_path / "bits", recipe, num_samples=None)))
    said = "No interpolations: the latents are discrete, and there is no line between two codes."
    assert said in page.by_section["interpolations"]


def test_the_same_run_gives_the_same_page_and_its_results_stay(linear, tmp_path, monkeypatch):
    only(monkeypatch, "evidence_figure codes aggregate_figure information")
    before = {path.name: path.read_bytes() for path in linear.iterdir() if path.is_file()}
    torch.manual_seed(1)
    first = pv.report(linear, tmp_path / "a.html", num_samples=4).read_bytes()
    torch.manual_seed(2)
    assert pv.report(linear, tmp_path, num_samples=4).read_bytes() == first
    assert {path.name: path.read_bytes() for path in linear.iterdir() if path.is_file()} == before


def test_damaged_and_missing_files_are_sentences(linear, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(linear, run)
    content = bytearray((run / "evaluation.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "evaluation.nc").write_bytes(content)
    (run / "history.json").write_text("{")
    (run / "weights.safetensors").unlink()
    page = Page(pv.report(run))
    assert page.path == run / "report.html"
    assert page.all("img") == []
    assert "its SHA-256 has changed since it was written" in page.by_section["evidence"]
    assert "No training curves: history.json cannot be read" in page.by_section["curves"]
    assert "No parameters of run:" in page.by_section["trained"]
    assert "no weights there" in page.by_section["latents"]


def test_results_of_other_weights_are_not_shown(linear, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(linear, run)
    said = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(said | {"weights": "0" * 16}))
    (run / "weights.safetensors").unlink()
    (run / "history.json").unlink()
    page = Page(pv.report(run))
    assert (
        f"than the run has ({'0' * 16}): evaluate again: pyrovae evaluate {run}"
        in page.by_section["evidence"]
    )


def test_command_says_where_the_page_is_and_what_is_missing(linear, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(linear, run)
    for name in ("weights.safetensors", "history.json", "evaluation.nc"):
        (run / name).unlink()
    assert cli.main(["report", str(run)]) == 0
    said = capsys.readouterr()
    assert said.out == f"report: {run / 'report.html'}\n"
    assert said.err == f"pyrovae: {run} has no log p(x) yet: pyrovae evaluate {run}\n"
    second = tmp_path / "second"
    shutil.copytree(run, second)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "run", "second", "--split", "validation"]) == 0
    said = capsys.readouterr()
    assert said.out == "report: report.html\n"
    assert "pyrovae evaluate second --split validation" in said.err
    assert "Report of run, second" in Page(tmp_path / "report.html").text
    prepare(run, overwrite=True)
    assert not (run / "report.html").exists()  # of a run that is no more


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "none: no recipe.json, so no run"),
        (["run", "./run"], "run is given twice: name each run once"),
        (["run", "--split", "tets"], "unknown split 'tets': did you mean 'test'?"),
        (["run", "--num-samples", "0"], "--num-samples is 0: at least 1 is needed"),
        (["run", "--out", "no/such.html"], "no: there is no such folder to write such.html in: make it"),
        ([], "at least 1 is needed"),
    ],
)
def test_bad_arguments_are_one_line(linear, tmp_path, capsys, monkeypatch, arguments, said):
    shutil.copytree(linear, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@needs_browser
def test_a_browser_shows_all_of_it(page, several):
    with chromium(375, 800) as browser:
        for each in (page, several):
            for width in (375, 800, 1280):
                resize(browser, width)
                browser.get(each.path.as_uri().replace("%2C", ","))
                inner, content = browser.execute_script(
                    "return [innerWidth, document.scrollingElement.scrollWidth]"
                )
                assert inner == width
                assert content <= width
            widths = browser.execute_script("return [...document.images].map(each => each.naturalWidth)")
            assert widths == [int(picture["width"]) for picture in each.all("img")]
            assert browser.title == f"{browser.title.split(':')[0]}: a pyrovae report"
            pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
            assert b64decode(pdf["data"]).startswith(b"%PDF-")
        assert console_errors(browser) == []


@needs_browser
def test_text_stands_out_from_the_page(page):
    """A contrast of 7 or more, as WCAG 2.1 asks of text at its highest level; 4.5 for captions and links."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    with chromium() as browser:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(page.path.as_uri())
            paper = _luminance(browser.execute_script(script, "body", "background-color"))
            assert (paper > 0.5) == (scheme == "light")
            for what, least in (("p", 7), ("h2", 7), ("figcaption", 4.5), ("nav a", 4.5), ("td", 7)):
                ink = _luminance(browser.execute_script(script, what, "color"))
                assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= least


def _luminance(colour: str) -> float:
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
