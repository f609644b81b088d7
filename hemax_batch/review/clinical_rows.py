"""The differential and the facts of a slide as a page shows them: rows of text, ready for a template."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .loaded import LoadedSlide

_MINUS_FREE = "–"


@dataclass(frozen=True)
class ClassRow:
    """A line of the differential. Per cents are None where no white cell was counted."""

    name: str
    words: str
    count: int
    percent: float | None
    low: float | None
    high: float | None
    reference: tuple[float, float] | None
    flags: tuple[str, ...]
    side: str  # "above" or "below" its reference range, or ""

    @property
    def total(self) -> bool:
        """Whether it is a sum of others: total neutrophils."""
        return self.name == "neutrophils"


def class_rows(differential: dict) -> list[ClassRow]:
    """Total neutrophils first, then the classes in clinical order."""
    rows = []
    for entry in differential["classes"]:
        flags = [flag for flag in differential["flags"] if flag_of_row(flag["rule"]) == entry["class"]]
        reference = entry.get("reference_percent")
        side = ""
        if reference is not None and entry["percent"] is not None:
            side = "below" if entry["percent"] < reference[0] else "above" if entry["percent"] > reference[1] else ""
        rows.append(
            ClassRow(
                entry["class"], entry["words"], entry["count"], entry["percent"], entry["low95"], entry["high95"],
                tuple(reference) if reference is not None else None, tuple(flag["words"] for flag in flags), side,
            )
        )  # fmt: skip
    return rows


def flag_of_row(rule: str) -> str:
    """Which line of the differential a flag's rule speaks of ("" = of none).

    >>> flag_of_row("range_lymphocyte"), flag_of_row("left_shift_band_percent"), flag_of_row("sufficiency")
    ('lymphocyte', 'band_neutrophil', '')
    """
    if rule == "left_shift_band_percent":
        return "band_neutrophil"
    if rule.startswith("range_"):
        return rule.removeprefix("range_")
    for ending in ("_count", "_percent"):
        if rule.endswith(ending):
            return rule.removesuffix(ending).replace("nrbc", "erythroblast")
    return ""


def facts(slide: LoadedSlide) -> list[tuple[str, str]]:
    """What the results were made from, as (label, text)."""
    record, red = slide.record, slide.differential["red_cell_diameter_um"]
    width_mm, height_mm = (side * record.mpp / 1000 for side in (record.width, record.height))
    red_text = (
        f"{red['median']:g} µm assumed; only {red['measured']} measured"
        if red["assumed"]
        else f"{red['median']:g} µm, median of {red['measured']}"
    )
    figures = record.figures
    scanned = f"{figures.scanned_mm2:.2f} mm² in {record.regions} regions"
    if figures.blank_mm2:
        scanned += f"; {figures.blank_mm2:.2f} mm² blank glass"
    if record.unreadable_regions:
        scanned += f"; {len(record.unreadable_regions)} unreadable ({100 * record.unreadable_share:.1f} %)"
    audit = f"{figures.audited_mm2:.3f} mm² of what the screen passed over: {figures.audit_cells} cells found"
    return [
        ("Size", f"{record.width} × {record.height} px, {width_mm:.1f} × {height_mm:.1f} mm"),
        ("Resolution", f"{record.mpp:.4g} µm/px"),
        ("Scanned", scanned),
        ("Audit", audit if figures.audited_mm2 else "none"),
        ("Red cell", red_text),
        ("Weights", record.weights_sha256),
        ("Version", f"hemax-batch {record.version}"),
        ("Result", slide.sha256),
    ]


def percent(value: float | None, decimals: int = 1) -> str:
    """A per cent, or a dash where there is none."""
    return _MINUS_FREE if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"
