"""Every objective once, with four draws, by name."""

from __future__ import annotations

from pyrovae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi

EVERY = {
    "elbo": lambda **keywords: ELBO(4, **keywords),
    "iwae": lambda **keywords: IWAE(4, **keywords),
    "renyi": lambda **keywords: Renyi(0.3, 4, **keywords),
    "miwae": lambda **keywords: MIWAE(2, 2, **keywords),
    "ciwae": lambda **keywords: CIWAE(0.3, 4, **keywords),
    "piwae": lambda **keywords: PIWAE(2, 2, **keywords),
}
