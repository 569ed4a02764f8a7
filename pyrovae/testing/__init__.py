"""Models whose log p(x) is known exactly, and a check of programs and parts of your own."""

from pyrovae.models.exact import LinearGaussian, Quadrature
from pyrovae.testing.check_pair import Report, check_pair

__all__ = ["LinearGaussian", "Quadrature", "Report", "check_pair"]
