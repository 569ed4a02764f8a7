"""A run, or several, as one page of HTML that reads as a paper's appendix."""

from pyrovae.reports.report import report

__all__ = ["report"]
