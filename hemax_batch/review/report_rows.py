"""Turn the differential and the facts of a slide into rows of text for a template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..cells.outside import OutsideVerdict
from ..cells.screening_audit import ScreenAudit
from ..results.slide_record import SlideRecord
from .load_results import LoadedSlide

_DASH = "–"


@dataclass(frozen=True)
class ClassRow:
    """A line of the differential. Per cents are None if no white cell was counted."""

    name: str
    words: str
    count: int
    percent: float | None
    low: float | None
    high: float | None
    reference: tuple[float, float] | None
    by_error: str
    flags: tuple[str, ...]
    side: str  # "above" or "below" its reference range, or ""

    @property
    def total(self) -> bool:
        """Say whether the row is a sum: total neutrophils."""
        return self.name == "neutrophils"


def class_rows(differential: dict[str, Any]) -> list[ClassRow]:
    """Return total neutrophils, then the classes in clinical order."""
    rows = []
    for entry in differential["classes"]:
        flags = [
            flag for flag in differential["flags"] if flag_of_row(flag["rule"]) == entry["class"]
        ]
        reference = entry.get("reference_percent")
        side = ""
        if reference is not None and entry["percent"] is not None:
            side = (
                "below"
                if entry["percent"] < reference[0]
                else "above"
                if entry["percent"] > reference[1]
                else ""
            )
        rows.append(
            ClassRow(
                entry["class"],
                entry["words"],
                entry["count"],
                entry["percent"],
                entry["low95"],
                entry["high95"],
                tuple(reference) if reference is not None else None,
                by_error(entry),
                tuple(flag["words"] for flag in flags),
                side,
            )
        )
    return rows


def by_error(entry: dict[str, Any]) -> str:
    """How many calls of a class error alone would give, with the 95 % interval; "" where that is not known.

    >>> by_error({"expected_false": 0.84, "expected_false_low95": 0, "expected_false_high95": 3})
    '0.8 (0–3)'
    """
    if entry["expected_false"] is None:
        return ""
    low, high = entry["expected_false_low95"], entry["expected_false_high95"]
    return f"{entry['expected_false']:.1f} ({low:g}–{high:g})"


def flag_of_row(rule: str) -> str:
    """Return the line of the differential that a flag's rule concerns, or "".

    >>> flag_of_row("range_lymphocyte"), flag_of_row("left_shift_band_percent"), flag_of_row("sufficiency")
    ('lymphocyte', 'band_neutrophil', '')
    """
    if rule == "left_shift_band_percent":
        return "band_neutrophil"
    if rule.startswith("range_"):
        return rule.removeprefix("range_")
    for ending in ("_count", "_percent", "_within_error"):
        if rule.endswith(ending):
            return rule.removesuffix(ending).replace("nrbc", "erythroblast")
    return ""


def slide_facts(slide: LoadedSlide) -> list[tuple[str, str]]:
    """Return what the results were made from, as (label, text)."""
    record, red = slide.record, slide.differential["red_cell_diameter_um"]
    width_mm, height_mm = (side * record.mpp / 1000 for side in (record.width, record.height))
    red_text = (
        f"{red['median']:g} µm assumed; only {red['measured']} measured"
        if red["assumed"]
        else f"{red['median']:g} µm, median of {red['measured']}"
    )
    return [
        *([("Sample", record.sample_id)] if record.sample_id else []),
        ("Size", f"{record.width} × {record.height} px, {width_mm:.1f} × {height_mm:.1f} mm"),
        ("Resolution", f"{record.mpp:.4g} µm/px"),
        *_area_facts(record),
        ("Screen audit", _audit_words(record.screen_audit)),
        ("Unfamiliar cells", _outside_words(record.outside)),
        ("Red cell", red_text),
        ("Weights", record.weights_sha256),
        ("Version", f"hemax-batch {record.version}"),
        ("Result", slide.sha256),
    ]


def _area_facts(record: SlideRecord) -> list[tuple[str, str]]:
    """Return the areas scanned and counted, in mm²."""
    smear, figures = record.smear, record.figures
    scanned = f"{figures.scanned_mm2:.2f} mm² in {record.regions} regions; {figures.blank_mm2:.2f} mm² passed as blank"
    if smear is None:
        return [("Scanned", scanned)]
    parts = {
        "monolayer": smear.monolayer_mm2,
        "feathered edge": smear.feathered_mm2,
        "thick area": smear.thick_mm2,
        "bare glass": smear.bare_glass_mm2,
        "unreadable": smear.unreadable_mm2,
    }
    where = {"monolayer": "the monolayer", "all": "the whole smear"}.get(
        smear.counted_in, smear.counted_in
    )
    counted = f"{where}: {smear.counted_because}; {smear.used_mm2:.2f} mm² used, {smear.left_out_mm2:.2f} mm² left out"
    if smear.cells_left_out:
        counted += f" with {smear.cells_left_out} cells"
    quality = [
        f"focus {smear.focus:.3g}" if smear.focus is not None else "",
        f"{smear.regions_out_of_focus} regions out of focus" if smear.regions_out_of_focus else "",
        f"stain contrast {smear.stain_contrast:.2f}" if smear.stain_contrast is not None else "",
    ]
    return [
        ("Scanned", scanned),
        (
            "Of that",
            ", ".join(f"{words} {area:.2f}" for words, area in parts.items() if area >= 0.005)
            + " mm²",
        ),
        ("Counted in", counted),
        ("Quality", "; ".join(filter(None, quality)) or "not measured"),
    ]


def _outside_words(verdict: OutsideVerdict | None) -> str:
    if verdict is None:
        return "not known: the weights cannot tell"
    side = "outside what the network was measured on" if verdict.outside else "within the limit"
    return (
        f"{verdict.unfamiliar_cells} of {verdict.cells} ({verdict.percent:.1f} %); {verdict.expected_percent:.1f} % "
        f"expected, limit {verdict.limit_percent:g} %: {side}"
    )


def _audit_words(audit: ScreenAudit | None) -> str:
    if audit is None or audit.missed_estimate is None:
        return "no sample was taken"
    return (
        f"{audit.found} cell{'' if audit.found == 1 else 's'} in a sample of {audit.audited_mm2:.3f} of the {audit.passed_over_mm2:.2f} mm² passed over: "
        f"{audit.missed_estimate:.0f} missed on the slide (95 % limits {audit.low95:.0f}–{audit.high95:.0f})"
    )


def percent(value: float | None, decimals: int = 1) -> str:
    """Format a per cent, or a dash if there is none."""
    return _DASH if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"
