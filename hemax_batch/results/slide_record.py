"""The record of a slide's published results: `result.json` beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..cells.cell_selection import SmearAreas
from ..cells.outside import OutsideVerdict
from ..cells.screening_audit import ScreenAudit
from ..settings import FORMAT_VERSION
from .atomic_files import write_file

RESULT_NAME = "result.json"


@dataclass(frozen=True)
class ScanFigures:
    """What was scanned and what it cost, over all readable regions of a slide."""

    scanned_mm2: float
    blank_mm2: float
    proposals: int
    patches: int
    saturated: int
    platelets: int
    audited_mm2: float
    audit_cells: int


@dataclass(frozen=True)
class UnreadablePlace:
    """A rectangle of a slide (level-0 pixels) that could not be decoded, with its area and the reason."""

    rect: tuple[int, int, int, int]
    mm2: float
    reason: str


@dataclass(frozen=True)
class SlideRecord:
    """The inputs of a slide's published results, and what to know of them.

    It contains no time of day, so the same work gives the same bytes.
    """

    format: int
    slide_id: str
    path: str
    width: int  # level-0 pixels
    height: int
    mpp: float  # µm per level-0 pixel
    fingerprint: str
    slide_fingerprint: str
    weights_sha256: str
    version: str
    cells: int
    regions: int
    unreadable_regions: tuple[int, ...]
    unreadable_share: float
    warnings: tuple[str, ...]
    duplicates: int
    rbc_diameter_um: float
    rbc_measured: int
    figures: ScanFigures
    smear: SmearAreas | None = None
    screen_audit: ScreenAudit | None = None
    outside: OutsideVerdict | None = None
    slide_notes: tuple[str, ...] = ()  # which image and plane of the file was read, what was left
    orientation: int = 1  # the file's tag
    unreadable_places: tuple[UnreadablePlace, ...] = ()  # damaged places, usually tiles
    sample_id: str = ""  # from a manifest


def write_record(folder: Path, record: SlideRecord) -> None:
    """Write `result.json` into a slide's staging folder."""
    write_file(folder / RESULT_NAME, (json.dumps(asdict(record), indent=1) + "\n").encode())


def read_record(folder: Path) -> SlideRecord | None:
    """Read the record in a slide's results folder.

    The result is None if there is none, or if it is damaged or of another format.
    """
    try:
        raw = json.loads((folder / RESULT_NAME).read_text("utf-8"))
        raw["figures"] = ScanFigures(**raw["figures"])
        raw["smear"] = raw["smear"] and SmearAreas(**raw["smear"])
        raw["screen_audit"] = raw["screen_audit"] and ScreenAudit(**raw["screen_audit"])
        raw["outside"] = raw["outside"] and OutsideVerdict(**raw["outside"])
        raw["unreadable_places"] = tuple(UnreadablePlace(**p) for p in raw["unreadable_places"])
        record = SlideRecord(**raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if record.format != FORMAT_VERSION or record.slide_id != folder.name:
        return None
    return record
