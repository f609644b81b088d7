"""What the JSON records of the laboratory share: a figure that does not exist is null."""

from __future__ import annotations

import json
import math

from .statistics import Estimate


def as_json(record: dict[str, object]) -> bytes:
    """Indented UTF-8; a figure that does not exist is null."""
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def figure(value: float) -> float | None:
    """A number of JSON: six decimals, null where there is none."""
    return round(float(value), 6) if math.isfinite(value) else None


def estimate(e: Estimate) -> dict[str, float | None]:
    """An estimate as JSON."""
    return {"value": figure(e.value), "low95": figure(e.low), "high95": figure(e.high)}
