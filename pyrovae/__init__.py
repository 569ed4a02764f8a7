"""Deep latent-variable models in Pyro, and a log p(x) you can defend."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyrovae.core import __version__ as __version__

if TYPE_CHECKING:
    from pyrovae import interop, models, objectives, testing
    from pyrovae.compiler.loss import compile
    from pyrovae.core import distributed, registry
    from pyrovae.data import datasets
    from pyrovae.evaluation import diagnostics, proposals
    from pyrovae.evaluation.annealing import ais_log_weights, bdmc
    from pyrovae.evaluation.bits import bits_per_dim
    from pyrovae.evaluation.certificate import Certificate
    from pyrovae.evaluation.certify import certify
    from pyrovae.evaluation.compare import Comparison, compare
    from pyrovae.evaluation.evaluate import evaluate
    from pyrovae.evaluation.importance import log_weights
    from pyrovae.evaluation.psis import expectation, psis
    from pyrovae.evaluation.results import Evaluation
    from pyrovae.evaluation.weights import elbo, ess, log_evidence, pareto_khat, standard_error
    from pyrovae.interop import hub
    from pyrovae.models import flows, guides, likelihoods, networks, priors
    from pyrovae.models.vae import VAE
    from pyrovae.reports import plots
    from pyrovae.reports.report import report
    from pyrovae.runs import recipe as recipes
    from pyrovae.runs.saving import load, save
    from pyrovae.training import callbacks, loggers
    from pyrovae.training.callbacks import KeepBest
    from pyrovae.training.fit import fit
    from pyrovae.training.history import History

_HOMES = {
    "Certificate": "evaluation.certificate",
    "Comparison": "evaluation.compare",
    "Evaluation": "evaluation.results",
    "History": "training.history",
    "KeepBest": "training.callbacks",
    "VAE": "models.vae",
    "ais_log_weights": "evaluation.annealing",
    "bdmc": "evaluation.annealing",
    "bits_per_dim": "evaluation.bits",
    "certify": "evaluation.certify",
    "compare": "evaluation.compare",
    "compile": "compiler.loss",
    "elbo": "evaluation.weights",
    "ess": "evaluation.weights",
    "evaluate": "evaluation.evaluate",
    "expectation": "evaluation.psis",
    "fit": "training.fit",
    "load": "runs.saving",
    "log_evidence": "evaluation.weights",
    "log_weights": "evaluation.importance",
    "pareto_khat": "evaluation.weights",
    "psis": "evaluation.psis",
    "report": "reports.report",
    "save": "runs.saving",
    "standard_error": "evaluation.weights",
}
"""Each public name with its module."""

_MODULES = {
    "callbacks": "training.callbacks",
    "datasets": "data.datasets",
    "diagnostics": "evaluation.diagnostics",
    "distributed": "core.distributed",
    "flows": "models.flows",
    "guides": "models.guides",
    "hub": "interop.hub",
    "interop": "interop",
    "likelihoods": "models.likelihoods",
    "loggers": "training.loggers",
    "models": "models",
    "networks": "models.networks",
    "objectives": "objectives",
    "plots": "reports.plots",
    "priors": "models.priors",
    "proposals": "evaluation.proposals",
    "recipes": "runs.recipe",
    "registry": "core.registry",
    "testing": "testing",
}
"""Each public module with its place. Imported at first use: the command line answers before torch is in."""

if "ipykernel.zmqshell" in sys.modules:  # there Pyro's import of tqdm warns where ipywidgets are missing
    import_module("pyrovae.core.progress")

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyrovae.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"pyrovae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pyrovae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
