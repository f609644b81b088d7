"""What the screen missed: an estimate, with its exact limits, from a random sample of what it passed over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScreenAudit:
    """Cells that the screen missed on a slide. Areas in mm².

    found            cells that the network found in the sample, and the screen had not pointed at
    missed_estimate  those, and what their rate leads one to expect where nobody looked; None without a sample
    low95, high95    the exact 95 % Poisson limits of that
    """

    passed_over_mm2: float
    audited_mm2: float
    found: int
    missed_estimate: float | None
    low95: float | None
    high95: float | None

    def warning(self, cells: int) -> str:
        """The sentence on what was missed, against the `cells` that the slide's results hold; "" where nothing was."""
        if not self.found:
            return ""
        share = (
            f", {100 * self.missed_estimate / cells:.1f} % of the {cells} found" if cells else ""
        )
        return (
            f"the screen missed {self.found} cell{'s' * (self.found > 1)} in a sample of {self.audited_mm2:.3f} mm²: at "
            f"this rate {self.missed_estimate:.0f} on the slide (95 % limits {self.low95:.0f} to {self.high95:.0f})"
            f"{share}; --exhaustive looks everywhere"
        )


def poisson_limits(k: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a Poisson mean of which k were counted (Garwood 1936), by the gamma distribution.

    >>> [round(v, 2) for v in (*poisson_limits(0), *poisson_limits(3))]
    [0.0, 3.69, 0.62, 8.77]
    """
    from scipy.special import (
        gammaincinv,
    )  # half the time that a run takes to begin, and only needed at its end

    if k < 0:
        raise ValueError(f"{k}: a count cannot be negative")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(gammaincinv(k, tail))
    return low, float(gammaincinv(k + 1, 1 - tail))


def estimate_missed(found: int, audited_mm2: float, passed_over_mm2: float) -> ScreenAudit:
    """What `found` cells in the sampled area say of the whole.

    What was sampled is known; what was not is expected to hold as many per mm². So 2 in 0.1 of 10 mm² are 200, and 2 in
    10 of 10 mm² are 2, without doubt.
    """
    if audited_mm2 <= 0:
        return ScreenAudit(passed_over_mm2, audited_mm2, found, None, None, None)
    factor = max(passed_over_mm2 - audited_mm2, 0.0) / audited_mm2
    expected = (round(found + rate * factor, 2) for rate in (found, *poisson_limits(found)))
    return ScreenAudit(passed_over_mm2, audited_mm2, found, *expected)
