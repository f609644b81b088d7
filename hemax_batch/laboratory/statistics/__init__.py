"""The statistics of the laboratory commands. Each function gives its formula and its source.

Where SciPy has a method, SciPy computes it. Each function is tested against a published example or
a closed form.
"""

from .agreement import (
    BlandAltman,
    bland_altman,
    cohen_kappa,
    interchangeability,
    root_mean_square,
)
from .control import ControlLimits, control_limits, rejected, westgard
from .counting import (
    chance_within_limits,
    counting_sd,
    within_difference_limits,
    within_limits,
)
from .estimate import Estimate, clopper_pearson, mean_estimate, proportion, sd_estimate
from .regression import Line, deming, passing_bablok, pearson, spearman
from .repeatability import Repeatability, repeatability

__all__ = [
    "BlandAltman",
    "ControlLimits",
    "Estimate",
    "Line",
    "Repeatability",
    "bland_altman",
    "chance_within_limits",
    "clopper_pearson",
    "cohen_kappa",
    "control_limits",
    "counting_sd",
    "deming",
    "interchangeability",
    "mean_estimate",
    "passing_bablok",
    "pearson",
    "proportion",
    "rejected",
    "repeatability",
    "root_mean_square",
    "sd_estimate",
    "spearman",
    "westgard",
    "within_difference_limits",
    "within_limits",
]
