"""Models whose log p(x) is known exactly, as Pyro programs."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyrovae.core.random import generator

__all__ = ["LinearGaussian", "Quadrature"]


class LinearGaussian:
    r"""Probabilistic PCA, or factor analysis, with evidence and posterior in closed form.

    .. math:: z \sim \mathcal N(0, I), \quad x \mid z \sim \mathcal N(W z + \mu, \Psi), \qquad
        p(x) = \mathcal N(x; \mu, W W^\top + \Psi), \\
        p(z \mid x) = \mathcal N(z; S W^\top \Psi^{-1} (x - \mu), S), \quad
        S = (I + W^\top \Psi^{-1} W)^{-1}

    With the posterior as guide every log-weight is log p(x), whatever was drawn, so that a wrong constant,
    sign or event dim shows without noise.

    Args:
        weight: W, ``[features, latents]``.
        mean: mu, ``[features]``; zero if not given.
        noise: The diagonal of Psi, ``[features]`` or one number.
        shift: Difference between the loc of the guide and that of the posterior.
        widen: Ratio of the scale of the guide to that of the posterior.

    References:
        Tipping and Bishop, Probabilistic Principal Component Analysis, 1999.

    Example:
        >>> oracle = LinearGaussian(torch.tensor([[1.0], [2.0]]), noise=0.5)
        >>> oracle.log_evidence(torch.zeros(1, 2))
        tensor([-2.3437])
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        mean: Tensor | None = None,
        noise: Tensor | float = 0.1,
        shift: float = 0.0,
        widen: float = 1.0,
    ) -> None:
        features, latents = weight.shape
        self.weight = weight
        self.mean = weight.new_zeros(features) if mean is None else mean
        self.noise = torch.as_tensor(noise, dtype=weight.dtype, device=weight.device).expand(features)
        self.shift, self.widen = shift, widen
        scaled = (weight.T / self.noise) @ weight
        identity = torch.eye(latents, dtype=weight.dtype, device=weight.device)
        self.posterior_covariance = torch.linalg.inv(identity + scaled)

    def model(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """p(z) p(x | z), for data ``[batch, features]`` or a number of rows to generate."""
        loc = self.weight.new_zeros(self.weight.shape[1])
        with pyro.plate("data", len(x) if x is not None else size):
            z = pyro.sample("z", dist.Normal(loc, loc + 1).to_event(1))
            px = dist.Normal(z @ self.weight.T + self.mean, self.noise.sqrt()).to_event(1)
            return pyro.sample("x", px, obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """The exact posterior, moved by ``shift`` and widened by ``widen``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self._guide(x))

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), batch shape ``[batch]``."""
        gain = self.posterior_covariance @ (self.weight.T / self.noise)
        return MultivariateNormal((x - self.mean) @ gain.T, self.posterior_covariance)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Log p(x), exact: ``[batch]`` in nats."""
        covariance = self.weight @ self.weight.T + self.noise.diag()
        return MultivariateNormal(self.mean, covariance).log_prob(x)

    def gap(self, x: Tensor) -> Tensor:
        """KL(q || p(z | x)), exact: log p(x) minus the guide's ELBO, ``[batch]`` in nats."""
        return torch.distributions.kl_divergence(self._guide(x), self.posterior(x))

    def _guide(self, x: Tensor) -> Any:
        p = self.posterior(x)
        return dist.MultivariateNormal(p.loc + self.shift, scale_tril=self.widen * p.scale_tril)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw n data from p(x), ``[n, features]``."""
        noise = generator("linear-gaussian draws", seed)
        features, latents = self.weight.shape
        draw = torch.randn(n, latents + features, generator=noise, dtype=torch.float64).to(self.weight)
        return draw[:, :latents] @ self.weight.T + self.mean + draw[:, latents:] * self.noise.sqrt()


class Quadrature:
    r"""Any decoder under a standard normal prior on one or two latents, integrated on a grid.

    .. math:: p(x) = \int \mathcal N(z; 0, I) \, p(x \mid z) \, dz
        \approx \Delta^d \sum_{z \in \text{grid}} \mathcal N(z; 0, I) \, p(x \mid z)

    The trapezoid rule converges exponentially for smooth integrands that vanish at the ends, and
    as the square of the step for networks with kinks. The result is checked against the grid with every
    other point left out.

    Args:
        likelihood: ``likelihood(z)`` returns p(x | z) for z ``[..., latents]``.
        latents: 1 or 2.
        limit: The grid spans [-limit, limit] in each latent.
        points: Grid points in each latent.

    Example:
        >>> from pyrovae import likelihoods, networks
        >>> oracle = Quadrature(likelihoods.Bernoulli(networks.MLP(1, 3)), latents=1)
        >>> all_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        >>> round(oracle.log_evidence(all_x).exp().sum().item(), 4)
        1.0
    """

    def __init__(
        self, likelihood: nn.Module, *, latents: int = 2, limit: float = 8.0, points: int = 401
    ) -> None:
        if latents not in (1, 2):
            raise ValueError(f"Quadrature: latents must be 1 or 2, got {latents}")
        self.likelihood, self.latents = likelihood, latents
        self.limit, self.points = limit, points

    def model(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """p(z) p(x | z), for data ``[batch, *event]`` or a number of rows to generate."""
        loc = torch.zeros(self.latents, dtype=x.dtype if x is not None else None)
        with pyro.plate("data", len(x) if x is not None else size):
            z = pyro.sample("z", dist.Normal(loc, loc + 1).to_event(1))
            return pyro.sample("x", self.likelihood(z), obs=x)

    @torch.no_grad()
    def log_evidence(self, x: Tensor, *, tolerance: float = 1e-3) -> Tensor:
        """Log p(x) by the trapezoid rule: ``[batch]`` in nats, float64.

        Raises:
            ValueError: With half the points the result changes by more than ``tolerance`` nats, or a larger
                share of p(x) than ``tolerance`` lies at the ends of the grid.
        """
        axis = torch.linspace(-self.limit, self.limit, self.points, dtype=x.dtype, device=x.device)
        z = torch.cartesian_prod(*[axis] * self.latents).reshape(-1, 1, self.latents)
        position = torch.arange(self.points, device=x.device)
        places = torch.cartesian_prod(*[position] * self.latents).reshape(-1, self.latents)
        kept = {
            "all": torch.ones_like(places[:, 0], dtype=torch.bool),
            "half": (places % 2 == 0).all(-1),
            "ends": ((places == 0) | (places == self.points - 1)).any(-1),
        }
        log_prior = (-(z**2) / 2 - math.log(2 * math.pi) / 2).sum(-1)
        totals = {name: x.new_full((len(x),), -math.inf, dtype=torch.float64) for name in kept}
        at_once = max(1, 2**22 // x.numel())  # z by x by features: 16 MB of logits
        for rows in torch.arange(len(z), device=x.device).split(at_once):
            log_joint = (log_prior[rows] + self.likelihood(z[rows]).log_prob(x)).double()
            for name, chosen in kept.items():
                part = log_joint[chosen[rows]].logsumexp(0)
                totals[name] = torch.logaddexp(totals[name], part)
        log_cell = self.latents * math.log(2 * self.limit / (self.points - 1))
        change = (totals["half"] + self.latents * math.log(2) - totals["all"]).abs()
        at_ends = (totals["ends"] - totals["all"]).exp()
        for problem, size, mend in (
            ("the ends of the grid hold a part of", at_ends, "a larger limit"),
            ("half the points change it by", change, "more points"),
        ):
            if size.max() > tolerance:
                row = int(size.argmax())
                raise ValueError(
                    f"Quadrature: row {row}: {problem} {size[row]:.2g}: ask for {mend}, or a larger tolerance"
                )
        return totals["all"] + log_cell
