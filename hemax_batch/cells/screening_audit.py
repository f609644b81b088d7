"""Estimate of the cells that the screen missed, from a random sample of what it passed over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScreenAudit:
    """Cells that the screen missed on a slide; areas in mm².

    Attributes
    ----------
    found : int
        Cells that the network found in the sample and the screen had not proposed.
    missed_estimate : float, optional
        Missed cells on the whole slide at the sample's rate; None without a sample.
    low95, high95 : float, optional
        Exact 95 % Poisson limits of the estimate.
    """

    passed_over_mm2: float
    audited_mm2: float
    found: int
    missed_estimate: float | None
    low95: float | None
    high95: float | None

    def warning(self, cells: int) -> str:
        """Return the sentence on missed cells; "" if none were found.

        Parameters
        ----------
        cells
            Cells in the slide's results.
        """
        estimate = self.missed_estimate
        if not self.found or estimate is None:
            return ""
        share = f", {100 * estimate / cells:.1f} % of the {cells} found" if cells else ""
        return (
            f"the screen missed {self.found} cell{'s' * (self.found > 1)} in a sample of {self.audited_mm2:.3f} mm²: at "
            f"this rate {estimate:.0f} on the slide (95 % limits {self.low95:.0f} to {self.high95:.0f})"
            f"{share}; --exhaustive looks everywhere"
        )


def poisson_limits(k: int, level: float = 0.95) -> tuple[float, float]:
    """Compute exact two-sided limits of a Poisson mean from a count k (Garwood 1936).

    >>> [round(v, 2) for v in (*poisson_limits(0), *poisson_limits(3))]
    [0.0, 3.69, 0.62, 8.77]
    """
    # This import takes half of a run's start-up time and is needed only at its end.
    from scipy.special import gammaincinv

    if k < 0:
        raise ValueError(f"{k}: a count cannot be negative")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(gammaincinv(k, tail))
    return low, float(gammaincinv(k + 1, 1 - tail))


def estimate_missed(found: int, audited_mm2: float, passed_over_mm2: float) -> ScreenAudit:
    """Estimate the missed cells of a slide from those found in the audited area.

    The sampled area is known. The rest is expected to hold as many cells per mm². So 2 cells in 0.1
    of 10 mm² give an estimate of 200, and 2 cells in 10 of 10 mm² give exactly 2.

    Parameters
    ----------
    found
        Cells found in the sample.
    audited_mm2, passed_over_mm2
        Area of the sample, and of everything that the screen passed over.
    """
    if audited_mm2 <= 0:
        return ScreenAudit(passed_over_mm2, audited_mm2, found, None, None, None)
    factor = max(passed_over_mm2 - audited_mm2, 0.0) / audited_mm2
    expected = (round(found + rate * factor, 2) for rate in (found, *poisson_limits(found)))
    return ScreenAudit(passed_over_mm2, audited_mm2, found, *expected)
