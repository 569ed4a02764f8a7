"""report: runs as one page, with nothing beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pyrovae.core.checks import check_count, choose
from pyrovae.reports import numbers, pictures, training
from pyrovae.reports.between import compared
from pyrovae.reports.blocks import Block
from pyrovae.reports.subjects import Subject, read
from pyrovae.storage.files import check_writable, write_file

__all__ = ["report"]

SECTIONS: dict[str, tuple[str, Callable[[Subject], list[Block]]]] = {
    "trained": ("What was trained, and on what", training.trained),
    "curves": ("Learning curves", training.curves),
    "evidence": ("log p(x)", numbers.evidence),
    "nats": ("Where the nats go", numbers.nats),
    "samples": ("Samples", pictures.samples),
    "reconstructions": ("Reconstructions", pictures.reconstructions),
    "worst": ("Worst data", pictures.worst),
    "interpolations": ("Interpolations", pictures.interpolations),
    "latents": ("Latent space", pictures.latents),
    "aggregate": ("Prior against aggregate posterior", pictures.aggregate),
}
"""Of each run, in this order, by the name that the page's links have."""

REFERENCES = {
    "Kingma and Welling, Auto-Encoding Variational Bayes, 2014": "1312.6114",
    "Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016": "1509.00519",
    "Vehtari, Simpson, Gelman, Yao and Gabry, Pareto Smoothed Importance Sampling, 2024": "1507.02646",
    "Poole, Ozair, van den Oord, Alemi and Tucker, On Variational Bounds of Mutual Information, 2019": (
        "1905.06922"
    ),
}


class Section(NamedTuple):
    """One section: a name for links, a title, and blocks by the name of a run, "" for those of all."""

    name: str
    title: str
    parts: dict[str, list[Block]]


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    num_samples: int = 100,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write runs as one HTML file that reads as a paper's appendix, and needs nothing beside it.

    It says in sentences, tables and pictures what was trained on what, how training went, log p(x) with
    its errors, where the nats go, what the model makes of data, where its codes lie, and of several runs by
    how much they differ. What a run lacks is said where it would be. Nothing is trained or evaluated, and
    the folder's results are left alone; the same runs give the same file.

    Args:
        runs: Folder of a run, or several.
        path: The file; ``report.html`` in the run's folder, or here for several, if not given.
        split: Which data: train, validation or test.
        num_samples: Draws per datum of the KL's parts, of the first 1,000 rows.
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.
        seed: Of whatever is drawn.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: No run, the same twice, an unknown split, or a recipe that cannot be read.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from pyrovae.runs.build import load_data
        >>> from pyrovae.runs.recipe import Recipe
        >>> from pyrovae.runs.folder import describe
        >>> recipe = Recipe(dataset="linear-gaussian", likelihood="Normal")
        >>> run = describe(recipe, load_data(recipe), features=8)
        >>> with tempfile.TemporaryDirectory() as folder:  # a run that was not trained yet
        ...     _ = Path(folder, "recipe.json").write_text(run.model_dump_json())
        ...     page = report(folder).read_text()
        >>> "No learning curves: there is no history.json" in page
        True
    """
    choose("split", split, ("train", "validation", "test"))
    check_count("report: num_samples", num_samples)
    several = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    subjects = read(several, split, num_samples, root, seed)
    path = Path(path or (subjects[0].folder / "report.html" if len(subjects) == 1 else "report.html"))
    path = path / "report.html" if path.is_dir() else path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder to write {path.name} in: make it")
    check_writable(path.parent)
    sections = [
        Section(name, title, {subject.name: make(subject) for subject in subjects})
        for name, (title, make) in SECTIONS.items()
    ]
    sections[0].parts[""] = training.recipes(subjects)
    if len(subjects) > 1:
        sections.insert(3, Section("comparison", "Comparison", {"": compared(subjects)}))
    write_file(path, _page(subjects, sections))
    return path


def _page(subjects: list[Subject], sections: list[Section]) -> str:
    from jinja2 import Environment, StrictUndefined

    from pyrovae.core import __version__

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("pyrovae.reports").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        names=[subject.name for subject in subjects],
        summary=[numbers.summary(subject) for subject in subjects],
        sections=sections,
        references=REFERENCES,
        version=__version__,
    )
