"""Models whose log p(x) is known exactly, and a check of programs and parts of your own."""

from pyrovae.testing.checks import Report, check_pair
from pyrovae.testing.oracles import LinearGaussian, Quadrature

__all__ = ["LinearGaussian", "Quadrature", "Report", "check_pair"]
