"""What the screen missed: an estimate, with its exact limits, from a random sample of what it passed over."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import gammaincinv


@dataclass(frozen=True)
class ScreenAudit:
    """Cells that the screen missed on a slide. Areas in mm².

    found                   cells that the network found in the sample, and the screen had not pointed at
    missed                  those, and what their rate leads one to expect where nobody looked; None without a sample
    missed_low, missed_high  the exact 95 % Poisson limits of that
    """

    passed_over_mm2: float
    audited_mm2: float
    found: int
    missed: float | None
    missed_low: float | None
    missed_high: float | None

    def share_of(self, cells: int) -> tuple[float, float, float] | None:
        """The estimate and its limits as fractions of the `cells` that the slide's results hold, if there are any."""
        if not cells or self.missed is None:
            return None
        return self.missed / cells, self.missed_low / cells, self.missed_high / cells


def poisson_limits(k: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a Poisson mean of which k were counted (Garwood 1936), by the gamma distribution.

    >>> [round(v, 2) for v in (*poisson_limits(0), *poisson_limits(3))]
    [0.0, 3.69, 0.62, 8.77]
    """
    if k < 0:
        raise ValueError(f"{k}: a count cannot be negative")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(gammaincinv(k, tail))
    return low, float(gammaincinv(k + 1, 1 - tail))


def audit_of(found: int, audited_mm2: float, passed_over_mm2: float) -> ScreenAudit:
    """What `found` cells in the sampled area say of the whole.

    What was sampled is known; what was not is expected to hold as many per mm². So 2 in 0.1 of 10 mm² are 200, and 2 in
    10 of 10 mm² are 2, without doubt.
    """
    if audited_mm2 <= 0:
        return ScreenAudit(passed_over_mm2, audited_mm2, found, None, None, None)
    factor = max(passed_over_mm2 - audited_mm2, 0.0) / audited_mm2
    low, high = (found + rate * factor for rate in poisson_limits(found))
    return ScreenAudit(passed_over_mm2, audited_mm2, found, found * (1 + factor), low, high)
