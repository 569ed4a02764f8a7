"""A guide whose parameters are improved for each datum by gradient steps."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.core.checks import check_count, check_positive
from pyrovae.core.context import cached
from pyrovae.core.modules import Program
from pyrovae.core.programs import log_density, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.supports import check_supports
from pyrovae.core.wrap import as_pyro
from pyrovae.models.base import Part, as_module

__all__ = ["Refined"]


class Refined(nn.Module):
    r"""Semi-amortised inference: Adam steps on each datum's parameters, starting at the network's output.

    .. math:: \lambda_0 = \mathrm{net}(x), \qquad
        \lambda_{t+1} = \lambda_t + \eta \, \nabla_\lambda \mathrm{ELBO}(x; \lambda_t)

    The gap that remains is due to the family of q and no longer to amortisation. The noise of the steps
    depends on the seed and on a datum's place in its batch alone, so q is the same at each call; at another
    place its parameters differ by that noise, which more particles reduce. In training the network gets the
    gradient at the refined parameters; derivatives of the steps are left out. Within a program, call it
    before the data plate is entered: it runs the model, which has plates.

    Args:
        guide: A guide with a ``net`` and ``given(net's output)``, whose draws have gradients.
        model: Pyro program of p(x, z), such as ``vae.model``; its parameters are not the guide's.
        steps: Number of Adam steps.
        learning_rate: eta, on the scale of the network's output.
        num_particles: Draws of the ELBO in each step.
        site: Name of the latent in the model.
        seed: Seed of the steps' noise.

    Raises:
        ValueError: The guide has no parameters to refine, its draws have no gradients, or the model's prior
            does not give its values; the model lacks the site.

    References:
        Kim et al., Semi-Amortized Variational Autoencoders, 2018. arXiv:1802.02550; Cremer et al.,
        Inference Suboptimality in Variational Autoencoders, 2018. arXiv:1801.03558

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(nn.Linear(9, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nn.Linear(2, 9)), q)
        >>> vae.guide = Refined(q, vae.model, steps=5)
        >>> vae.encode(torch.eye(9)).batch_shape
        torch.Size([9])
    """

    def __init__(
        self,
        guide: Part,
        model: Program,
        steps: int = 20,
        *,
        learning_rate: float = 0.05,
        num_particles: int = 8,
        site: str = "z",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("Refined: steps", steps)
        check_count("Refined: num_particles", num_particles)
        check_positive("Refined: learning_rate", learning_rate)
        guide = as_module(guide)
        if not (hasattr(guide, "net") and hasattr(guide, "given")):
            raise ValueError(
                f"Refined: {type(guide).__name__} has no parameters to refine: it needs a net and "
                f"given(net's output), as guides.Normal has"
            )
        self.guide: Any = guide
        self._model = (model,)  # in a tuple, so that its parameters are not the guide's
        self.steps, self.learning_rate, self.num_particles = steps, learning_rate, num_particles
        self.site, self.seed = site, seed

    @property
    def net(self) -> nn.Module:
        """The network that gives the start of the steps."""
        return self.guide.net

    def forward(self, x: Tensor) -> Any:
        """q(z | x) after the steps, with the batch and event shapes of the guide."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "Refined takes gradient steps, which inference mode forbids: use torch.no_grad"
            )
        start = self.guide.net(x)
        refined = cached(self, (x,), lambda: self._refine(x, start.detach()))
        return self.guide.given(start + (refined - start).detach())

    def _refine(self, x: Tensor, start: Tensor) -> Tensor:
        """The parameters after the steps."""
        free = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=self.learning_rate)
        with torch.enable_grad(), stream("refine", self.seed):
            draws = self._draws(x, free)
            for _ in range(self.steps):
                (free.grad,) = torch.autograd.grad(-self._bound(x, free, draws), free)
                optimizer.step()
        return free.detach()

    def _draws(self, x: Tensor, parameters: Tensor) -> tuple[int, ...]:
        """The shape of a step's draws, which have a dim of their own left of the model's plates."""
        with torch.no_grad():
            q = as_pyro(self.guide.given(parameters))
            z = q.sample()
            trace = self._trace(x, z)
        if self.site not in trace:
            raise ValueError(f"Refined: the model has no site '{self.site}': name its latent with site=")
        prior: Any = trace.nodes[self.site]
        check_supports(
            [{**prior, "is_observed": False}], [{"name": self.site, "fn": q, "value": z}], bound=True
        )
        frames = [frame for site in sample_sites(trace) for frame in site["cond_indep_stack"]]
        depth = max((-frame.dim for frame in frames if frame.vectorized), default=1)
        return self.num_particles, *[1] * (depth - 1)

    def _trace(self, x: Tensor, z: Tensor) -> poutine.Trace:
        with poutine.block():
            known = poutine.condition(self._model[0], data={self.site: z})
            return poutine.trace(known).get_trace(x)

    def _bound(self, x: Tensor, parameters: Tensor, draws: tuple[int, ...]) -> Tensor:
        """The ELBO summed over the batch, whose gradient goes through the draws alone.

        Without the gradient of log q at fixed draws, zero on average, the noise vanishes as q approaches the
        posterior (Roeder et al., 2017).
        """
        q = as_pyro(self.guide.given(parameters))
        if not q.has_rsample:
            raise ValueError(
                f"Refined: draws of {type(self.guide).__name__} carry no gradient: refine a guide over "
                f"continuous latents"
            )
        z = q.rsample(draws)
        log_q = as_pyro(self.guide.given(parameters.detach())).log_prob(z)
        log_joint = sum(log_density(site).sum() for site in sample_sites(self._trace(x, z)))
        return (log_joint - log_q.sum()) / self.num_particles
