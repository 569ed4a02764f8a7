"""Objectives with detached draws, which treat discrete and continuous sites alike."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, sample_sites
from pyrovae.core.scoring import sum_by_datum
from pyrovae.objectives.base import Objective
from pyrovae.objectives.draws import check_one_scale, draw

__all__ = ["TVO", "WakeSleep"]


class WakeSleep(Objective):
    r"""Reweighted wake-sleep: the guide learns from weighted draws, or from data that the model draws.

    .. math:: \text{model, and value: } \log \frac1S \sum_s w_s, \qquad
        \text{guide: } a \sum_s \tilde w_s \log q(z_s \mid x) + b \, E_{p(z, x')}[\log q(z \mid x')]

    with the normalised weights :math:`\tilde w`. Wake-wake is a = 1, b = 0, and wake-sleep a = 0, b = 1.
    No gradient goes through a draw. Each step draws as many rows from the model as the batch has.

    Args:
        num_particles: S, at least 2.
        wake: a.
        sleep: b; it needs a guide whose first argument is the data of the model's site.
        site: Name of the model's site of the data, for the sleep phase.

    Raises:
        ValueError: Fewer than 2 draws; a negative weight, or both zero; at the first step, a weight on the
            KL, or, for the sleep phase, several observed sites.

    References:
        Bornschein and Bengio, Reweighted Wake-Sleep, 2015. arXiv:1406.2751; Le et al., Revisiting
        Reweighted Wake-Sleep, 2019. arXiv:1805.10469

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))
        >>> x = oracle.sample(5)
        >>> loss = WakeSleep(4).loss(oracle.model, oracle.guide, x)
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    def __init__(self, num_particles: int, *, wake: float = 1.0, sleep: float = 0.0, site: str = "x") -> None:
        if num_particles < 2:
            raise ValueError(f"WakeSleep: num_particles must be at least 2, got {num_particles}")
        if min(wake, sleep) < 0 or wake + sleep == 0:
            raise ValueError(f"WakeSleep: wake and sleep must be weights, got {wake:g} and {sleep:g}")
        super().__init__(num_particles)
        self.wake, self.sleep, self.site = wake, sleep, site

    def _estimate(
        self, model: Program, guide: Program, args: Any, kwargs: Any, structure: Structure
    ) -> tuple[Tensor, Tensor, float]:
        drawn = draw(model, guide, args, kwargs, structure, self.num_particles, score="still")
        check_one_scale(type(self).__name__, drawn)
        log_joint = drawn.log_likelihood + drawn.log_prior
        log_weights = (log_joint - drawn.log_q).detach()
        normalised = log_weights.softmax(0)
        value = (log_weights.logsumexp(0) - math.log(self.num_particles)).sum()
        surrogate = (normalised * (log_joint + self.wake * drawn.log_q)).sum()
        if self.sleep and torch.is_grad_enabled():
            observed = [site for site in drawn.model_sites if site["is_observed"]]
            surrogate = surrogate + self.sleep * self._dream(model, guide, args, kwargs, structure, observed)
        outside = drawn.outside_mean()
        return value + outside.detach(), surrogate + outside, drawn.scale

    def _dream(
        self,
        model: Program,
        guide: Program,
        args: Any,
        kwargs: Any,
        structure: Structure,
        observed: list[Site],
    ) -> Tensor:
        """The sum of log q(z | x') over rows drawn from the model."""
        with torch.no_grad():
            dreamt = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
        if self.site not in dreamt.nodes:
            raise ValueError(f"WakeSleep: the model has no site '{self.site}' to dream: name it with site=")
        others = [site["name"] for site in observed if site["name"] != self.site]
        if others:
            raise ValueError(
                f"WakeSleep: the model observes '{others[0]}' besides '{self.site}', and no dream of both "
                f"teaches the guide: use sleep=0, or give '{others[0]}' as an argument and no site"
            )
        data: Any = dreamt.nodes[self.site]["value"]
        if not args or args[0].shape != data.shape:
            raise ValueError(
                f"WakeSleep: the guide's first argument is not the data of site '{self.site}', of shape "
                f"{tuple(data.shape)}: name the site with site=, or use sleep=0"
            )
        seen = poutine.trace(poutine.replay(guide, trace=dreamt)).get_trace(data, *args[1:], **kwargs)
        return sum_by_datum(list(sample_sites(seen)), structure).sum()


class TVO(Objective):
    r"""The thermodynamic variational objective, which rises from the ELBO towards log p(x).

    .. math:: \mathcal L = \sum_{k=0}^{K-1} (\beta_{k+1} - \beta_k) \, E_{\pi_{\beta_k}}\Big[\log
        \frac{p(x, z)}{q(z \mid x)}\Big], \qquad \pi_\beta \propto p(x, z)^\beta q(z \mid x)^{1 - \beta}

    The expectations are over S draws from q with normalised weights :math:`w_s^\beta`; gradients are
    covariances, and none goes through a draw. With one partition it is the ELBO, with infinitely many the
    importance-weighted bound.

    Args:
        num_particles: S, at least 2.
        num_partitions: K; betas are 0, then spread evenly in logs from ``first`` to 1.
        first: The first beta above 0.

    Raises:
        ValueError: Fewer than 2 draws; no partitions; ``first`` outside (0, 1); at the first step, a
            weight on the KL.

    References:
        Masrani et al., The Thermodynamic Variational Objective, 2019. arXiv:1907.00031

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=2.0)
        >>> x = oracle.sample(50)
        >>> one, many = (TVO(20, k).loss(oracle.model, oracle.guide, x) for k in (1, 20))
        >>> many < one
        True
    """

    def __init__(self, num_particles: int, num_partitions: int = 5, *, first: float = 0.025) -> None:
        if num_particles < 2:
            raise ValueError(f"TVO: num_particles must be at least 2, got {num_particles}")
        check_count("TVO: num_partitions", num_partitions)
        if not 0 < first < 1:
            raise ValueError(f"TVO: first must be strictly between 0 and 1, got {first:g}")
        super().__init__(num_particles)
        powers = torch.logspace(math.log10(first), 0, num_partitions, dtype=torch.float64)
        self.betas = (
            torch.cat([powers.new_zeros(1), powers]) if num_partitions > 1 else powers.new_tensor([0, 1])
        )

    def _estimate(
        self, model: Program, guide: Program, args: Any, kwargs: Any, structure: Structure
    ) -> tuple[Tensor, Tensor, float]:
        drawn = draw(model, guide, args, kwargs, structure, self.num_particles, score="still")
        check_one_scale(type(self).__name__, drawn)
        log_joint = drawn.log_likelihood + drawn.log_prior
        log_weights = log_joint - drawn.log_q
        betas = self.betas.to(log_weights.device)[:, None, None]
        normalised = (betas[:-1] * log_weights.detach()).softmax(1)
        means = (normalised * log_weights.detach()).sum(1, keepdim=True)
        # The covariance of S draws around their own mean is unbiased at beta = 0.
        freedom = self.num_particles / (self.num_particles - 1)
        away = freedom * normalised * (log_weights.detach() - means)
        surrogate = normalised * log_weights + away * (
            betas[:-1] * log_joint + (1 - betas[:-1]) * drawn.log_q
        )
        steps = betas.diff(dim=0)
        outside = drawn.outside_mean()
        value = (steps * means).sum() + outside.detach()
        return value, (steps * surrogate).sum() + outside, drawn.scale
