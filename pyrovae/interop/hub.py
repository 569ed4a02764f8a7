"""Run folders on the Hugging Face Hub: pushed with a model card, pulled and checked. Nothing runs code.

What travels is :data:`FILES`: the recipe, the weights as safetensors, the history, the results per datum, the
figures. Checkpoints, locks and logs stay where they are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyrovae.core.modules import modules_of
from pyrovae.evaluation.results import Evaluation
from pyrovae.interop.cards import card
from pyrovae.runs.folder import check_folder, prepare
from pyrovae.runs.recipe import RECIPE, Run, read_run
from pyrovae.runs.saving import WEIGHTS, load
from pyrovae.storage.files import write_file
from pyrovae.storage.locks import locked
from pyrovae.storage.tensors import from_bytes, hash_of

__all__ = ["FILES", "card", "pull", "push"]

FILES = (RECIPE, WEIGHTS, "history.json", "evaluation*.nc", "figures/*.png")
"""What is of a run for others, as patterns."""

CARD = "README.md"

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def push(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Push a run that is finished to the Hub, with a model card of its recipe and results.

    What a repository has of an earlier push and the run has no more, figures and results, is deleted there.

    Args:
        run: The run folder.
        to: A repository, "owner/name", made if it is not there; or a ``Path``, a local folder.
        private: Whether a repository that is made is private; as the Hub has it by default.
        revision: Branch of the repository.
        license: Of the weights, such as "apache-2.0", for the card; none is said if not given.
        token: Of the Hub; the one of ``hf auth login`` if not given.

    Returns:
        Where it is: an address, or a folder.

    Raises:
        FileNotFoundError: There is no run, or it has no weights yet.
        ValueError: The run is damaged, or its results are of other weights; no name of a repository; a local
            folder that holds something else than an earlier push.
        ImportError: ``huggingface_hub`` is not installed.

    Example:
        >>> from pyrovae.runs.build import build
        >>> from pyrovae.runs.saving import save
        >>> from pyrovae.runs.recipe import Recipe
        >>> recipe = Recipe(latent_dim=2, hidden=(8,))
        >>> said = dict(recipe=recipe, features=9, shape=(3, 3), conventions={}, versions={})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run, shelf, copy = (Path(folder) / name for name in ("run", "shelf", "copy"))
        ...     save(build(recipe, features=9), run, Run(**said))
        ...     _ = push(run, shelf)
        ...     vae = load(pull(shelf, copy))
        ...     sorted(path.name for path in copy.iterdir())
        ['README.md', 'recipe.json', 'weights.safetensors']
    """
    run = Path(run)
    checked = _checked(run)
    results = {path.stem: Evaluation.load(path) for path in sorted(run.glob("evaluation*.nc"))}
    for name, result in results.items():
        _check_is_of(checked, result, run / f"{name}.nc")
    if not isinstance(to, str):
        folder = Path(to)
        _check_apart(run, folder)
        _check_pushed(folder)
        prepare(folder, overwrite=True)
        said = card(checked, results, name=folder.resolve().name, figures=_figures(run), license=license)
        _copy(run, folder)
        write_file(folder / CARD, said)
        return str(folder)
    api, repository = _api(token), _repository(to)
    said = card(checked, results, name=repository, figures=_figures(run), license=license)
    with tempfile.TemporaryDirectory() as staged:
        _copy(run, Path(staged))
        (Path(staged) / CARD).write_text(said, encoding="utf-8")
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
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
    """Bring a run from the Hub into a folder, once it is seen to be whole.

    The weights are read by :func:`pyrovae.load`: their hash has to be that of the file and of the recipe.
    Files of other names are not fetched, so that no code is.

    Args:
        source: A repository, "owner/name"; or a ``Path``, a local folder.
        folder: Of the run, to be made.
        revision: A branch, tag or commit of the repository; a commit's hash is the one that cannot change.
        token: Of the Hub.
        overwrite: Write over a run that the folder holds.

    Returns:
        The folder, for :func:`pyrovae.load` and the command line.

    Raises:
        FileNotFoundError: The source holds no run.
        ValueError: What came is damaged or is of another model, and the folder is as it was; or the folder
            holds a run.
        OSError: Another process is at work in the folder.
        ImportError: ``huggingface_hub`` is not installed; a part is of a package that is not.
    """
    if isinstance(source, str):
        patterns = [*FILES, CARD]
        there = _api(token).snapshot_download(_repository(source), revision=revision, allow_patterns=patterns)
        source = there
    source, folder = Path(source), Path(folder)
    if overwrite:
        _check_apart(source, folder)
    run = _checked(source)
    for path in source.glob("evaluation*.nc"):
        _check_is_of(run, Evaluation.load(path), path)
    check_folder(folder)
    with locked(folder / "lock", passing=True):
        prepare(folder, overwrite=overwrite)
        _copy(source, folder)
        if (source / CARD).is_file():
            write_file(folder / CARD, (source / CARD).read_bytes())
    return folder


def _checked(folder: Path) -> Run:
    """The run of a folder whose weights are whole, and are those that its recipe says."""
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
    return run


def _check_is_of(run: Run, result: Evaluation, path: Path) -> None:
    """Refuse results of other weights than the run's."""
    if run.weights is not None and result.conventions.get("weights", run.weights) != run.weights:
        raise ValueError(f"{path} is of other weights than the run's: evaluate again")


def _check_apart(run: Path, folder: Path) -> None:
    """What is written over goes first: of a folder that is written over itself nothing would be left."""
    if run.resolve() == folder.resolve():
        raise ValueError(f"{folder} is the run itself: name another folder")


def _check_pushed(folder: Path) -> None:
    """Refuse a folder that is neither empty nor of an earlier push: a run that is at work has more."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    made = {path.name for pattern in (*FILES, CARD) for path in folder.glob(pattern.split("/")[0])}
    if there - made:
        raise ValueError(f"{folder} holds '{min(there - made)}', which no push leaves: name an empty folder")
    if there and CARD not in there:
        raise ValueError(
            f"{folder} holds '{min(there)}' and no {CARD}, so no earlier push: name an empty folder"
        )


def _files(folder: Path) -> Iterator[Path]:
    for pattern in FILES:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _figures(folder: Path) -> list[str]:
    return [path.stem for path in _files(folder) if path.suffix == ".png"]


def _copy(source: Path, folder: Path) -> None:
    for path in _files(source):
        there = folder / path.relative_to(source)
        there.parent.mkdir(exist_ok=True)
        write_file(there, path.read_bytes())


def _repository(name: str) -> str:
    if not REPOSITORY.fullmatch(name):
        raise ValueError(f"'{name}' is no repository: 'owner/name', or pathlib.Path(...) for a local folder")
    return name


def _api(token: str | None) -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError("the Hub needs huggingface_hub: pip install 'pyrovae[hub]'") from error
    return HfApi(token=token, library_name="pyrovae")
