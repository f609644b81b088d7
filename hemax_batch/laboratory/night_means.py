"""The slides of one chart gathered by night: means, and how far chance moves them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .nights import Nights
from .statistics.estimate import Floats

RATE = "missed"  # a count over an area; all other measures are means of slides
_TAILS = (1.0, 99.0)  # per cent of the baseline's slides
_MOST_BEYOND = 0.25  # of a night's slides; more is a drift and no single patient
Mask = NDArray[np.bool_]
Days = NDArray[np.int64]


@dataclass(frozen=True)
class NightMeans:
    """One measure by night: ordinal days, slides, means, and the standard errors of the means."""

    days: Days
    slides: NDArray[np.int64]
    means: Floats
    errors: Floats

    def of(self, kept: Mask) -> NightMeans:
        """Some of the nights."""
        return NightMeans(self.days[kept], self.slides[kept], self.means[kept], self.errors[kept])


def gather_nights(
    nights: Nights, measure: str, wanted: Mask, baseline: Mask, is_control: bool
) -> NightMeans:
    """Means of the wanted slides, all of which have a value.

    The spread of slides comes from the baseline alone. The screen's audit is a rate: its nights
    weigh slides by the area that was audited. A control slide has no sampling error.

    Parameters
    ----------
    nights : all slides.
    measure : its name.
    wanted, baseline : bool [slides], which belong to the chart, and which lie in the baseline.
    is_control : whether the chart is a control slide's.
    """
    x, base = nights.values[measure][wanted], baseline[wanted]
    days, place = np.unique(nights.nights[wanted], return_inverse=True)
    slides, weights = np.bincount(place), np.ones(len(x))
    if measure == RATE:
        weights = np.maximum(nights.audited_mm2[wanted], 0.0)
    elif base.sum() >= 2 and not is_control:
        x = _winsorised(x, base, place, slides)
    total = np.bincount(place, weights)
    total = np.where(total > 0, total, np.nan)
    means = np.bincount(place, weights * x) / total
    if is_control:
        return NightMeans(days, slides, means, np.zeros(len(days)))
    residual = (weights * (x - means[place]))[base]
    freedom = len(residual) - len(np.unique(place[base]))
    spread = math.sqrt(float(np.nansum(residual**2)) / freedom) if freedom > 0 else 0.0
    return NightMeans(days, slides, means, spread * np.sqrt(slides) / total)


def _winsorised(x: Floats, base: Mask, place: Days, slides: Days) -> Floats:
    """Values beyond the baseline's 1st and 99th percentile set to these.

    So one patient moves no night (Badrick et al., Clin Chem 2019;65:962-971, on patient-based
    quality control). A night of which more than a quarter lies beyond keeps its values: that is
    what a drift looks like, and its mean is to be seen.
    """
    low, high = np.percentile(x[base], _TAILS)
    if low >= high:
        return x
    beyond = np.bincount(place, (x < low) | (x > high)) / slides
    return np.where(beyond[place] > _MOST_BEYOND, x, np.clip(x, low, high))
