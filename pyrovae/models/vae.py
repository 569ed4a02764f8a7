r"""Three distributions, two Pyro programs: p(z) and p(x | z) make the model, q(z | x) the guide."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.core.programs import plain_errors
from pyrovae.core.wrap import as_pyro, family_of
from pyrovae.models.base import Part, ProgramModule, as_module, width_hint
from pyrovae.models.pair import data_plate, draw, observe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike


__all__ = ["VAE", "Guide", "Model"]


class VAE(nn.Module):
    r"""A variational autoencoder: a prior, a likelihood and a guide as two ordinary Pyro programs.

    .. math:: p(x) = \int p(z) \, p(x \mid z) \, dz, \qquad
        \log p(x) = \underbrace{E_q[\log p(x \mid z)] - KL(q(z \mid x) \,\|\, p(z))}_{ELBO}
        + KL(q(z \mid x) \,\|\, p(z \mid x))

    ``vae.model`` and ``vae.guide`` are modules with their parameters, plate "data" (dim -1) and sites "z" and
    "x". All of Pyro takes them: SVI, every ELBO, Predictive, poutine, NUTS (except on the sphere, for which
    Pyro has no unconstrained coordinates). The parts are ``vae.prior``, ``vae.likelihood`` and
    ``vae.guide.part``. Assign to ``vae.prior``, ``vae.likelihood`` or ``vae.guide`` to swap one.

    Args:
        prior: ``prior()`` returns p(z) of one z. Each part is a module, a function or a Distribution.
        likelihood: ``likelihood(z)`` returns p(x | z), batched as z is.
        guide: ``guide(x)`` returns q(z | x), batched as x is.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114.
        Rezende et al., Stochastic Backpropagation, 2014. arXiv:1401.4082

    Example:
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, 784)),
        ...     guide=guides.Normal(networks.MLP(784, 2 * 2)),
        ... )
        >>> vae.sample(3).shape
        torch.Size([3, 784])
    """

    def __init__(self, prior: Part, likelihood: Part, guide: Part) -> None:
        super().__init__()
        self.model = Model(prior, likelihood)
        self.guide = Guide(guide)

    def __setattr__(self, name: str, value: Any) -> None:
        """Swap a part: a prior or a likelihood goes to the model, and a guide becomes a program."""
        if name == "guide" and not isinstance(value, Guide):
            value = Guide(value)
        if name in ("prior", "likelihood"):
            setattr(self.model, name, as_module(value))
        else:
            super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Refuse the call: a VAE is not a program itself."""
        raise TypeError("a VAE is two programs: pass vae.model and vae.guide")

    @property
    def prior(self) -> nn.Module:
        """The module of p(z)."""
        return self.model.prior

    @property
    def likelihood(self) -> nn.Module:
        """The module of p(x | z)."""
        return self.model.likelihood

    def save_pretrained(self, folder: str | os.PathLike[str], run: Any = None) -> None:
        """Write the weights, and the recipe of ``run``, into a folder: see :func:`pyrovae.save`."""
        import pyrovae

        pyrovae.save(self, folder, run)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], vae: VAE | None = None) -> VAE:
        """The model of a run folder, or, where that has no recipe, ``vae`` with its weights.

        See :func:`pyrovae.load`; a folder from the Hub needs :func:`pyrovae.hub.pull` first.
        """
        import pyrovae

        return pyrovae.load(folder, vae)

    def score_samples(self, x: ArrayLike, **options: Any) -> np.ndarray:
        """Log p(x) of each datum in nats, a NumPy array ``[n]`` for data ``[n, *event]``.

        Options are those of :func:`pyrovae.evaluate`, which estimates it, such as ``num_samples``.
        """
        import pyrovae

        return pyrovae.interop.score_samples(self.model, self.guide, x, **options)

    def encode(self, x: Tensor) -> Distribution:
        """q(z | x), batch shape ``[batch]``, for data ``[batch, *event]``."""
        return self.guide.part(x)

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z), batch shape ``[...]``, for latents ``[..., dim]``."""
        return self.model.likelihood(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z) at the mean of q(z | x): ``[batch, *event]``, as x."""
        return self.decode(_mean(self.encode(x))).mean

    def sample(self, n: int) -> Tensor:
        """Draw n data from p(x), ancestrally: ``[n, *event]``. Not differentiable."""
        with torch.no_grad(), poutine.block():
            return self.model(size=n)

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """The means of p(x | z) at points on the line between the codes of two data.

        Args:
            a: The first end, one datum ``[*event]`` or a batch ``[batch, *event]``.
            b: The second end, of the shape of ``a``.
            steps: Number of points, both ends included.

        Returns:
            ``[steps, *event]``, or ``[steps, batch, *event]`` for a batch.
        """
        if steps < 2:
            raise ValueError(f"interpolate: steps must be at least 2, got {steps}")
        start, end = _mean(self.encode(a)), _mean(self.encode(b))
        along = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        along = along.reshape(-1, *[1] * start.dim())
        return self.decode(start + along * (end - start)).mean


class Model(ProgramModule):
    """The Pyro program of p(z) p(x | z), called with data or, to generate, with a size."""

    def __init__(self, prior: Part, likelihood: Part) -> None:
        super().__init__()
        self.prior = as_module(prior)
        self.likelihood = as_module(likelihood)

    def forward(self, x: Tensor | None = None, *more: Tensor, size: int | None = None) -> Tensor:
        """Run p(z) p(x | z) on data ``[batch, *event]``, or generate ``size`` data.

        Raises:
            ValueError: Neither data nor size; data outside the likelihood's support; z of another
                width than the prior's.
        """
        _refuse_labels(more)
        plate, prior = data_plate(x, size), as_pyro(self.prior())
        z = draw(plate, "z", prior)
        if z.shape[z.dim() - len(prior.event_shape) :] != prior.event_shape:
            raise ValueError(
                f"site 'z': the guide gives shape {tuple(z.shape)}, the prior has events of "
                f"shape {tuple(prior.event_shape)}: give both the same width, the guide's network an output "
                f"{width_hint(z.shape[-1], prior.event_shape.numel())}"
            )
        return observe(plate, self._likelihood(z, z.shape[: z.dim() - len(prior.event_shape)]), x)

    def _likelihood(self, z: Tensor, batch_shape: torch.Size) -> Any:
        """p(x | z), whose batch shape must be that of z, whatever dims are left of the data's."""
        mend = "keep its leading dims, as networks.by_rows does for one that takes a single batch dim"
        try:
            with plain_errors("likelihood"):
                likelihood = as_pyro(self.likelihood(z))
        except RuntimeError as error:
            if len(batch_shape) < 2:
                raise
            raise RuntimeError(f"{error}; z has shape {tuple(z.shape)}: {mend}") from error
        got = likelihood.batch_shape
        pairs = zip(reversed(got), reversed(batch_shape), strict=False)
        if len(batch_shape) > 1 and any(1 not in (a, b) and a != b for a, b in pairs):
            raise ValueError(
                f"likelihood: its batch shape is {tuple(got)} for z of shape {tuple(z.shape)}, whose leading "
                f"dims are draws and rows: {mend}"
            )
        return likelihood


class Guide(ProgramModule):
    """The Pyro program of q(z | x), where ``part(x)`` returns q(z | x)."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = as_module(part)

    def forward(self, x: Tensor | None = None, *more: Tensor) -> Tensor:
        """Draw z for data ``[batch, *event]``."""
        _refuse_labels(more)
        if x is None:
            raise ValueError("vae.guide is called with data x, as q(z | x) depends on it")
        with plain_errors("guide"):
            q = as_pyro(self.part(x))
            return draw(data_plate(x, None), "z", q)


def _mean(q: Distribution) -> Tensor:
    """The mean of q(z | x), where it has one in closed form."""
    try:
        return q.mean
    except NotImplementedError as error:
        raise ValueError(
            f"the guide's {family_of(q)} has no mean in closed form: decode draws of it, "
            f"vae.decode(vae.encode(x).rsample((100,))).mean.mean(0)"
        ) from error


def _refuse_labels(more: tuple[Tensor, ...]) -> None:
    if more:
        raise ValueError(
            f"the data give {1 + len(more)} tensors a row, and a VAE's programs take x alone: drop the "
            f"labels, or write programs of your own that take them"
        )
