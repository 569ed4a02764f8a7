"""report: runs as one HTML page, with nothing beside it."""

from __future__ import annotations

import io
import json
import math
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from pyrovae.core.checks import check_count, choose, one_line
from pyrovae.core.random import stream
from pyrovae.core.tables import counted, shown
from pyrovae.core.wrap import as_pyro, support_of
from pyrovae.data.split import classes_of
from pyrovae.evaluation import diagnostics
from pyrovae.evaluation.compare import compare
from pyrovae.evaluation.diagnostics.active_units import ACTIVE
from pyrovae.evaluation.results import Evaluation
from pyrovae.reports import plots
from pyrovae.reports.figures import has_plane
from pyrovae.runs.build import load_data
from pyrovae.runs.folder import results_file
from pyrovae.runs.recipe import Recipe, Run, changes, check_data, read_run
from pyrovae.runs.saving import load
from pyrovae.storage.files import check_writable, write_file
from pyrovae.training.history import History

__all__ = ["report"]

ROWS = 1000  # rows of the split that diagnostics see at most
SHOWN, PLANE = 12, 14  # images in a row, and along a side of the latent plane: a page has room for these
DOTS, COLOURS = 110, 256  # pixels per inch, and colours: one byte each takes a third of the room
ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError)  # of a missing or damaged part


@dataclass(frozen=True)
class Subject:
    """One run of a report; ``subject["vae"]`` is a part, or raises the error for which it is missing."""

    name: str
    folder: Path
    run: Run
    split: str
    num_samples: int
    seed: int
    parts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if isinstance(part := self.parts[name], Exception):
            raise part
        return part

    @property
    def some(self) -> tuple[Any, Any, Any]:
        """Model, guide, and the rows that diagnostics see."""
        return self["vae"].model, self["vae"].guide, self["data"][:ROWS]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        if len(self.run.shape) != 2:
            raise ValueError(f"the data are no grey images, but rows of shape {self.run.shape}")
        return self.run.shape[0], self.run.shape[1]


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    num_samples: int = 100,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write runs as one self-contained HTML page, which needs no network.

    The page has, for each run: recipe, data, versions and hashes; training curves; log p(x) with its errors
    and k-hat; KL by dimension; images; latent space. Several runs are also compared. The page states what a
    run lacks, and why. Nothing is trained or evaluated, and the same runs give the same file.

    Args:
        runs: Folder of a run, or several folders.
        path: File to write; ``report.html`` in the run's folder, or here for several runs, if not given.
        split: Data that the report is of: train, validation or test.
        num_samples: Draws per datum for the KL by dimension, which takes the first 1,000 rows.
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.
        seed: Seed of all draws.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: No run, a run given twice, an unknown split, or a recipe that cannot be read.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from pyrovae.runs.folder import describe
        >>> recipe = Recipe(dataset="linear-gaussian", likelihood="Normal")
        >>> run = describe(recipe, load_data(recipe), features=8)
        >>> with tempfile.TemporaryDirectory() as folder:  # a run that was not trained yet
        ...     _ = Path(folder, "recipe.json").write_text(run.model_dump_json())
        ...     page = report(folder).read_text()
        >>> "No training curves: there is no history.json" in page
        True
    """
    choose("split", split, ("train", "validation", "test"))
    check_count("report: num_samples", num_samples)
    folders = [Path(run) for run in ([runs] if isinstance(runs, (str, os.PathLike)) else runs)]
    subjects = [
        Subject(name, folder, read_run(folder), split, num_samples, seed)
        for name, folder in zip(_names(folders), folders, strict=True)
    ]
    path = Path(path or (folders[0] if len(folders) == 1 else "."))
    path = path / "report.html" if path.is_dir() else path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} in: make it")
    check_writable(path.parent)
    for run in subjects:
        _read(run, root)
        for name in PARTS:
            run.parts[name] = _make(run, name)
    write_file(path, _render(subjects))
    return path


def _names(folders: list[Path]) -> list[str]:
    """The name of each folder; its path where two have the same name."""
    if not folders:
        raise ValueError("report: no run given, at least 1 is needed")
    places = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ValueError(f"report: {twice[0]} is given twice: name each run once")
    names = [place.name for place in places]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _read(run: Subject, root: str | os.PathLike[str] | None) -> None:
    """Read the parts that the folder holds, and the data."""

    def data() -> Any:
        dataset = load_data(run.run.recipe, root)
        check_data(run.run, dataset.fingerprint)
        return getattr(dataset, run.split)

    run.parts["vae"] = _attempt(lambda: load(run.folder).eval())  # without dropout
    run.parts["data"] = _attempt(data)
    run.parts["labels"] = classes_of(run.parts["data"])  # None where there are no classes, or no data
    run.parts["history"] = _attempt(lambda: _history(run.folder / "history.json"))
    run.parts["result"] = _attempt(lambda: _result(run))


def _attempt(make: Callable[[], Any]) -> Any:
    """What ``make`` returns, or the error that it raises."""
    try:
        return make()
    except ERRORS as error:
        return error


def _history(path: Path) -> History:
    if not path.is_file():
        raise ValueError(f"there is no {path.name}, which a run has once its training ends")
    try:
        history = History(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read ({one_line(error)})") from error
    if not len(history):
        raise ValueError("no epoch of its training was finished")
    return history


def _result(run: Subject) -> Evaluation:
    path, weights = run.folder / results_file(run.split), run.run.weights
    command = f"pyrovae evaluate {quote(str(run.folder))}"
    command += "" if run.split == "test" else f" --split {run.split}"
    if not path.is_file():
        raise ValueError(f"the run was not evaluated on its {run.split} data: {command}")
    result = Evaluation.load(path)
    evaluated = result.conventions.get("weights", weights)
    if None not in (evaluated, weights) and evaluated != weights:
        what = f"the results are of other weights ({evaluated}) than the run has ({weights})"
        raise ValueError(f"{what}: evaluate again: {command}")
    return result


def _interpolation(run: Subject) -> Figure:
    vae, x = run["vae"], run["data"][:8]
    support = support_of(as_pyro(vae.prior()))
    if support is not None and support.is_discrete:
        raise ValueError("the latents are discrete, and there is no line between two codes")
    pairs = len(x) // 2
    return plots.interpolation(vae, x[:pairs], x[pairs : 2 * pairs], run.shape)


PARTS: dict[str, Callable[[Subject], Any]] = {
    "kl": lambda run: diagnostics.kl_by_dimension(*run.some, num_samples=run.num_samples, seed=run.seed),
    "units": lambda run: diagnostics.active_units_curve(run["vae"].guide, run["data"][:ROWS]),
    "codes": lambda run: diagnostics.codes(*run.some, seed=run.seed),
    "information": lambda run: diagnostics.information(*run.some, seed=run.seed),
    "curves_figure": lambda run: plots.learning_curves(run["history"]),
    "evidence_figure": lambda run: plots.evidence(run["result"], run["labels"]),
    "reliability_figure": lambda run: plots.reliability(run["result"]),
    "kl_figure": lambda run: plots.kl(run["kl"]),
    "units_figure": lambda run: plots.active_units(run["units"]),
    "samples_figure": lambda run: plots.samples(run["vae"], run.shape),
    "reconstructions_figure": lambda run: plots.reconstructions(run["vae"], run["data"][:SHOWN], run.shape),
    "worst_figure": lambda run: plots.worst(run["result"], run["data"], run.shape, SHOWN),
    "interpolation_figure": _interpolation,
    "plane_figure": lambda run: plots.latent_plane(run["vae"], run.shape, PLANE),
    "codes_figure": lambda run: plots.codes(
        run["codes"], run["labels"][:ROWS] if run["labels"] is not None else None
    ),
    "aggregate_figure": lambda run: plots.aggregate_posterior(run["codes"]),
}
"""What is computed and drawn of each run, by its name in page.html."""


def _make(run: Subject, name: str) -> Any:
    """A part of the page, from a random stream of its own, or the error that it raises."""
    with ExitStack() as streams:
        streams.enter_context(stream(f"report, {name}", run.seed))
        if not isinstance(data := run.parts["data"], Exception):
            streams.enter_context(data.drawing(f"report, {name}", run.seed))
        made = _attempt(lambda: PARTS[name](run))
        return _picture(made) if isinstance(made, Figure) else made


def _picture(figure: Figure) -> dict[str, Any]:
    """A figure as a data URL, with its size in pixels."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=DOTS, bbox_inches="tight", facecolor="white")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # keeps rare colours
        few.save(file, "PNG", optimize=True)
        width, height = image.size
    source = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return {"source": source, "width": width, "height": height}


def _facts(subject: Subject) -> dict[str, Any]:
    """What a run was trained on and with, and its size."""
    run = subject.run
    facts = {name.replace("_", " "): value for name, value in run.conventions.items()}
    facts["shape"] = " by ".join(map(str, run.shape))
    facts["fingerprint of the data"] = run.fingerprint or "not recorded"
    facts["hash of the weights"] = run.weights or "not recorded"
    if not isinstance(history := subject.parts["history"], Exception):
        facts["epochs finished"] = f"{len(history):,} of {run.recipe.num_epochs:,}"
    if not isinstance(vae := subject.parts["vae"], Exception):
        parts = {"": vae, " of the prior": vae.prior, " of the likelihood": vae.likelihood}
        for name, part in (parts | {" of the guide": vae.guide}).items():
            facts[f"parameters{name}"] = f"{sum(each.numel() for each in part.parameters()):,}"
    return facts | {f"version of {name}": number for name, number in run.versions.items()}


def _compare(subjects: list[Subject]) -> dict[str, Any]:
    """What sets the recipes apart, and paired differences of log p(x) between runs evaluated alike."""
    first, *others = subjects
    results: dict[str, Evaluation] = {}
    excluded: dict[str, Exception] = {}
    for subject in subjects:
        try:
            results[subject.name] = subject["result"]
            if len(results) > 1:
                compare(results)
        except ERRORS as error:  # not evaluated, or of other data
            results.pop(subject.name, None)
            excluded[subject.name] = error
    found = compare(results) if len(results) > 1 else None
    return {
        "changes": {other.name: changes(first.run.recipe, other.run.recipe) for other in others},
        "excluded": excluded,
        "found": found,
        "picture": _picture(plots.comparison(found)) if found else None,
    }


def _render(subjects: list[Subject]) -> str:
    environment = Environment(
        loader=PackageLoader("pyrovae", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["error"] = lambda part: isinstance(part, Exception)
    environment.filters |= {
        "number": lambda value, spec: "unknown" if math.isnan(value) else format(value, spec),
        "reason": lambda error: one_line(error).rstrip("."),
        "counted": counted,
        "shown": shown,
        "quote": quote,
    }
    return environment.get_template("page.html").render(
        runs=subjects,
        facts=[_facts(subject) for subject in subjects],
        fields=Recipe.model_fields,
        comparison=_compare(subjects) if len(subjects) > 1 else None,
        threshold=ACTIVE,
        has_plane=has_plane,
        version=version("pyrovae"),
    )
