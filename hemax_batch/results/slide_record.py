"""The record of a slide's published results: `result.json` beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from ..bounded_files import read_json
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
        record = parse_record(folder)
        check_types(record)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if record.format != FORMAT_VERSION or record.slide_id != folder.name:
        return None
    return record


def parse_record(folder: Path) -> SlideRecord:
    """The record as it stands there, its entries' types not yet checked. OSError, ValueError, TypeError or KeyError."""
    raw = read_json(folder / RESULT_NAME)
    raw["figures"] = ScanFigures(**raw["figures"])
    raw["smear"] = raw["smear"] and SmearAreas(**raw["smear"])
    raw["screen_audit"] = raw["screen_audit"] and ScreenAudit(**raw["screen_audit"])
    raw["outside"] = raw["outside"] and OutsideVerdict(**raw["outside"])
    raw["unreadable_places"] = tuple(UnreadablePlace(**p) for p in raw["unreadable_places"])
    return SlideRecord(**raw)


def check_types(record: object) -> None:
    """ValueError where an entry of a record, or of a record in it, is not of the type that it is declared with."""
    for name, declared in get_type_hints(type(record)).items():
        value, allowed = getattr(record, name), get_args(declared) or (declared,)
        if is_dataclass(value):
            check_types(value)
        elif get_origin(declared) is tuple and is_dataclass(allowed[0]):
            for item in value:
                check_types(item)
        elif get_origin(declared) is tuple:
            if not isinstance(value, list) or not all(type(item) is allowed[0] for item in value):
                raise ValueError(f"{name} is {value!r:.200}")
        elif type(value) not in allowed and not (float in allowed and type(value) is int):
            raise ValueError(f"{name} is {value!r:.200}")
