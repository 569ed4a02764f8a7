"""Whether a step of training would reach the parameters, looked at without touching them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae.core.modules import Program, modules_of
from pyrovae.core.programs import Site, log_density, sample_sites, traces
from pyrovae.core.supports import is_delta
from pyrovae.testing.densities import Finding
from pyrovae.testing.programs import Arguments, one_line

__all__ = ["check_gradients"]


def check_gradients(model: Program, guide: Program, given: Arguments) -> list[Finding]:
    """The guide's draws carry gradients to the model and back, and a loss reaches the parameters.

    Raises:
        ValueError: Draws that should carry a gradient and do not, or that the model cuts off; no
            parameter of the guide gets a gradient; one is not finite.
    """
    with one_line(), poutine.trace(param_only=True) as met, torch.enable_grad():
        guide_trace, model_trace = traces(model, guide, *given)
        found = [_check_draws(site, model_trace) for site in sample_sites(guide_trace) if _pathwise(site)]
        sites = [*sample_sites(guide_trace), *sample_sites(model_trace)]
        if not all(log_density(site).isfinite().all() for site in sites):
            text = "the ELBO of this batch is not finite, and its gradient was not looked at"
            return [*found, Finding("parameters", text, False)]
        loss = Trace_ELBO().differentiable_loss(model, guide, *given[0], **given[1])
    parameters = _parameters(model, guide, met.trace)
    if not torch.is_tensor(loss) or not loss.requires_grad or not parameters:
        return [
            *found,
            Finding(
                "parameters", "none are in sight: networks of a plain function are not looked into", False
            ),
        ]
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    by_name = dict(zip(parameters, gradients, strict=True))
    for name, gradient in by_name.items():
        if gradient is not None and not gradient.isfinite().all():
            raise ValueError(
                f"parameter {name}: the gradient of Trace_ELBO is not finite: look for a root, a log or a "
                f"norm at nought, or a scale that can reach it"
            )
    without = [name for name, gradient in by_name.items() if gradient is None or not gradient.any()]
    guides = [name for name in by_name if name.startswith("guide ")]
    if guides and set(guides) <= set(without):
        raise ValueError(
            f"no parameter of the guide gets a gradient from Trace_ELBO, {guides[0]} for one: take "
            f".detach(), .data and torch.no_grad() out of the guide"
        )
    if without:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        return [*found, Finding("parameters", f"no gradient of Trace_ELBO for {shown}", False)]
    return [*found, Finding("parameters", f"all {len(by_name)} get a finite gradient of Trace_ELBO", True)]


def _pathwise(site: Site) -> bool:
    return site["fn"].has_rsample and not site["is_observed"] and not site["infer"].get("is_auxiliary")


def _check_draws(site: Site, model_trace: poutine.Trace) -> Finding:
    """One site of the guide: parameters reach its draws, and its draws reach what the model makes of them."""
    where, value = f"site '{site['name']}' of the guide", site["value"]
    if not value.requires_grad:
        log_prob = site["fn"].log_prob(value.detach())
        if is_delta(site["fn"]) or not log_prob.requires_grad:
            return Finding(where, "its draws depend on no parameter", False)
        raise ValueError(
            f"{where}: its distribution has_rsample, and its draws carry no gradient: let rsample() compute "
            f"them from the parameters without .detach() or no_grad, or set has_rsample = False"
        )
    others = [each for each in sample_sites(model_trace) if each["name"] != site["name"]]
    total = sum((log_density(each).sum() for each in others), torch.zeros(()))
    reached = None
    if total.requires_grad:
        (reached,) = torch.autograd.grad(total, value, allow_unused=True, retain_graph=True)
    if reached is None:
        raise ValueError(
            f"{where}: no gradient of the model's other sites comes back to its draws: take .detach(), .data "
            f"and torch.no_grad() out of what the model makes of '{site['name']}'"
        )
    return Finding(where, "gradients pass through its draws", True)


def _parameters(model: Program, guide: Program, met: poutine.Trace) -> dict[str, Tensor]:
    """Leaves by name: of modules, then those that pyro.param made. The guide's own come first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for whose, program in (("guide", guide), ("model", model)):
        for module in modules_of(program, program)[:1]:
            for name, parameter in module.named_parameters():
                found.setdefault(id(parameter), (f"{whose} '{name}'", parameter))
    for name, site in met.nodes.items():
        value: Any = site["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        found.setdefault(id(leaf), (f"'{name}'", leaf))
    return {name: leaf for name, leaf in found.values() if leaf.requires_grad and leaf.is_leaf}
