"""A model card: what a run was trained on, how, and what its log p(x) is worth, for people and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyrovae.core.tables import mean_errors
from pyrovae.evaluation.results import Evaluation
from pyrovae.runs.recipe import Run

__all__ = ["card"]

TAGS = ["pyro", "variational-autoencoder", "latent-variable-model", "density-estimation"]


def card(
    run: Run,
    results: Mapping[str, Evaluation],
    *,
    name: str,
    figures: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """A model card in Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        run: The recipe and what it met.
        results: By name of their file, such as "evaluation".
        name: Of the model; "owner/name" on the Hub.
        figures: Names of those in ``figures/``.
        license: Of the weights.

    Example:
        >>> from pyrovae.runs.recipe import Recipe
        >>> run = Run(recipe=Recipe(), features=784, shape=(28, 28), conventions={}, versions={})
        >>> print(card(run, {}, name="me/digits").split("---")[1].strip())
        library_name: pyrovae
        tags: ["pyro", "variational-autoencoder", "latent-variable-model", "density-estimation"]
    """
    recipe = run.recipe
    front: dict[str, Any] = {"tags": TAGS}
    if license is not None:
        front["license"] = license
    if results:
        found = [_metric(run, result) for result in results.values()]
        front["model-index"] = [{"name": name, "results": found}]
    lines = ["---", "library_name: pyrovae"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in front.items()]  # JSON is YAML
    lines += ["---", "", f"# {name}", ""]
    lines += [
        f"A variational autoencoder of `{recipe.dataset}`: prior {_code(recipe.prior)}, likelihood "
        f"{_code(recipe.likelihood)}, guide {_code(recipe.guide)}, {recipe.latent_dim} latents. Trained by "
        f"{_code(recipe.objective)} for {recipe.num_epochs:,} epochs at most.",
        "",
        "```python",
        "import pyrovae as pv",
        "",
        f'vae = pv.load(pv.hub.pull("{name}", "runs/pulled"))' if "/" in name else 'vae = pv.load("here")',
        "```",
        "",
        "## log p(x)",
        "",
    ]
    for file, result in results.items():
        lines += [f"`{file}.nc`, per datum, has what this table is of; the numbers are nats:", ""]
        lines += ["```text", str(result), "```", ""]
    if not results:
        lines += ["Not evaluated yet: see `pyrovae evaluate`.", ""]
    lines += ["## Data", "", "| | |", "|---|---|"]
    said = {"data set": recipe.dataset, **run.conventions, "fingerprint": run.fingerprint}
    lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in said.items() if value is not None]
    lines += ["", "Numbers under other conventions do not compare.", ""]
    lines += ["## Recipe", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(getattr(recipe, key))} |" for key in type(recipe).model_fields]
    lines += ["", f"Weights `{run.weights}`. " if run.weights else "", ""]
    lines += ["## Figures", ""] if figures else []
    lines += [f"![{figure}](figures/{figure}.png)\n" for figure in figures]
    made = ", ".join(f"{package} {version}" for package, version in run.versions.items())
    lines += [f"Made with {made}." if made else "", ""]
    return "\n".join(lines)


def _metric(run: Run, result: Evaluation) -> dict[str, Any]:
    """One number for machines, and its errors and conventions beside it."""
    said = result.conventions
    test_set, monte_carlo = mean_errors(result.log_evidence, result.standard_error)
    errors = {"error_by_choice_of_data": test_set, "error_by_draws": monte_carlo}
    about = {key: value for key, value in {**said, **errors}.items() if value == value}
    split = str(said.get("split", "test"))
    metric = {
        "type": "log_evidence",
        "name": "mean log p(x), nats",
        "value": result.log_evidence.mean().item(),
    }
    return {
        "task": {"type": "unconditional-image-generation", "name": "density estimation"},
        "dataset": {"type": run.recipe.dataset, "name": run.recipe.dataset, "split": split},
        "metrics": [{**metric, "args": about}],
    }


def _code(value: object) -> str:
    return f"`{value}`"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
