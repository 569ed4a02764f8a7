"""What a report says of several runs: by how much they differ in log p(x)."""

from __future__ import annotations

from pyrovae.core.checks import one_line
from pyrovae.core.tables import shown
from pyrovae.evaluation.compare import Comparison, compare
from pyrovae.evaluation.results import Evaluation
from pyrovae.reports import plots
from pyrovae.reports.blocks import Block, Listed, Table, Text, picture, tried
from pyrovae.reports.subjects import LackingError, Subject
from pyrovae.runs.recipe import changes

__all__ = ["compared"]


def compared(subjects: list[Subject]) -> list[Block]:
    """What sets the recipes apart, and paired differences of log p(x) with their errors."""
    first, *others = subjects
    apart = [
        f"{each.name} has {'; '.join(changes(first.run.recipe, each.run.recipe)) or 'the same recipe'}"
        for each in others
    ]
    blocks: list[Block] = [Text(f"Beside {first.name}, the recipes differ so:"), Listed(apart)]
    alike: dict[str, Evaluation] = {}
    for each in subjects:
        try:
            alike[each.name] = each.result
            if len(alike) > 1:
                compare(alike)
        except ValueError as error:  # it has no results, or they are of something else
            alike.pop(each.name, None)
            blocks.append(Text(f"{each.name} is not compared: {one_line(error).rstrip('.')}.", lack=True))
    return [*blocks, *tried(first, "comparison", lambda: _differences(alike))]


def _differences(results: dict[str, Evaluation]) -> list[Block]:
    if len(results) < 2:
        raise LackingError("it takes two runs that were evaluated alike")
    found = compare(results)
    verdicts = [_sentence(name, found) for name in found.differences if name != found.reference]
    head = (
        "",
        "log p(x)",
        "difference",
        "error, test set",
        "error, Monte Carlo",
        "error, training",
        "verdict",
    )
    rows = []
    for name, each in found.differences.items():
        errors = [shown(part) for part in (each.test_set, each.monte_carlo, each.training)]
        told = "" if each.reference else f"{each.difference:+.3f}"
        rows.append([name, f"{each.mean:.3f}", told, *errors, each.verdict])
    heading, *rest = str(found).splitlines()
    alt = "Differences with error bars: " + "; ".join(verdicts)
    caption = "Paired differences of mean log p(x), the best run on top, with two errors each way."
    return [
        Text(". ".join(verdicts) + "."),
        Table(heading, head, rows),
        Listed(rest[1 + len(rows) :]),
        picture(plots.comparison(found), alt, caption),
    ]


def _sentence(name: str, found: Comparison) -> str:
    each = found[name]
    error = shown(each.error)
    return (
        f"{name} differs from {found.reference} by {each.difference:+.3f} nats per datum, {error} in all: "
        f"{each.verdict}"
    )
