"""A local page to move through latent space and to look at single data: ``pyrovae explore RUN``."""

from pyrovae.reports.explorer.server import app
from pyrovae.reports.explorer.serving import serve

__all__ = ["app", "serve"]
