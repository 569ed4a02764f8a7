"""Run folders on the Hugging Face Hub: pushed with a model card, pulled and checked. Nothing runs code.

The files that travel are :data:`FILES`: the recipe, the weights as safetensors, the history, the results, the
figures. Checkpoints, locks and logs stay.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyrovae.core.modules import modules_of
from pyrovae.core.tables import mean_errors
from pyrovae.evaluation.results import Evaluation
from pyrovae.runs.folder import WEIGHTS, check_folder, prepare
from pyrovae.runs.recipe import RECIPE, Run, read_run
from pyrovae.runs.saving import load
from pyrovae.storage.files import write_file
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import from_bytes, hash_of

__all__ = ["FILES", "card", "pull", "push"]

FILES = (RECIPE, WEIGHTS, "history.json", "evaluation*.nc", "figures/*.png")
"""The files of a run that are for others, as patterns."""

CARD = "README.md"
TAGS = ["pyro", "variational-autoencoder", "latent-variable-model", "density-estimation"]


def push(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Push a finished run to the Hub, with a model card of its recipe and results.

    Figures and results of an earlier push that the run no longer has are deleted there.

    Args:
        run: The run folder.
        to: A repository, "owner/name", made if need be; or a ``Path``, a local folder.
        private: Whether a new repository is private; by default as the Hub has it.
        revision: Branch of the repository.
        license: License of the weights for the card, such as "apache-2.0".
        token: Token of the Hub; by default that of ``hf auth login``.

    Returns:
        The address of the commit, or the folder.

    Raises:
        FileNotFoundError: There is no run, or it has no weights yet.
        ValueError: The run is damaged, its results are of other weights, the repository has no valid name, or
            the local folder holds something other than an earlier push.
        ImportError: ``huggingface_hub`` is not installed.

    Example:
        >>> from pyrovae.runs.build import build
        >>> from pyrovae.runs.saving import save
        >>> from pyrovae.runs.recipe import Recipe
        >>> recipe = Recipe(latent_dim=2, hidden=(8,))
        >>> settings = dict(recipe=recipe, features=9, shape=(3, 3), conventions={}, versions={})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run, shelf, copy = (Path(folder) / name for name in ("run", "shelf", "copy"))
        ...     save(build(recipe, features=9), run, Run(**settings))
        ...     _ = push(run, shelf)
        ...     vae = load(pull(shelf, copy))
        ...     sorted(path.name for path in copy.iterdir())
        ['README.md', 'recipe.json', 'weights.safetensors']
    """
    run = Path(run)
    checked, results = _read_checked(run)
    name = _repository(to) if isinstance(to, str) else Path(to).resolve().name
    figures = [path.stem for path in sorted(run.glob("figures/*.png"))]
    text = card(checked, results, name=name, figures=figures, license=license)
    if not isinstance(to, str):
        _check_apart(run, Path(to))
        _check_pushed(Path(to))
        prepare(Path(to), overwrite=True)
        _copy(run, Path(to), text)
        return str(to)
    api = _api(token)
    with tempfile.TemporaryDirectory() as staged:
        _copy(run, Path(staged), text)
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=staged,
            revision=revision,
            commit_message=f"{checked.recipe.dataset}, {checked.recipe.num_epochs} epochs",
            delete_patterns=[pattern for pattern in FILES if "*" in pattern],
        )
    return str(done.commit_url)


def pull(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Bring a run from the Hub into a folder, after checking that it is whole.

    The weights are read by :func:`pyrovae.load`: their hash has to be that of the file and of the recipe.
    Files of other names, such as code, are not fetched.

    Args:
        source: A repository, "owner/name"; or a ``Path``, a local folder.
        folder: The run folder to be made.
        revision: A branch, tag or commit of the repository; only a commit cannot change.
        token: Token of the Hub.
        overwrite: Whether to replace a run that the folder holds.

    Returns:
        The folder, for :func:`pyrovae.load` and the command line.

    Raises:
        FileNotFoundError: The source holds no run.
        ValueError: The run is damaged or of another model, and the folder is as it was; or the folder holds a
            run.
        OSError: Another process is at work in the folder.
        ImportError: ``huggingface_hub`` or a package of one of the model's parts is not installed.
    """
    if isinstance(source, str):
        patterns, api = [*FILES, CARD], _api(token)
        source = api.snapshot_download(_repository(source), revision=revision, allow_patterns=patterns)
    source, folder = Path(source), Path(folder)
    if overwrite:
        _check_apart(source, folder)
    _read_checked(source)
    check_folder(folder)
    with locked(folder / "lock", passing=True):
        prepare(folder, overwrite=overwrite)
        _copy(source, folder)
    return folder


def card(
    run: Run,
    results: Mapping[str, Evaluation],
    *,
    name: str,
    figures: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """A model card in Markdown: recipe, data and log p(x), with the front matter that the Hub reads.

    Args:
        run: The recipe and the conventions of its data.
        results: Results by the name of their file, such as "evaluation".
        name: Name of the model; "owner/name" on the Hub.
        figures: Names of the files in ``figures/``.
        license: License of the weights.

    Raises:
        ImportError: ``huggingface_hub`` is not installed.

    Example:
        >>> from pyrovae.runs.recipe import Recipe
        >>> run = Run(recipe=Recipe(), features=784, shape=(28, 28), conventions={}, versions={})
        >>> print(card(run, {}, name="me/digits").split("---")[1].strip())
        library_name: pyrovae
        tags:
        - pyro
        - variational-autoencoder
        - latent-variable-model
        - density-estimation
    """
    recipe, hub = run.recipe, _hub()
    metadata = hub.ModelCardData(
        license=license,
        library_name="pyrovae",
        tags=TAGS,
        model_name=name if results else None,
        eval_results=[_metric(run, result) for result in results.values()] or None,
    )
    conventions = {"data set": recipe.dataset, **run.conventions, "fingerprint": run.fingerprint}
    source = f'pv.hub.pull("{name}", "runs/pulled")' if "/" in name else '"here"'
    paragraphs = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {name}",
        f"A variational autoencoder of `{recipe.dataset}`: prior `{recipe.prior}`, likelihood "
        f"`{recipe.likelihood}`, guide `{recipe.guide}`, {recipe.latent_dim} latents. Trained by "
        f"`{recipe.objective}` for {recipe.num_epochs:,} epochs at most.",
        f"```python\nimport pyrovae as pv\n\nvae = pv.load({source})\n```",
        "## log p(x)",
    ]
    for file, result in results.items():
        paragraphs += [f"The numbers of this table are nats; `{file}.nc` has them for each datum:"]
        paragraphs += [f"```text\n{result}\n```"]
    if not results:
        paragraphs += ["Not evaluated yet: see `pyrovae evaluate`."]
    paragraphs += ["## Data", _table({key: value for key, value in conventions.items() if value is not None})]
    paragraphs += ["Numbers under other conventions do not compare."]
    paragraphs += ["## Recipe", _table({key: getattr(recipe, key) for key in type(recipe).model_fields})]
    if run.weights:
        paragraphs += [f"Weights `{run.weights}`."]
    if figures:
        paragraphs += ["## Figures", *(f"![{figure}](figures/{figure}.png)" for figure in figures)]
    if run.versions:
        made = ", ".join(f"{package} {version}" for package, version in run.versions.items())
        paragraphs += [f"Made with {made}."]
    return "\n\n".join(paragraphs) + "\n"


def _metric(run: Run, result: Evaluation) -> Any:
    """The mean log p(x) for machines, with its errors and conventions."""
    test_set, monte_carlo = mean_errors(result.log_evidence, result.standard_error)
    errors = {"error_by_choice_of_data": test_set, "error_by_draws": monte_carlo}
    return _hub().EvalResult(
        task_type="unconditional-image-generation",
        task_name="density estimation",
        dataset_type=run.recipe.dataset,
        dataset_name=run.recipe.dataset,
        dataset_split=str(result.conventions.get("split", "test")),
        metric_type="log_evidence",
        metric_name="mean log p(x), nats",
        metric_value=result.log_evidence.mean().item(),
        metric_args={k: v for k, v in {**result.conventions, **errors}.items() if v == v},  # no NaN
    )


def _table(values: Mapping[str, object]) -> str:
    cells = ((key, " ".join(str(value).replace("|", "\\|").splitlines())) for key, value in values.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells)])


def _read_checked(folder: Path) -> tuple[Run, dict[str, Evaluation]]:
    """The run of a folder and its results, whose weights are whole, and are those of the recipe."""
    run, path = read_run(folder), folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {WEIGHTS}, so no run that is finished: go on with it by pyrovae train --resume"
        )
    from pyrovae.runs.build import build

    vae = build(run.recipe, run.features, run.shape)
    kinds = {each.dtype for each in from_bytes(path.read_bytes(), path).values() if each.is_floating_point()}
    if len(kinds) == 1:
        vae.to(kinds.pop())  # the hash is of the numbers as they were trained
    load(folder, vae)
    if run.weights not in (None, hash_of(modules_of(vae.model, vae.guide))):
        raise ValueError(
            f"{path}: not the weights that {folder / RECIPE} is of (their hash is another): take both anew"
        )
    results = {}
    for file in sorted(folder.glob("evaluation*.nc")):
        results[file.stem] = result = Evaluation.load(file)
        if run.weights is not None and result.conventions.get("weights", run.weights) != run.weights:
            raise ValueError(f"{file} is of other weights than the run's: evaluate again")
    return run, results


def _check_apart(run: Path, folder: Path) -> None:
    """Refuse to write a folder over itself: what is there is deleted first."""
    if run.resolve() == folder.resolve():
        raise ValueError(f"{folder} is the run itself: name another folder")


def _check_pushed(folder: Path) -> None:
    """Refuse a folder that is neither empty nor of an earlier push: a run at work has more files."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = names - {path.name for pattern in (*FILES, CARD) for path in folder.glob(pattern.split("/")[0])}
    if others:
        raise ValueError(f"{folder} holds '{min(others)}', which no push leaves: name an empty folder")
    if names and CARD not in names:
        raise ValueError(
            f"{folder} holds '{min(names)}' and no {CARD}, so no earlier push: name an empty folder"
        )


def _copy(source: Path, folder: Path, text: str | None = None) -> None:
    """Copy the files that travel; ``text`` replaces the card."""
    for pattern in (*FILES, CARD):
        for path in source.glob(pattern):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            write_file(copy, path.read_bytes())
    if text is not None:
        write_file(folder / CARD, text)


def _repository(name: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ValueError(f"'{name}' is no repository: 'owner/name', or pathlib.Path(...) for a local folder")
    return name


def _api(token: str | None) -> Any:
    return _hub().HfApi(token=token, library_name="pyrovae")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the Hub needs huggingface_hub: pip install 'pyrovae[hub]'") from error
    return huggingface_hub
