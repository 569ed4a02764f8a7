"""What the codes do: gaps and where they come from, KL by part, active units, information, calibration."""

from pyrovae.diagnostics.calibration_by_simulation import Calibration, calibration
from pyrovae.diagnostics.codes_of_data import Codes, codes
from pyrovae.diagnostics.divergences import Divergences, kl_by_dimension, kl_by_site
from pyrovae.diagnostics.inference_gaps import Gaps, gaps
from pyrovae.diagnostics.mutual_information import Information, information
from pyrovae.diagnostics.rates import RateDistortion, rate_distortion
from pyrovae.diagnostics.units import ActiveUnits, active_units, active_units_curve, code_variances

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
