"""What a report says of a run's training: the recipe, the data, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from pyrovae.core.tables import counted, transformations
from pyrovae.reports import plots
from pyrovae.reports.blocks import Block, Printed, Table, Text, picture, tried
from pyrovae.reports.subjects import Subject
from pyrovae.runs.recipe import Recipe

__all__ = ["curves", "recipes", "trained"]


def trained(subject: Subject) -> list[Block]:
    """Recipe, data with their conventions and fingerprint, parameters, weights, versions."""
    run, recipe = subject.run, subject.run.recipe
    said = run.conventions
    shape = " by ".join(map(str, run.shape))
    images = f" (images of {shape})" if len(run.shape) > 1 else ""
    data = ", ".join(
        [f"{said.get('rows', 0):,} training rows of {run.features:,} numbers{images}", *_data(said)]
    )
    ways = (
        f"It maximises {recipe.objective} with {recipe.optimizer}, learning rate {recipe.learning_rate:g} "
        f"({recipe.schedule}), in batches of {recipe.batch_size:,}, products in {recipe.precision}, for "
        f"{_epochs(subject)}, from seed {recipe.seed}."
    )
    blocks: list[Block] = [
        Text(
            f"The prior p(z) is {recipe.prior}, over {recipe.latent_dim} latents. The likelihood p(x|z) is "
            f"{recipe.likelihood}, by a network {recipe.decoder}, and the guide q(z|x) is {recipe.guide}, by "
            f"a network {recipe.encoder}; the hidden widths are {', '.join(map(str, recipe.hidden))}."
        ),
        *tried(subject, "count of parameters", lambda: [Text(_parameters(subject.vae))]),
        Text(f"The data are {recipe.dataset}: {data}."),
        Text(ways),
        Text(f"{_marks(subject)} Versions: {', '.join(f'{k} {v}' for k, v in run.versions.items())}."),
    ]
    if "data" in subject.lacks:
        blocks.append(Text(f"The data could not be read: {subject.lacks['data']}.", lack=True))
    blocks.append(Text("The same training, into a new folder NEW:"))
    blocks.append(Printed(f"pyrovae train NEW --config {quote(str(subject.folder))}"))
    return blocks


def recipes(subjects: Sequence[Subject]) -> list[Block]:
    """The recipe of each run, side by side."""
    of_each = [subject.run.recipe for subject in subjects]
    rows = [
        (_words(name), *(str(_plain(getattr(recipe, name))) for recipe in of_each))
        for name in Recipe.model_fields
    ]
    names = [subject.name for subject in subjects] if len(subjects) > 1 else ["value"]
    return [Table("The recipe" if len(subjects) == 1 else "The recipes", ("", *names), rows, numbers=False)]


def curves(subject: Subject) -> list[Block]:
    """The ELBO over epochs, and its parts."""

    def make() -> list[Block]:
        history = subject.history
        count = len(history)
        said = (
            f"Over {counted(count, 'epoch')} the training ELBO went from {history.elbo[0]:.2f} to "
            f"{history.elbo[-1]:.2f} nats per datum, of which the reconstruction, E_q[log p(x|z)], is "
            f"{history.reconstruction[-1]:.2f} and the KL, which is taken off, {history.kl[-1]:.2f}; it took "
            f"{_time(history.seconds[-1])}."
        )
        validation = history.validation_elbo
        if validation:
            best = max(range(count), key=lambda epoch: validation[epoch])
            parts = history.validation_reconstruction[-1], history.validation_kl[-1]
            said += (
                f" On the validation data it ended at {validation[-1]:.2f}, {parts[0]:.2f} less "
                f"{parts[1]:.2f}, and was best, {validation[best]:.2f}, in epoch {history.epoch[best] + 1}."
            )
        alt = (
            f"Three line plots over {counted(count, 'epoch')}: the ELBO, ending at {history.elbo[-1]:.1f} "
            f"nats, the reconstruction, at {history.reconstruction[-1]:.1f}, and the KL, at "
            f"{history.kl[-1]:.1f}"
        )
        caption = "The ELBO and its two parts. Training values are means over an epoch while weights change."
        return [Text(said), picture(plots.learning_curves(history), alt, caption)]

    return tried(subject, "learning curves", make)


def _parameters(vae: Any) -> str:
    parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.guide}
    counts = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
    whole = sum(each.numel() for each in vae.parameters())
    shared = sum(counts.values()) - whole
    said = ", ".join(f"{count:,} of the {name}" for name, count in counts.items())
    more = f"; {shared:,} of them are of two parts and count once" if shared else ""
    return f"The model has {whole:,} parameters: {said}{more}."


def _data(said: dict[str, Any]) -> list[str]:
    values = [f"values {said['values']}"] if "values" in said else []
    seeds = [f"{_words(name)} {said[name]}" for name in said if name.endswith("_seed")]
    return [*transformations(said), *values, *seeds]


def _marks(subject: Subject) -> str:
    run = subject.run
    marks = {"fingerprint of the data": run.fingerprint, "hash of the weights": run.weights}
    said = ", ".join(f"{name} {value}" for name, value in marks.items() if value is not None)
    return f"{said[:1].upper()}{said[1:]}." if said else "No hashes were recorded of data and weights."


def _epochs(subject: Subject) -> str:
    asked = subject.run.recipe.num_epochs
    done = len(subject.found["history"]) if "history" in subject.found else asked
    return counted(asked, "epoch") + ("" if done == asked else f", of which {done:,} were finished")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> Any:
    if value is None:
        return "the data set's own"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
