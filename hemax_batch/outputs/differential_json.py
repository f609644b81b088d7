"""Write `differential.json`: a slide's differential for other programs, with codes, ranges and rules."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cells.cell_selection import SmearAreas
from ..cells.differential import LOINC, LOINC_SMUDGE, NOT_ASSESSED, Differential
from ..cells.false_calls import FalseCalls
from ..cells.measure import CellMeasures
from ..cells.own_classes import OwnClass, own_classes, own_classes_record
from ..cells.rules import NEUTROPHILS, SOURCES, Rules
from ..cells.screening_audit import ScreenAudit
from ..vocabulary import CLASSES, REVIEW_CLASSES, CellClass


def write_differential(
    path: Path,
    slide_id: str,
    slide_path: str,
    d: Differential,
    measures: CellMeasures,
    to_review: int,
    warnings: tuple[str, ...],
    smear: SmearAreas | None = None,
    audit: ScreenAudit | None = None,
    not_assessed: tuple[str, ...] = NOT_ASSESSED,
    sample_id: str = "",
) -> None:
    """Write the record of one slide. A value that does not exist is null. The caller renames the file.

    `smear` holds the areas. `audit` holds the estimate of cells that the screening missed.
    """
    record = {
        "claim": d.claim,
        "slide": slide_id,
        "sample_id": sample_id,
        "path": slide_path,
        **count_record(d),
        "to_review": to_review,
        "red_cell_diameter_um": {
            "median": _rounded(measures.rbc_diameter_um, 2),
            "measured": measures.rbc_measured,
            "assumed": measures.rbc_is_assumed,
        },
        "smear": smear and asdict(smear),
        "screen_audit": audit and asdict(audit),
        "warnings": list(warnings),
        "not_assessed": list(not_assessed),
        "rules": _rules_record(d),
    }
    path.write_bytes(encode_json(record))


def encode_json(record: dict[str, Any]) -> bytes:
    """Encode as indented UTF-8. Names stay as they are. NaN raises ValueError."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def count_record(d: Differential) -> dict[str, Any]:
    """Return the counts: total neutrophils, the classes in clinical order, NRBC, cells outside, flags."""
    return {
        "white_cells": d.n_white,
        "target_cells": d.target_cells,
        "sufficient": d.sufficient,
        "reportable": d.reportable,
        "not_reportable": list(d.not_reportable),
        "interval": "95 %, Clopper-Pearson (exact)",
        "classes": [_class_record(d, name) for name in (NEUTROPHILS, *d.shares)],
        "nucleated_red_cells": {
            "count": d.nrbc,
            "per_100_white": _rounded(d.nrbc_per_100, 4),
            "wbc": d.wbc,
            "corrected_wbc": _rounded(d.corrected_wbc, 2),
            **_false_calls_record(d, "erythroblast"),
        },
        "smudge_cells": {
            "count": d.smudge,
            "per_100_white": _rounded(d.smudge_per_100, 4),
            "loinc": LOINC_SMUDGE,
        },
        "unidentified": d.unidentified,
        "outside": d.outside,
        "flags": [{"rule": flag.rule, "words": flag.words} for flag in d.flags],
    }


def _false_calls_record(d: Differential, name: str) -> dict[str, float | None]:
    """Return what error alone would give of a class; null if it is not known."""
    error = d.false_calls.get(name) if d.false_calls else None
    return {
        "expected_false": round(error.expected, 3) if error else None,
        "expected_false_low95": error.low if error else None,
        "expected_false_high95": error.high if error else None,
    }


def false_calls_from_record(record: dict[str, Any]) -> dict[str, FalseCalls]:
    """Read the calls expected by error from a `differential.json`, by class; empty if not known."""
    entries = {entry["class"]: entry for entry in record["classes"]}
    entries["erythroblast"] = record["nucleated_red_cells"]
    return {
        name: FalseCalls(
            entry["expected_false"], entry["expected_false_low95"], entry["expected_false_high95"]
        )
        for name, entry in entries.items()
        if entry["expected_false"] is not None
    }


def rules_from_record(record: dict[str, Any]) -> Rules:
    """The rules that a `differential.json` was made with. KeyError, TypeError where it does not hold them."""
    thresholds = {
        name: entry["value"]
        for name, entry in record["rules"].items()
        if isinstance(entry, dict) and name != "own_classes"
    }
    ranges = {
        c["class"]: tuple(c["reference_percent"])
        for c in record["classes"]
        if "reference_percent" in c
    }
    return Rules(
        **thresholds,
        ranges=ranges,
        ranges_of=record["rules"]["reference_ranges_of"],
        classes=own_classes(record["rules"].get("own_classes", {})),
    )


# Four decimals: a reader that shows one decimal must not round twice (5 of 68: 7.35 would become 7.3).
def _class_record(d: Differential, name: str) -> dict[str, Any]:
    """Return a white class, or total neutrophils. They come first because the split into bands is unreliable."""
    share = d.share(name)
    named: tuple[CellClass | OwnClass, ...] = (*CLASSES, *REVIEW_CLASSES, *d.rules.classes)
    words = {c.name: c.words for c in named} | {NEUTROPHILS: "neutrophil, band and segmented"}
    record: dict[str, Any] = {
        "class": name,
        "words": words[name],
        "count": share.count,
        "percent": _rounded(share.percent, 4),
        "low95": _rounded(share.low, 4),
        "high95": _rounded(share.high, 4),
        **_false_calls_record(d, name),
    }
    if name in LOINC:
        record["loinc"] = LOINC[name]
    if name in d.rules.ranges:
        record["reference_percent"] = list(d.rules.ranges[name])
    return record


def _rules_record(d: Differential) -> dict[str, Any]:
    """Return every threshold with the source of its default. It explains what raised a flag."""
    thresholds = {
        name: {"value": getattr(d.rules, name), "default_from": source}
        for name, source in SOURCES.items()
        if name != "ranges"
    }
    own = {"own_classes": own_classes_record(d.rules.classes)} if d.rules.classes else {}
    return {"reference_ranges_of": d.rules.ranges_of, **thresholds, **own}


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), decimals)
