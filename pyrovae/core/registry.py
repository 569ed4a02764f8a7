"""Names of parts: those of this package, and those that other packages add by entry points.

A recipe holds names and never an import path, so that reading a recipe runs no code but what is installed. A
part is imported when it is asked for; this module does not import torch.

A package adds parts of its own in its ``pyproject.toml``, a group for each kind::

    [project.entry-points."pyrovae.priors"]
    Horseshoe = "my_package.priors:Horseshoe"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, getdoc, signature
from typing import Any

from pyrovae.core.checks import choose

__all__ = ["KINDS", "canonical", "describe", "find", "keywords", "names", "reference", "register"]

DATASETS = {
    "mnist-mini": "the first 7,000 digits of MNIST, in the package",
    "mnist": "MNIST, by torchvision",
    "static-mnist": "Larochelle and Murray's fixed binarisation of MNIST",
    "linear-gaussian": "synthetic real numbers, log p(x) known exactly",
    "shards": "files of rows in train, validation and test of the root folder, larger than memory",
}
"""Every data set of this package, by its name for :func:`pyrovae.datasets.load`, with a description."""

_PARTS = {
    "priors": {
        "pyrovae.models.priors": "StandardNormal Normal Laplace StudentT GaussianMixture VampPrior Dirichlet "
        "LogisticNormal UniformSphere Bernoulli AutoregressiveBernoulli Categorical "
        "AutoregressiveCategorical RelaxedCategorical",
        "pyrovae.models.flows": "MAF NSF RealNVP",
    },
    "likelihoods": {
        "pyrovae.models.likelihoods": "Bernoulli ContinuousBernoulli Beta Categorical DiscretizedLogistic "
        "Normal Laplace StudentT Binomial Poisson NegativeBinomial ZeroInflatedNegativeBinomial Multinomial",
    },
    "guides": {
        "pyrovae.models.guides": "Normal LowRankNormal FullRankNormal GaussianMixture Flow Delta LogNormal "
        "Dirichlet LogisticNormal PowerSpherical Bernoulli Categorical RelaxedCategorical StraightThrough "
        "Widened Defensive Refined",
        "pyrovae.models.flows": "MAF NSF",
    },
    "flows": {"pyrovae.models.flows": "MAF IAF NSF RealNVP NICE"},
    "networks": {
        "pyrovae.models.networks": "MLP GatedMLP ConvEncoder ConvDecoder ResidualEncoder ResidualDecoder",
    },
    "activations": {"torch.nn": "ReLU Tanh SiLU GELU ELU LeakyReLU Softplus Sigmoid"},
    "objectives": {
        "pyrovae.objectives": "ELBO IWAE Renyi MIWAE CIWAE PIWAE WakeSleep TVO",
        "pyro.infer": "Trace_ELBO TraceMeanField_ELBO",
    },
    "terms": {"pyrovae.objectives": "kl_weight free_bits capacity total_correlation mmd"},
    "weights": {"pyrovae.objectives": "warmup cyclical"},
    "optimizers": {"torch.optim": "Adam AdamW Adamax NAdam RAdam RMSprop Adagrad SGD"},
    "schedules": {"pyrovae.training.optimisers": "constant cosine burda"},
    "datasets": {"pyrovae.data.datasets": " ".join(DATASETS)},
}
"""The names of each kind, by module. A name reaches no other code outside this package, torch and Pyro."""

_REFERENCES = {
    ("priors", "RealNVP"): "arXiv:1605.08803",  # Dinh et al., 2017; zuko's docstring has an earlier one first
    ("objectives", "Trace_ELBO"): "arXiv:1301.1299",  # Wingate and Weber, 2013
    ("objectives", "TraceMeanField_ELBO"): "arXiv:1312.6114",  # Kingma and Welling, 2014, appendix B
    ("datasets", "mnist-mini"): "doi:10.1109/5.726791",  # LeCun et al., Gradient-Based Learning, 1998
    ("datasets", "mnist"): "doi:10.1109/5.726791",
    ("datasets", "static-mnist"): "www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
    ("datasets", "linear-gaussian"): "doi:10.1111/1467-9868.00196",  # Tipping and Bishop, 1999
    ("datasets", "shards"): "",
}
"""References of parts whose docstrings do not have them."""

KINDS = tuple(_PARTS)
"""Kinds of parts; the entry points of a kind are the group ``pyrovae.<kind>``."""

_registered: dict[tuple[str, str], Callable[..., Any]] = {}


def names(kind: str) -> list[str]:
    """All names of a kind, those of this package first.

    Example:
        >>> names("weights")
        ['warmup', 'cyclical']
    """
    own = [name for of, name in _registered if of == kind]
    return list(dict.fromkeys([*_built_in(kind), *own, *(each.name for each in _entry_points(kind))]))


def canonical(kind: str, name: str) -> str:
    """The name as it is registered; case, dashes and underscores are ignored. The part is not imported.

    Raises:
        ValueError: The name is unknown; the message suggests the nearest.

    Example:
        >>> canonical("priors", "vamp-prior")
        'VampPrior'
        >>> canonical("priors", "VampPriro")
        Traceback (most recent call last):
        ValueError: unknown prior 'VampPriro': did you mean 'VampPrior'?
    """
    known = names(kind)
    if name in known:
        return name
    alike = [each for each in known if _plain(each) == _plain(name)]
    return alike[0] if alike else choose(_singular(kind), name, known)


def find(kind: str, name: str) -> Callable[..., Any]:
    """Import the class or function of a name.

    Raises:
        ValueError: The name is unknown, or two packages have it.
        ImportError: The part cannot be imported; the message names its package and the mend.
    """
    name = canonical(kind, name)
    if (kind, name) in _registered:
        return _registered[kind, name]
    first, *others = _parts(kind, name)
    if others:
        raise ValueError(
            f"{_singular(kind)} '{name}' is in {_of(first)} and in {_of(others[0])}: uninstall one of them"
        )
    try:
        return first.load()
    except Exception as error:  # whatever a plug-in raises when it is imported
        if first.dist is None:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ImportError(
            f"{_singular(kind)} '{name}' of {_of(first)} cannot be imported ({reason}): mend or uninstall "
            f"that package; other names work without it"
        ) from error


def package_of(kind: str, name: str) -> tuple[str, str] | None:
    """The other package that provides a name, and its version; None for parts of this package or process."""
    found = [] if (kind, name) in _registered else _parts(kind, name)
    package = found[0].dist if found else None
    return (package.name, package.version) if package else None


def register(kind: str, name: str, make: Callable[..., Any]) -> None:
    """Give a part of your own a name in this process; a package uses an entry point instead.

    Args:
        kind: One of :data:`KINDS`.
        name: A name that is not taken yet.
        make: The class or function that makes the part. For "datasets" it is a function of root,
            binarisation, dequantise and seed that returns a :class:`pyrovae.datasets.Dataset`.

    Raises:
        ValueError: The kind is unknown, or the name is taken or malformed.

    Example:
        >>> from pyrovae.models.priors import StudentT
        >>> register("priors", "Cauchy", lambda dim: StudentT(dim, df=1.0))
        >>> "Cauchy" in names("priors")
        True
        >>> del _registered["priors", "Cauchy"]
    """
    choose("kind of part", kind, KINDS)
    if _plain(name) in map(_plain, names(kind)) and (kind, name) not in _registered:
        raise ValueError(f"there is a {_singular(kind)} '{canonical(kind, name)}' already: use another name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"'{name}' is no name: letters, digits, dashes and underscores, a letter first")
    _registered[kind, name] = make


def plug_ins() -> Iterator[tuple[str, str]]:
    """The kind and name of each part that other packages add."""
    for kind in KINDS:
        for each in _entry_points(kind):
            yield kind, each.name


def describe(kind: str, name: str) -> str:
    """The first sentence of a part's docstring, or the reason why it cannot be imported."""
    if kind == "datasets" and name in DATASETS:
        return DATASETS[name]
    try:
        text = getdoc(find(kind, name)) or ""
    except (ImportError, ValueError) as error:
        return str(error)
    first = re.sub(r":\w+:`[^`]*?(\w+)`", r"\1", " ".join(text.split("\n\n")[0].split()))
    return first.split(". ")[0].removesuffix(".")


def reference(kind: str, name: str) -> str:
    """The first arXiv number, DOI or address in a part's References section; empty if there is none.

    Example:
        >>> reference("priors", "VampPrior"), reference("datasets", "mnist")
        ('arXiv:1705.07120', 'doi:10.1109/5.726791')
    """
    if (kind, name) in _REFERENCES:
        return _REFERENCES[kind, name]
    try:
        text = getdoc(find(kind, name)) or ""
    except (ImportError, ValueError):
        return ""
    section = text.partition("References:")[2].partition("\n\n")[0]
    found = re.search(r"arXiv:[\w.]+\d|doi:\S+\w|https?://\S+\w", section)
    return re.sub(r"https?://arxiv\.org/abs/", "arXiv:", found[0]) if found else ""


def keywords(kind: str, name: str) -> str:
    """The arguments of a part's constructor with their defaults; empty if they are unknown.

    Example:
        >>> keywords("priors", "Normal")
        'dim, *, scale=1.0, learn=True'
    """
    if kind == "datasets":
        return ""
    try:
        found = signature(find(kind, name))
    except (ImportError, ValueError):
        return ""
    bare = [each.replace(annotation=Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))[1:-1]


def _built_in(kind: str) -> dict[str, str]:
    """The names of this package with their import paths."""
    return {name: f"{module}:{name}" for module, listed in _PARTS[kind].items() for name in listed.split()}


def _parts(kind: str, name: str) -> list[EntryPoint]:
    """Where a name can be imported from: this package, or else every other one that has it."""
    if name in (own := _built_in(kind)):
        return [EntryPoint(name, own[name], kind)]
    return [each for each in _entry_points(kind) if each.name == name]


@cache
def _entry_points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"pyrovae.{kind}"))


def _of(entry_point: EntryPoint) -> str:
    package = entry_point.dist
    return f"package {package.name} {package.version}" if package else f"module {entry_point.module}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _singular(kind: str) -> str:
    return {"datasets": "data set"}.get(kind, kind.removesuffix("s"))
