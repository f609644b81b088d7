"""How soon a person should look at a slide: from the flags of its differential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_URGENT = ("blast_count",)
_ABNORMAL = (
    "promyelocyte_count",
    "myelocyte_count",
    "metamyelocyte_percent",
    "nrbc_count",
    "nrbc_correction_per_100",
    "plasma_cell_count",
    "variant_lymphocyte_percent",
    "outside",
    "left_shift_band_percent",
)
#: From the most urgent to the least.
LEVELS = ("blasts", "abnormal cells", "out of range", "uncertain", "no flag")


@dataclass(frozen=True)
class Urgency:
    """`level` is a place in LEVELS: 0 comes first. `words` is its name."""

    level: int

    @property
    def words(self) -> str:
        """The level's name."""
        return LEVELS[self.level]


def urgency_of(differential: dict[str, Any]) -> Urgency:
    """The urgency of a slide from its `differential.json`.

    >>> urgency_of({"flags": [{"rule": "range_monocyte"}, {"rule": "blast_count"}]}).words
    'blasts'
    """
    rules = [flag["rule"] for flag in differential["flags"]]
    if any(rule in _URGENT for rule in rules):
        return Urgency(0)
    if any(rule in _ABNORMAL for rule in rules):
        return Urgency(1)
    if any(rule.startswith("range_") for rule in rules):
        return Urgency(2)
    return Urgency(3 if rules else 4)
