"""Names of parts: those of this package, and those that other packages add by entry points.

A recipe holds names and never a path to import, so that to read one runs no code but what is installed. No
torch here: a name is known before what it stands for is imported.

A package adds parts of its own in its ``pyproject.toml``, a group for each kind::

    [project.entry-points."pyrovae.priors"]
    Horseshoe = "my_package.priors:Horseshoe"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, getdoc, signature
from typing import Any

from pyrovae.core.checks import choose

__all__ = [
    "KINDS",
    "NAMES",
    "canonical",
    "describe",
    "find",
    "keywords",
    "names",
    "package_of",
    "plug_ins",
    "reference",
    "register",
]

_PARTS: dict[str, tuple[str, str]] = {
    "priors": (
        "pyrovae.models.priors",
        "StandardNormal Normal Laplace StudentT GaussianMixture VampPrior Dirichlet LogisticNormal "
        "UniformSphere Bernoulli AutoregressiveBernoulli Categorical AutoregressiveCategorical "
        "RelaxedCategorical",
    ),
    "likelihoods": (
        "pyrovae.models.likelihoods",
        "Bernoulli ContinuousBernoulli Beta Categorical DiscretizedLogistic Normal Laplace StudentT Binomial "
        "Poisson NegativeBinomial ZeroInflatedNegativeBinomial Multinomial",
    ),
    "guides": (
        "pyrovae.models.guides",
        "Normal LowRankNormal FullRankNormal GaussianMixture Flow Delta LogNormal Dirichlet LogisticNormal "
        "PowerSpherical Bernoulli Categorical RelaxedCategorical StraightThrough Widened Defensive Refined",
    ),
    "flows": ("pyrovae.models.flows", "MAF IAF NSF RealNVP NICE"),
    "networks": (
        "pyrovae.models.networks",
        "MLP GatedMLP ConvEncoder ConvDecoder ResidualEncoder ResidualDecoder",
    ),
    "activations": ("torch.nn", "ReLU Tanh SiLU GELU ELU LeakyReLU Softplus Sigmoid"),
    "objectives": (
        "pyrovae.objectives",
        "ELBO IWAE Renyi MIWAE CIWAE PIWAE WakeSleep TVO",
    ),
    "terms": ("pyrovae.objectives", "kl_weight free_bits capacity total_correlation mmd"),
    "weights": ("pyrovae.objectives", "warmup cyclical"),
    "optimizers": ("torch.optim", "Adam AdamW Adamax NAdam RAdam RMSprop Adagrad SGD"),
    "schedules": ("pyrovae.training.optimisers", "constant cosine burda"),
}
"""By kind, the module and the names in it. No code outside this package and torch is reached by a name."""

_ALSO = {
    ("priors", "MAF"): "pyrovae.models.flows:MAF",
    ("priors", "NSF"): "pyrovae.models.flows:NSF",
    ("priors", "RealNVP"): "pyrovae.models.flows:RealNVP",
    ("guides", "MAF"): "pyrovae.models.flows:MAF",
    ("guides", "NSF"): "pyrovae.models.flows:NSF",
    ("objectives", "Trace_ELBO"): "pyro.infer:Trace_ELBO",
    ("objectives", "TraceMeanField_ELBO"): "pyro.infer:TraceMeanField_ELBO",
}
"""Parts under another kind than their module's."""

_REFERENCES = {
    ("priors", "RealNVP"): "arXiv:1605.08803",  # Dinh et al., 2017; zuko names the one before it first
    ("objectives", "Trace_ELBO"): "arXiv:1301.1299",  # Wingate and Weber, 2013
    ("objectives", "TraceMeanField_ELBO"): "arXiv:1312.6114",  # Kingma and Welling, 2014, appendix B
}
"""Of parts of other packages, whose docstrings have none, or another."""

KINDS = (*_PARTS, "datasets")
"""What has names; a package's entry points of a kind are the group ``pyrovae.<kind>``."""

_registered: dict[tuple[str, str], Callable[..., Any]] = {}


def names(kind: str) -> list[str]:
    """All names of a kind, this package's first.

    Example:
        >>> names("weights")
        ['warmup', 'cyclical']
    """
    mine = [name for of, name in _registered if of == kind]
    return list(dict.fromkeys([*_built_in(kind), *mine, *(each.name for each in _entry_points(kind))]))


def canonical(kind: str, name: str) -> str:
    """The name as it is registered: case, dashes and underscores are free. Imports nothing of it.

    Raises:
        ValueError: No such name; it says what was probably meant.

    Example:
        >>> canonical("priors", "vamp-prior")
        'VampPrior'
        >>> canonical("priors", "VampPriro")
        Traceback (most recent call last):
        ValueError: unknown prior 'VampPriro': did you mean 'VampPrior'?
    """
    known = names(kind)
    alike = {_plain(each): each for each in reversed(known)}  # of two that are alike the first is meant
    if name in known:
        return name
    if _plain(name) in alike:
        return alike[_plain(name)]
    return choose(_single(kind), name, known)


def find(kind: str, name: str) -> Callable[..., Any]:
    """What a name stands for, a class or a function, imported now.

    Raises:
        ValueError: No such name, or two packages that both have it.
        ImportError: What it stands for cannot be imported; it says whose it is and what to do.
    """
    name = canonical(kind, name)
    if (kind, name) in _registered:
        return _registered[kind, name]
    if name in (built_in := _built_in(kind)):
        module, attribute = built_in[name].split(":")
        return getattr(import_module(module), attribute)
    first, *others = [each for each in _entry_points(kind) if each.name == name]
    if others:
        raise ValueError(
            f"{_single(kind)} '{name}' is in {_of(first)} and in {_of(others[0])}: uninstall one of them"
        )
    try:
        return first.load()
    except Exception as error:  # whatever a plug-in does when it is imported
        raise ImportError(
            f"{_single(kind)} '{name}' of {_of(first)} cannot be imported "
            f"({type(error).__name__}: {' '.join(str(error).split())}): mend or uninstall that package; "
            f"other names work without it"
        ) from error


def package_of(kind: str, name: str) -> tuple[str, str] | None:
    """The package that a name is of and its version; None where it is this one, or no package's."""
    if (kind, name) in _registered or name in _built_in(kind):
        return None
    found = [each.dist for each in _entry_points(kind) if each.name == name and each.dist is not None]
    return (found[0].name, found[0].version) if found else None


def register(kind: str, name: str, make: Callable[..., Any]) -> None:
    """Give a part of one's own a name in this process; a package does it by an entry point.

    Args:
        kind: One of :data:`KINDS`.
        name: No name that is taken.
        make: The class or function that makes the part. Of "datasets", a function of root,
            binarisation, dequantise and seed that returns a :class:`pyrovae.datasets.Dataset`.

    Raises:
        ValueError: Another kind, or a name that is taken.

    Example:
        >>> from pyrovae.models.priors import StudentT
        >>> register("priors", "Cauchy", lambda dim: StudentT(dim, df=1.0))
        >>> "Cauchy" in names("priors")
        True
        >>> del _registered["priors", "Cauchy"]
    """
    choose("kind of part", kind, KINDS)
    if _plain(name) in map(_plain, names(kind)) and (kind, name) not in _registered:
        raise ValueError(f"there is a {_single(kind)} '{canonical(kind, name)}' already: use another name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"'{name}' is no name: letters, digits, dashes and underscores, a letter first")
    _registered[kind, name] = make


def plug_ins() -> Iterator[tuple[str, str]]:
    """Kind and name of each part that other packages add."""
    for kind in KINDS:
        for each in _entry_points(kind):
            yield kind, each.name


def describe(kind: str, name: str) -> str:
    """The first sentence of the part's docstring, or why it cannot be had."""
    if kind == "datasets" and name in NAMES:
        return NAMES[name]
    try:
        text = getdoc(find(kind, name)) or ""
    except (ImportError, ValueError) as error:
        return str(error)
    first = re.sub(r":\w+:`[^`]*?(\w+)`", r"\1", " ".join(text.split("\n\n")[0].split()))
    return first.split(". ")[0].removesuffix(".")


def reference(kind: str, name: str) -> str:
    """The first arXiv number, DOI or address in the part's References; nothing where there is none.

    Example:
        >>> reference("priors", "VampPrior"), reference("datasets", "mnist")
        ('arXiv:1705.07120', 'doi:10.1109/5.726791')
    """
    if kind == "datasets" and name in NAMES:
        return REFERENCES.get(name, "")
    if (kind, name) in _REFERENCES:
        return _REFERENCES[kind, name]
    try:
        text = getdoc(find(kind, name)) or ""
    except (ImportError, ValueError):
        return ""
    _, _, listed = text.partition("References:")
    found = re.search(r"arXiv:[\w.]+\d|doi:\S+\w|https?://\S+\w", listed.partition("\n\n")[0])
    return re.sub(r"https?://arxiv\.org/abs/", "arXiv:", found[0]) if found else ""


def keywords(kind: str, name: str) -> str:
    """The arguments with their defaults, as its constructor has them; nothing where they cannot be had.

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
    """Where each name of this package is."""
    if kind == "datasets":
        return {name: f"pyrovae.data.datasets:{name}" for name in NAMES}
    module, listed = _PARTS[kind]
    also = {name: where for (of, name), where in _ALSO.items() if of == kind}
    return {name: f"{module}:{name}" for name in listed.split()} | also


@cache
def _entry_points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"pyrovae.{kind}"))


def _of(entry_point: EntryPoint) -> str:
    of = entry_point.dist
    return f"package {of.name} {of.version}" if of is not None else f"module {entry_point.module}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _single(kind: str) -> str:
    return {"datasets": "data set"}.get(kind, kind.removesuffix("s"))


NAMES = {
    "mnist-mini": "the first 7,000 digits of MNIST, in the package",
    "mnist": "MNIST, by torchvision",
    "static-mnist": "Larochelle and Murray's fixed binarisation of MNIST",
    "linear-gaussian": "synthetic real numbers, log p(x) known exactly",
    "shards": "files of rows in train, validation and test of the root folder, larger than memory",
}
"""Every data set of this package, by the name :func:`pyrovae.datasets.load` knows it under."""

REFERENCES = {
    "mnist-mini": "doi:10.1109/5.726791",  # LeCun et al., Gradient-Based Learning, 1998
    "mnist": "doi:10.1109/5.726791",
    "static-mnist": "www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
    "linear-gaussian": "doi:10.1111/1467-9868.00196",  # Tipping and Bishop, Probabilistic PCA, 1999
}
"""Where each is from; what the user wrote, such as shards, is from nowhere."""
