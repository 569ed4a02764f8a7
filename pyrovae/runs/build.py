"""From a recipe to the VAE and the keywords of fit, with each part made from its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.core import registry
from pyrovae.core.checks import choose
from pyrovae.core.wrap import as_pyro
from pyrovae.data import datasets
from pyrovae.models.vae import VAE, Model
from pyrovae.runs.named import NESTED, PartSpec
from pyrovae.runs.recipe import Recipe

__all__ = ["Offered", "build", "filled", "load_data", "make", "training"]

CONTEXT = 64
"""Width of a flow's context, unless the recipe gives it."""

PSEUDO_INPUTS = 500
"""Rows of training data that a VampPrior starts from, unless the recipe gives the number."""


def build(recipe: Recipe, features: int, shape: tuple[int, ...] | None = None, data: Any = None) -> VAE:
    """The VAE of a recipe, with fresh weights from torch's generator.

    A part gets the recipe's keywords. Its other arguments are filled by their names: "dim" with the width of
    z, "features" with that of x (for a flow, of z), "net" with the encoder or decoder, "guide", "prior" and
    "model" with those of this VAE, "pseudo_inputs" with rows of data. A guide's static method
    ``net_width(dim, ...)``, or a likelihood's ``net_width(features, ...)``, gives the width of its network's
    output; it may take the part's keywords too.

    Args:
        recipe: The recipe.
        features: Number of features of a datum.
        shape: Shape of a datum as an image, for convolutions.
        data: The training split, for weights that start from data; not needed before loading weights.

    Raises:
        ValueError: A part does not take a keyword, needs another, or refuses a value.
        ImportError: A part cannot be imported.

    Example:
        >>> vae = build(Recipe(latent_dim=2, hidden=(8,)), features=9)
        >>> vae.sample(3).shape
        torch.Size([3, 9])
    """
    parts = _Parts(recipe, features, shape, data)
    return VAE(parts.prior, parts.likelihood, parts.guide)


def training(recipe: Recipe, num_data: int) -> dict[str, Any]:
    """The keywords of :func:`pyrovae.fit` by a recipe, for ``num_data`` rows of training data.

    Example:
        >>> sorted(training(Recipe(), num_data=5000))
        ['batch_size', 'compile', 'loss', 'num_epochs', 'optimizer', 'precision', 'seed']
    """
    keywords = {
        "loss": make("objectives", recipe.objective, {"num_data": lambda: num_data}),
        "optimizer": _optimizer(recipe),
        "num_epochs": recipe.num_epochs,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "compile": recipe.compile,
        "seed": recipe.seed,
    }
    if recipe.schedule != PartSpec("constant"):
        factor = make("schedules", recipe.schedule, {"num_epochs": lambda: recipe.num_epochs})
        keywords["scheduler"] = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=factor)
    return keywords


def load_data(recipe: Recipe, root: str | os.PathLike[str] | None = None) -> datasets.Dataset:
    """The data set of a recipe; ``root`` is that of :func:`pyrovae.datasets.load`."""
    return datasets.load(recipe.dataset, root, binarisation=recipe.binarisation, dequantise=recipe.dequantise)


class _Parts:
    """The parts of one VAE, each made once, when another part needs it."""

    def __init__(self, recipe: Recipe, features: int, shape: tuple[int, ...] | None, data: Any) -> None:
        self.recipe, self.features, self.shape, self.data = recipe, features, shape, data
        self._under_way: list[str] = []

    @cached_property
    def prior(self) -> Any:
        offered: dict[str, Callable[[], Any]] = {
            "dim": lambda: self.recipe.latent_dim,
            "features": lambda: self.recipe.latent_dim,
            "guide": lambda: self.guide,
            "pseudo_inputs": lambda: self._rows(PSEUDO_INPUTS),
        }
        with self._making(f"prior {self.recipe.prior.name}"):
            return self._made("priors", self.recipe.prior, offered)

    @cached_property
    def likelihood(self) -> Any:
        width = {"features": lambda: self.features}
        net = partial(self._net, "likelihoods", self.recipe.likelihood, width)
        mean = {} if self.data is None else {"data_mean": lambda: self.data.mean}
        return self._made("likelihoods", self.recipe.likelihood, {**width, "net": net, **mean})

    @cached_property
    def guide(self) -> Any:
        with self._making(f"guide {self.recipe.guide.name}"):
            return self._guide(self.recipe.guide)

    @cached_property
    def dim(self) -> int:
        """Width of z: the prior's own, or the recipe's for a prior that is made from the guide."""
        of_guide = "guide" in signature(registry.find("priors", self.recipe.prior.name)).parameters
        return self.recipe.latent_dim if of_guide else as_pyro(self.prior()).event_shape.numel()

    def _guide(self, named: PartSpec) -> Any:
        width: dict[str, Callable[[], Any]] = {"dim": lambda: self.dim, "context": lambda: _context(named)}
        offered: dict[str, Callable[[], Any]] = {
            "dim": lambda: self.dim,
            "features": lambda: self.dim,
            "context": lambda: self.features,
            "net": partial(self._net, "guides", named, width),
            "flow": lambda: self._flow(PartSpec("IAF")),
            "prior": lambda: self.prior,
            "model": lambda: Model(self.prior, self.likelihood),
            "guide": lambda: self._guide(PartSpec("Normal")),
            "num_categories": partial(self._of_prior, "num_categories"),
        }
        return self._made("guides", named, offered)

    def _flow(self, named: PartSpec) -> Any:
        return make("flows", named, {"features": lambda: self.dim, "context": lambda: CONTEXT})

    def _net(self, kind: str, owner: PartSpec, width: Offered) -> nn.Module:
        """The encoder of a guide, or the decoder of a likelihood, as wide as its owner needs."""
        recipe, encodes = self.recipe, kind == "guides"
        named = recipe.encoder if encodes else recipe.decoder
        offered: dict[str, Callable[[], Any]] = {
            "in_features": lambda: self.features if encodes else self.dim,
            "hidden": lambda: recipe.hidden if encodes else recipe.hidden[::-1],
        }
        rule = getattr(registry.find(kind, owner.name), "net_width", None)
        if rule is not None:
            outputs = rule(**filled(f"{owner.name}.net_width", rule, owner.keywords, width, some=True))
            offered |= {"out_features": lambda: outputs, "parameters": lambda: outputs // self.features}
        elif "out_features" not in named.keywords:
            raise ValueError(
                f"{kind.removesuffix('s')} '{owner.name}' does not say how wide its network is: give its "
                f"class a static method net_width, or the recipe's network out_features"
            )
        if self.shape is not None:
            offered["shape"] = lambda: self.shape
        return make("networks", named, offered)

    def _of_prior(self, name: str) -> Any:
        if name not in self.recipe.prior.keywords:
            raise ValueError(f"guide '{self.recipe.guide.name}' needs {name}=, and the prior has none")
        return self.recipe.prior.keywords[name]

    def _made(self, kind: str, named: PartSpec, offered: Offered) -> Any:
        """Make a part whose arguments may be other parts of this VAE."""
        for key in ("net", "prior", "model"):
            if key in named.keywords:
                raise ValueError(f"{named.name}: {key} is that of the recipe: leave it out")
        return make(kind, named, offered, self._converted)

    @contextmanager
    def _making(self, label: str) -> Iterator[None]:
        """Refuse parts that need one another."""
        if label in self._under_way:
            raise ValueError(f"{' is made of '.join([*self._under_way, label])}: choose another for one")
        self._under_way.append(label)
        try:
            yield
        finally:
            self._under_way.pop()

    def _converted(self, key: str, value: Any) -> Any:
        others = {"guide": self._guide, "flow": self._flow, "pseudo_inputs": self._rows}
        return others[key](value) if key in others else value

    def _rows(self, count: Any) -> Tensor:
        """The first rows of the training data; zeros without data, before weights are loaded."""
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"pseudo_inputs is {count!r}: give how many rows of the training data")
        if self.data is None:
            return torch.zeros(count, self.features)
        if count > len(self.data):
            raise ValueError(f"pseudo_inputs is {count:,}, and there are {len(self.data):,} rows: give fewer")
        with self.data.drawing("pseudo-inputs", self.recipe.seed):
            return self.data[:count]


def _context(named: PartSpec) -> int:
    flow = named.keywords.get("flow")
    return flow.keywords.get("context", CONTEXT) if isinstance(flow, PartSpec) else CONTEXT


def _optimizer(recipe: Recipe) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    made = registry.find("optimizers", recipe.optimizer.name)
    label = f"optimizer '{recipe.optimizer.name}'"
    if "lr" in recipe.optimizer.keywords:
        raise ValueError(f"{label}: lr is the recipe's learning_rate: give it there")
    # Fused is one kernel for the whole step; plainer forms are a choice that the recipe may make.
    plain = {"fused", "foreach", "capturable", "differentiable"} & recipe.optimizer.keywords.keys()
    fused: Offered = {} if plain else {"fused": lambda: True}
    offered = {"params": lambda: None, "lr": lambda: recipe.learning_rate, **fused}
    keywords = filled(label, made, recipe.optimizer.keywords, offered)
    return lambda parameters: made(**{**keywords, "params": parameters})


Offered = Mapping[str, Callable[[], Any]]
"""For each argument, a function that makes its value if the recipe does not give it."""

ONLY_PARTS = ("activation", "flow", "guide", "terms")
"""Keywords that take parts only."""


def make(
    kind: str,
    named: PartSpec,
    offered: Offered,
    convert: Callable[[str, Any], Any] = lambda key, value: value,
) -> Any:
    """Make a part of a kind, and the parts inside it.

    Arguments come from its keywords, or else from `offered`; `convert` handles keywords that depend on the
    other parts of a VAE.
    """
    made = registry.find(kind, named.name)
    label = f"{kind.removesuffix('s')} '{named.name}'"
    arguments = filled(label, made, named.keywords, offered)
    for key, value in named.keywords.items():
        arguments[key] = _inside(label, key, value, offered, convert)
    try:
        return made(**arguments)
    except TypeError as error:
        raise ValueError(f"{label}: {error}") from error


def filled(
    label: str, made: Callable[..., Any], given: Mapping[str, Any], offered: Offered, some: bool = False
) -> dict[str, Any]:
    """The given keywords, and what is offered for the other arguments of a callable.

    A keyword that it does not take is left out if `some`, and an error otherwise; so is an argument for which
    nothing is given or offered.
    """
    taken = signature(made).parameters
    arguments = {
        name: each
        for name, each in taken.items()
        if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    if some:
        given = {key: value for key, value in given.items() if key in arguments}
    elif not any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
        for key in given:
            choose(f"keyword of {label}", key, arguments)
    found = {key: fill() for key, fill in offered.items() if key in arguments and key not in given}
    found |= given
    for name, each in arguments.items():
        if name not in found and each.default is Parameter.empty:
            raise ValueError(f"{label} needs {name}: give it with the name, as Name({name}=...)")
    return found


def _inside(label: str, key: str, value: Any, offered: Offered, convert: Callable[[str, Any], Any]) -> Any:
    """A keyword's value, in which parts are made."""
    several = value if isinstance(value, tuple) else (value,)
    if key in ONLY_PARTS and not all(isinstance(each, PartSpec) for each in several):
        raise ValueError(f"{label}: {key} is {value!r}: give a name, see pyrovae list {NESTED[key]}")
    if key == "terms":
        return [make("terms", each, offered) for each in several]
    if key == "activation":
        return _factory(value)
    if key in ("weight", "target") and isinstance(value, PartSpec):
        return make(NESTED[key], value, {})
    return convert(key, value)


def _factory(named: PartSpec) -> Callable[[], Any]:
    """A factory of an activation, since each layer has its own."""
    made = registry.find("activations", named.name)
    return partial(made, **filled(f"activation '{named.name}'", made, named.keywords, {}))
