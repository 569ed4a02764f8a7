"""What a report shows of one run: what the model makes of data, and where the codes lie."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyrovae.core.tables import counted
from pyrovae.core.wrap import as_pyro, support_of
from pyrovae.evaluation import diagnostics
from pyrovae.reports import plots
from pyrovae.reports.blocks import Block, Text, picture, tried
from pyrovae.reports.figures import PLANES
from pyrovae.reports.subjects import ROWS, LackingError, Subject

__all__ = ["aggregate", "interpolations", "latents", "reconstructions", "samples", "worst"]

PLACES = 14
"""Of each latent in the plane: as many as have room on a page."""

SHOWN = 12
"""Data in a row of pictures."""


def samples(subject: Subject) -> list[Block]:
    """Means of p(x | z) at draws of the prior."""

    def make() -> list[Block]:
        shape = subject.shape
        caption = "Each the mean of p(x|z) at a draw of the prior, which is smoother than a draw of p(x|z)."
        return [
            picture(plots.samples(subject.vae, shape), "A grid of 96 images that the model makes up", caption)
        ]

    return tried(subject, "samples", make)


def reconstructions(subject: Subject) -> list[Block]:
    """The first data above what the model makes of their codes."""

    def make() -> list[Block]:
        shape, vae, x = subject.shape, subject.vae, subject.data[:SHOWN]
        caption = "Above, the first data; below, the mean of p(x|z) at the mean of q(z|x)."
        alt = f"{len(x)} images above their reconstructions"
        return [picture(plots.reconstructions(vae, x, shape), alt, caption)]

    return tried(subject, "reconstructions", make)


def worst(subject: Subject) -> list[Block]:
    """The data whose log p(x) is the least to be believed."""

    def make() -> list[Block]:
        shape, result = subject.shape, subject.result
        subject.check_result()
        rows = result.worst(SHOWN).tolist()
        error, khat = result.standard_error[rows[0]].item(), result.khat[rows[0]].item()
        said = (
            f"The least to be believed are rows {', '.join(map(str, rows[:5]))}: by k-hat, then by their "
            f"error. Row {rows[0]} has log p(x) {result.log_evidence[rows[0]]:.2f}; its stated error is "
            f"{'unknown' if math.isnan(error) else f'{error:.2g} nats'}, and its k-hat "
            f"{'unknown' if math.isnan(khat) else f'{khat:.2f}'}."
        )
        alt = f"{len(rows)} images of the rows {', '.join(map(str, rows))}, each above its log p(x) and k-hat"
        caption = "The data whose log p(x) is the least to be believed, the worst first."
        return [Text(said), picture(plots.worst(result, subject.data, shape, SHOWN), alt, caption)]

    return tried(subject, "worst data", make)


def interpolations(subject: Subject) -> list[Block]:
    """Lines between codes of data."""

    def make() -> list[Block]:
        shape, vae, x = subject.shape, subject.vae, subject.data[:8]
        if _discrete(vae):
            raise LackingError("the latents are discrete, and there is no line between two codes")
        pairs = len(x) // 2
        figure = plots.interpolation(vae, x[:pairs], x[pairs : 2 * pairs], shape)
        caption = "Each row the mean of p(x|z) at even steps on the line between the codes of two data."
        return [picture(figure, f"{pairs} rows of images, each turning from one datum into another", caption)]

    return tried(subject, "interpolations", make)


def latents(subject: Subject) -> list[Block]:
    """The plane of a two-dimensional latent space, and the codes of data by class."""

    def plane() -> list[Block]:
        caption = "The mean of p(x|z) over the latent plane, at the even quantiles of a standard normal."
        alt = "A grid of images, one for each place in the plane of the two latents"
        return [picture(plots.latent_plane(subject.vae, subject.shape, PLACES), alt, caption)]

    def codes() -> list[Block]:
        found, labels = _codes(subject), subject.labels
        labels = None if labels is None else labels[: len(found.means)]
        figure = plots.codes(found, labels)
        dims, rows = len(found.names), len(found.means)
        two = "as they are" if dims == 2 else f"on two principal components of {dims}"
        classes = "" if labels is None else f", by {len(labels.unique())} classes"
        said = "" if labels is not None else " The data have no classes, so that all dots are alike."
        caption = f"The means of q(z|x) of the first {rows:,} rows, {two}{classes}.{said}"
        return [picture(figure, f"Scatter of {rows:,} codes {two}{classes}", caption)]

    recipe = subject.run.recipe
    is_plane = recipe.latent_dim == 2 and recipe.prior.name in PLANES
    return [
        *(tried(subject, "latent plane", plane) if is_plane else []),
        *tried(subject, "projection of the codes", codes),
    ]


def aggregate(subject: Subject) -> list[Block]:
    """Draws of q over data beside draws of the prior, and how many nats lie between them."""

    def figure() -> list[Block]:
        found = _codes(subject)
        apart, rows = found.apart, len(found.draws)
        most, largest = int(apart.argmax()), apart.sort(descending=True).values[:6].tolist()
        said = (
            f"If the aggregate posterior, the mean of q(z|x) over data, were the prior, draws of the two "
            f"would look alike. Of {rows:,} draws of each, {found.names[most]} is the furthest apart: the "
            f"distance between the two distribution functions is {largest[0]:.2f}, where chance alone gives "
            f"the furthest of {counted(len(apart), 'dimension')} some {found.chance:.2f}."
        )
        alt = (
            f"Histograms of draws of the prior over those of q, of {len(largest)} dimensions, those the "
            f"furthest apart, at distances {', '.join(f'{each:.2f}' for each in largest)}"
        )
        caption = "Filled: draws of q(z|x) over data. Hatched: draws of the prior."
        return [Text(said), picture(plots.aggregate_posterior(found), alt, caption)]

    def information() -> list[Block]:
        vae, data = subject.vae, subject.data[:ROWS]
        found = diagnostics.information(vae.model, vae.guide, data, seed=subject.seed)
        low, high = (max(each, 0.0) for each in found.marginal_kl)
        said = (
            f"Over {len(data):,} rows, q(z|x) tells between {found.lower:.2f} and "
            f"{min(found.upper, found.rate):.2f} nats of its datum, of a KL of {found.rate:.2f}; the rest, "
            f"{low:.2f} to {high:.2f} nats, is KL(q(z) || p(z)), of aggregate posterior and prior; each "
            f"± {found.error:.2f}."
        )
        if found.distinct - found.lower < 0.5:
            said += (
                f" The lower bound is near the log of {len(data):,}, {found.distinct:.2f}, which it cannot "
                f"exceed: more rows would tell more."
            )
        return [Text(said)]

    return [
        *tried(subject, "aggregate posterior", figure),
        *tried(subject, "bounds on the information", information),
    ]


def _codes(subject: Subject) -> Any:
    vae, data = subject.vae, subject.data[:ROWS]
    return diagnostics.codes(vae.model, vae.guide, data, seed=subject.seed)


def _discrete(vae: Any) -> bool:
    with torch.no_grad():
        support = support_of(as_pyro(vae.prior()))
    return support is not None and support.is_discrete
