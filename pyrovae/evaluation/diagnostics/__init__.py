"""Diagnostics: inference gaps, KL by part, active units, mutual information, calibration, codes."""

from pyrovae.evaluation.diagnostics.active_units import (
    ActiveUnits,
    active_units,
    active_units_curve,
    code_variances,
)
from pyrovae.evaluation.diagnostics.calibration import Calibration, calibration
from pyrovae.evaluation.diagnostics.codes import Codes, codes
from pyrovae.evaluation.diagnostics.gaps import Gaps, gaps
from pyrovae.evaluation.diagnostics.information import Information, information
from pyrovae.evaluation.diagnostics.kl import Divergences, kl_by_dimension, kl_by_site
from pyrovae.evaluation.diagnostics.rate_distortion import RateDistortion, rate_distortion

__all__ = [
    "ActiveUnits",
    "Calibration",
    "Codes",
    "Divergences",
    "Gaps",
    "Information",
    "RateDistortion",
    "active_units",
    "active_units_curve",
    "calibration",
    "code_variances",
    "codes",
    "gaps",
    "information",
    "kl_by_dimension",
    "kl_by_site",
    "rate_distortion",
]
