"""The KL from q to the prior by latent site, and by dimension of a site."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import Site, Structure, inspect, plain_errors, sample_sites
from pyrovae.core.random import stream
from pyrovae.core.scoring import by_datum, by_dimension, sum_by_datum, trace_draws
from pyrovae.core.tables import table
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data

__all__ = ["Divergences", "dimension_names", "kl_by_dimension", "kl_by_site"]

AT_ONCE = 2**13  # draws times rows
MOST_SHOWN = 20

Parts = Callable[[dict[str, Site], dict[str, Site], Structure], dict[str, Tensor]]
"""KL parts ``[draws, rows]`` by name, of the guide's sites and of the model's latent sites."""


@dataclass(frozen=True)
class Divergences:
    """Parts of KL(q(z | x) || p(z)); printed, a table of their means, the largest first.

    Attributes:
        names: Names of the k parts.
        values: ``[n, k]`` in nats, per datum.
        errors: ``[n, k]``, Monte Carlo standard errors of the values.
        total: ``[n]``, sum over parts.
        total_error: ``[n]``, Monte Carlo standard error of the total, whose parts may be correlated.
    """

    names: tuple[str, ...]
    values: Tensor
    errors: Tensor
    total: Tensor
    total_error: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def means(self) -> Tensor:
        """Means over data, ``[k]``."""
        return self.values.mean(0)

    def __str__(self) -> str:
        order = self.means.argsort(descending=True, stable=True).tolist()
        rows = {f"  {self.names[i]}": (self.values[:, i], self.errors[:, i]) for i in order[:MOST_SHOWN]}
        lines = table({"KL(q(z|x) || p(z))": (self.total, self.total_error), **rows})
        if rest := order[MOST_SHOWN:]:
            lines.append(f"  and {len(rest):,} more, {self.means[rest].sum():.3f} in all")
        return "\n".join(lines)


def kl_by_site(
    model: Program, guide: Program, data: Data, *, num_samples: int = 100, seed: int = 0
) -> Divergences:
    r"""The part of KL(q(z | x) || p(z)) of each latent site, for any pair.

    .. math:: E_{q(z \mid x)} \left[ \log q(z_j \mid \cdot) - \log p(z_j \mid \cdot) \right]

    with each density conditional on what its program draws before. The parts add up to the KL. If the guide
    draws sites in another order than the model, a part is no divergence by itself and may be negative.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: Arguments of both programs; see :func:`pyrovae.evaluate`.
        num_samples: Number of draws per datum.
        seed: Seed of the draws.

    Raises:
        ValueError: A guide's auxiliary site or factor that belongs to none of several latent sites; as
            :func:`pyrovae.log_weights`.

    References:
        Sønderby et al., Ladder Variational Autoencoders, 2016, figure 4. arXiv:1602.02282

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 2))
        >>> kl_by_site(oracle.model, oracle.guide, oracle.sample(5)).names
        ('z',)
    """

    def parts(of_guide: dict[str, Site], latents: dict[str, Site], structure: Structure) -> dict[str, Tensor]:
        others = [name for name in of_guide if name not in latents]
        if others and len(latents) > 1:
            raise ValueError(
                f"kl_by_site: site '{others[0]}' of the guide is no latent of the model, and belongs to none "
                f"of {', '.join(latents)}: integrate it out, or ask evaluate for the whole KL"
            )
        ratios = {}
        for name, site in latents.items():  # with one latent, all sites of the guide belong to it
            log_q = sum_by_datum([of_guide[each] for each in (name, *others)], structure)
            ratios[name] = log_q - sum_by_datum([site], structure)
        return ratios

    return _divergences(model, guide, data, parts, "kl_by_site", num_samples, seed)


def kl_by_dimension(
    model: Program, guide: Program, data: Data, *, site: str = "z", num_samples: int = 100, seed: int = 0
) -> Divergences:
    r"""The part of each dimension of a latent site whose guide and prior both factorise over dimensions.

    .. math:: E_{q(z \mid x)} \left[ \log q(z_j \mid x) - \log p(z_j) \right], \qquad
        q(z \mid x) = \prod_j q(z_j \mid x), \quad p(z) = \prod_j p(z_j)

    A dimension whose part is zero is not used.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: Arguments of both programs; see :func:`pyrovae.evaluate`.
        site: Name of the latent.
        num_samples: Number of draws per datum.
        seed: Seed of the draws.

    Raises:
        ValueError: No such site; a density that is no product over dimensions.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.guides.Normal(pv.networks.MLP(9, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.MLP(2, 9)), q)
        >>> kl_by_dimension(vae.model, vae.guide, torch.eye(9)).names
        ('z[0]', 'z[1]')
    """

    def parts(of_guide: dict[str, Site], latents: dict[str, Site], structure: Structure) -> dict[str, Tensor]:
        if site not in latents:
            raise ValueError(
                f"kl_by_dimension: the model has no latent site '{site}', but {', '.join(latents)}: name it "
                f"with site="
            )
        names = dimension_names(site, latents[site]["fn"].event_shape)
        log_q = _by_dimension(of_guide[site], structure)
        log_p = _by_dimension(latents[site], structure)
        return dict(zip(names, log_q - log_p, strict=True))

    return _divergences(model, guide, data, parts, "kl_by_dimension", num_samples, seed)


@torch.no_grad()
def _divergences(
    model: Program, guide: Program, data: Data, parts: Parts, purpose: str, num_samples: int, seed: int
) -> Divergences:
    """Means over draws of the parts, and their standard errors."""
    check_count(f"{purpose}: num_samples", num_samples)
    structure, results, ratios = None, [], {}
    rows_at_once = max(AT_ONCE // num_samples, 1)
    with mode(modules_of(model, guide), training=False), plain_errors():
        for position, batch in enumerate(batches(data, rows_at_once, purpose, seed)):
            with stream(purpose, seed, position):
                structure = structure or inspect(model, guide, *batch)
                drawn = trace_draws(guide, num_samples, structure, batch)
                scored = trace_draws(model, num_samples, structure, batch, known=drawn)
                of_guide = {site["name"]: site for site in sample_sites(drawn)}
                latents = {site["name"]: site for site in sample_sites(scored) if not site["is_observed"]}
                ratios = parts(of_guide, latents, structure)
            each = torch.stack([ratio.expand(num_samples, len(batch[0])) for ratio in ratios.values()], -1)
            whole = torch.cat([each, each.sum(-1, keepdim=True)], -1)
            errors = whole.std(0) if num_samples > 1 else torch.full_like(whole[0], torch.nan)
            results.append(torch.stack([whole.mean(0), errors / num_samples**0.5]).cpu())
    values, errors = torch.cat(results, 1)
    return Divergences(tuple(ratios), values[:, :-1], errors[:, :-1], values[:, -1], errors[:, -1])


def _by_dimension(site: Site, structure: Structure) -> Tensor:
    """Log densities of the dimensions of a site's event: ``[dimensions, draws, rows]``."""
    each = by_dimension(site, site["value"], "kl_by_dimension", "use kl_by_site").movedim(-1, 0)
    return by_datum(scale_and_mask(each, mask=site["mask"]), structure)


def dimension_names(site: str, shape: Sequence[int]) -> list[str]:
    """Names of the elements of a value, ``z[0]`` and so on; of a single number, the site's name."""
    places = itertools.product(*(range(size) for size in shape))
    return [f"{site}[{', '.join(map(str, place))}]" if place else site for place in places]
