"""A local page to move through latent space and to look at single data: ``pyrovae explore RUN``."""

from pyrovae.reports.explorer.server import app, serve

__all__ = ["app", "serve"]
