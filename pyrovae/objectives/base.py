r"""Bounds as functions of each datum's log-weights, and the estimators of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.clock import Clock
from pyrovae.core.context import in_parts
from pyrovae.core.modules import Program, modules_by_name
from pyrovae.core.programs import (
    Structure,
    check_same_densities,
    plain_errors,
    sample_sites,
    structure_of,
    traces,
)
from pyrovae.core.random import stream
from pyrovae.core.scoring import expand_to_site
from pyrovae.core.supports import is_delta
from pyrovae.objectives.draws import Draws, draw
from pyrovae.objectives.terms import Term

__all__ = ["Bound", "Objective"]

ESTIMATORS = ("standard", "stl", "dreg", "score", "vimco")


class Objective(ELBO):
    """A negative objective as a Pyro ELBO: for SVI, as a module for torch's optimisers, and for fit.

    A subclass has ``_estimate``, which returns the objective's value, a surrogate whose gradient is that of
    the estimator, both summed over the batch, and their scale.

    Args:
        num_particles: Draws per datum, in one vectorised pass.
    """

    def __init__(self, num_particles: int) -> None:
        check_count(f"{type(self).__name__}: num_particles", num_particles)
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.clock = Clock()
        self._known: tuple[list[int], Structure, Any] | None = None

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The negative objective, scaled as the plate says; its gradient is the estimator's."""
        structure = self._structure(model, guide, args, kwargs)
        value, surrogate, scale = self._estimate(model, guide, args, kwargs, structure)
        if torch.is_grad_enabled():
            self.tick()
        return -scale * (value + surrogate - surrogate.detach())

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative objective without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative objective, with its gradient added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def tick(self) -> None:
        """Count a step."""
        self.clock = self.clock.ticked()

    def _estimate(
        self, model: Program, guide: Program, args: Any, kwargs: Any, structure: Structure
    ) -> tuple[Tensor, Tensor, float]:
        raise NotImplementedError

    def _check_draws(self, guide_trace: poutine.Trace) -> None:
        """Refuse sites for which the objective has no gradient."""

    def _scores_again(self) -> bool:
        """Whether the guide runs a second time, on its own draws."""
        return True

    def _structure(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
        """The pair's structure, found and checked at the first call."""
        key = [id(part) for part in (model, guide, *modules_by_name(model, guide).values())]
        if self._known is None or self._known[0] != key:
            with stream("structure"), torch.no_grad(), poutine.block(), plain_errors():
                guide_trace, model_trace = traces(model, guide, args, kwargs)
                structure = structure_of(guide_trace, model_trace, bound=True)
                if self._scores_again():
                    again = poutine.trace(poutine.replay(guide, trace=guide_trace))
                    check_same_densities(guide_trace, again.get_trace(*args, **kwargs))
            for site in sample_sites(guide_trace):
                if is_delta(site["fn"]) and not site["is_observed"] and self._scores_again():
                    raise ValueError(
                        f"{type(self).__name__}: site '{site['name']}' is a point, whose density has no "
                        f"gradient: use Trace_ELBO, or a guide of some width"
                    )
            self._check_draws(guide_trace)
            self._known = key, structure, (model, guide)  # kept alive, so that ids stay unique
        return self._known[1]

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        guide_trace, model_trace = traces(model, guide, args, kwargs)
        return model_trace, guide_trace


class Bound(Objective):
    r"""A bound that is a function of each datum's log-weights; base class of those in this package.

    .. math:: \mathcal L = \sum_i \frac NB \, R(\log w_{1i}, \dots, \log w_{Si})

    A subclass gives R as ``bound(log_weights)``, and the weights of the gradient where they are not
    R's own derivatives. Estimators of the gradient with respect to the guide:

    - "standard": through the draws and the score of q.
    - "stl": through the draws alone, "sticking the landing"; biased where S > 1 but for the mean.
    - "dreg": doubly reparameterised, where the bound has it.
    - "score": the score function with a leave-one-out baseline, for draws without gradients.
    - "vimco": the same with the left-out weight replaced by the geometric mean of the others.

    Args:
        num_particles: Draws per datum, S.
        gradient: One of the estimators.
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    References:
        Roeder et al., Sticking the Landing, 2017. arXiv:1703.09194; Tucker et al., Doubly
        Reparameterized Gradient Estimators, 2018. arXiv:1810.04152; Mnih and Rezende, Variational
        Inference for Monte Carlo Objectives, 2016. arXiv:1602.06725
    """

    gradients: tuple[str, ...] = ESTIMATORS

    def __init__(self, num_particles: int, *, gradient: str = "standard", terms: Sequence[Term] = ()) -> None:
        name = type(self).__name__
        if gradient not in self.gradients:
            raise ValueError(f"{name}: gradient is '{gradient}', it has {', '.join(self.gradients)}")
        if gradient == "vimco" and num_particles < 2:
            raise ValueError(f"{name}: vimco leaves one draw out, so num_particles must be at least 2")
        super().__init__(num_particles)
        _check_terms(name, terms)
        self.gradient, self.terms = gradient, tuple(terms)

    def bound(self, log_weights: Tensor) -> Tensor:
        """R: ``[..., S, batch]`` log-weights to ``[..., batch]``."""
        raise NotImplementedError

    def guide_weights(self, log_weights: Tensor) -> Tensor | None:
        """The weight of each draw in the guide's gradient, if it is not R's derivative."""
        return None

    def path_weights(self, log_weights: Tensor) -> Tensor:
        """The weight of each path in the doubly reparameterised gradient: ``[S, batch]``."""
        raise NotImplementedError

    def _estimate(
        self, model: Program, guide: Program, args: Any, kwargs: Any, structure: Structure
    ) -> tuple[Tensor, Tensor, float]:
        graph = torch.is_grad_enabled()
        score = "path" if graph and self.gradient in ("stl", "dreg") else "natural"
        paths = (
            _Paths(structure) if graph and (self.gradient == "dreg" or self._has_guide_weights()) else None
        )

        def scored(**keywords: Any) -> Draws:
            return draw(model, guide, args, kwargs, structure, self.num_particles, score=score, **keywords)

        drawn = scored(through=paths.through if paths else None)
        # Terms outside the bound have gradients of their own, through the plain draws.
        whole = scored(drawn=drawn.drawn) if paths and (self.terms or drawn.outside is not None) else drawn
        shaped, of_batch = self._shaped(whole)
        value, surrogate = self._surrogate(drawn, paths, shaped.outside)
        added = shaped.outside_mean() + of_batch
        return value + added.detach(), surrogate + added, drawn.scale

    def _shaped(self, drawn: Draws) -> tuple[Draws, Tensor]:
        """The draws with the terms of each draw and datum added outside, and the sum of the other terms."""
        outside, of_batch = drawn.outside, drawn.log_q.new_zeros(())
        for term in self.terms:
            added = term(drawn, self.clock)
            if added.dim():
                outside = added if outside is None else outside + added
            elif in_parts.get():
                raise ValueError(
                    f"{type(self).__name__}: a term such as free_bits, capacity, total_correlation or mmd is "
                    f"of a whole batch, and each process has a part of it: train by one process, or use "
                    f"kl_weight"
                )
            elif self.gradient in ("score", "vimco") and drawn.log_score is not None:
                raise ValueError(
                    f"{type(self).__name__}: gradient='{self.gradient}' goes with kl_weight alone: for the "
                    f"other terms draw by guides.StraightThrough, and use gradient='standard'"
                )
            else:
                of_batch = of_batch + added
        return drawn._replace(outside=outside), of_batch

    def _scores_again(self) -> bool:
        return self.gradient in ("stl", "dreg")

    def _has_guide_weights(self) -> bool:
        """Whether the guide's bound differs from the model's."""
        return type(self).guide_weights is not Bound.guide_weights

    def _surrogate(self, drawn: Draws, paths: _Paths | None, outside: Tensor | None) -> tuple[Tensor, Tensor]:
        """The bound and its surrogate, summed over the batch."""
        log_joint = drawn.log_likelihood + drawn.log_prior
        weights = (log_joint - drawn.log_q).detach().requires_grad_()
        with torch.enable_grad():
            value = self.bound(weights)
            (of_model,) = torch.autograd.grad(value.sum(), weights)
        weights, value = weights.detach(), value.detach()
        surrogate = _weighted_sum(of_model, log_joint)
        of_guide = self.guide_weights(weights)
        of_guide = of_model if of_guide is None else of_guide
        if self.gradient != "dreg":  # natural, or for "stl" through the paths
            surrogate = surrogate - _weighted_sum(of_guide, drawn.log_q)
        if paths:
            of_paths = self.path_weights(weights) if self.gradient == "dreg" else of_guide
            # Of PIWAE the guide's weights are not the model's: dividing one by the other would overflow.
            moved = log_joint - drawn.log_q if self.gradient != "standard" else log_joint
            surrogate = surrogate + paths.weighted_sum(moved, of_paths)
        if drawn.log_score is not None and self.gradient in ("score", "vimco"):
            surrogate = surrogate + (self._signals(weights, outside) * drawn.log_score).sum()
        return value.sum(), surrogate

    def _signals(self, weights: Tensor, outside: Tensor | None) -> Tensor:
        """What each draw adds to the bound of the others: ``[S, batch]``."""
        num = len(weights)
        extra = torch.zeros_like(weights) if outside is None else outside.detach().expand_as(weights)
        if num == 1:
            return self.bound(weights)[None] + extra
        others = ~torch.eye(num, dtype=torch.bool, device=weights.device)
        rest = weights.expand(num, *weights.shape)[others].reshape(num, num - 1, -1)
        if self.gradient == "vimco":
            replaced = torch.where(others[..., None], weights, rest.mean(1, keepdim=True))
            baseline = self.bound(replaced)
        else:
            baseline = self.bound(rest)
        extra = extra / num - (extra.sum(0) - extra) / (num - 1) / num
        return self.bound(weights) - baseline + extra

    def _check_draws(self, guide_trace: poutine.Trace) -> None:
        if self.gradient in ("score", "vimco"):
            return
        for site in sample_sites(guide_trace):
            if not site["is_observed"] and not site["fn"].has_rsample:
                fitting = [each for each in ("vimco", "score") if each in self.gradients]
                usable = f"gradient='{fitting[0]}'" if fitting else "IWAE with gradient='vimco'"
                raise ValueError(
                    f"{type(self).__name__}: site '{site['name']}': its draws carry no gradient, which "
                    f"gradient='{self.gradient}' goes through: use {usable}"
                )


class _Cut(torch.autograd.Function):
    """The identity, whose gradient can be asked for and is not passed on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


class _Paths:
    """Draws cut off from the guide on their way into the densities, to weight each path's gradient."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.cuts: list[tuple[Tensor, Tensor, int]] = []

    def through(self, value: Tensor, event_dim: int) -> Tensor:
        """The draws, from which no gradient returns to the guide."""
        if not value.requires_grad:
            return value
        cut = _Cut.apply(value)
        self.cuts.append((value, cut, event_dim))
        return cut

    def weighted_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """A sum with the gradient of ``(weights * values).sum()`` through the draws alone."""
        if not self.cuts:
            return values.new_zeros(())
        cuts = [cut for _, cut, _ in self.cuts]
        gradients = torch.autograd.grad(values.sum(), cuts, retain_graph=True, allow_unused=True)
        return sum(
            (
                _weighted_sum(self._shaped(weights, gradient.dim(), event_dim), gradient * value)
                for (value, _, event_dim), gradient in zip(self.cuts, gradients, strict=True)
                if gradient is not None
            ),
            values.new_zeros(()),
        )

    def _shaped(self, weights: Tensor, rank: int, event_dim: int) -> Tensor:
        """The weights, with draws and data in the dims of a site's value."""
        factors = expand_to_site(weights, self.structure, event_dim)
        return factors.reshape(factors.shape[-rank:])  # without the dims that the value does not have


def _check_terms(name: str, terms: Any) -> None:
    try:
        for term in terms:
            signature(term).bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"{name}: terms is a list of kl_weight(...), free_bits(...) and their like; a schedule goes into "
            f"one, kl_weight(warmup(500))"
        ) from error


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """The sum of products, in which zero times minus infinity is zero."""
    return torch.where(weights == 0, torch.zeros_like(weights), weights * values).sum()
