"""Read a slide's published results and check them. The report and the second count use them.

A file that is missing, damaged, of another format or edited by hand raises ResultsError.
The message names the file and the remedy.
"""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bounded_files import open_regular, read_bounded, read_json
from ..cells.own_classes import own_classes
from ..errors import ResultsError
from ..outputs.pictures import read_pictures
from ..outputs.tables import REGION_COLUMNS, read_table
from ..results.slide_record import RESULT_NAME, SlideRecord, check_types, parse_record, read_record
from ..settings import FORMAT_VERSION
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, UNIDENTIFIED, WHITE_NAMES
from .outlines import Outlines, read_outlines

TEACHING_COLUMN = "teaches"  # optional: how much a decision on the cell would teach the network
REMEDY = "run `hemax-batch run` on the slide again (with --overwrite)"
_FALSE_CALLS = ("expected_false", "expected_false_low95", "expected_false_high95")
_REGIONS_BYTES = 2**26  # of regions.csv, of some 300,000 regions
_OUTLINES_BYTES, _OUTLINE_BYTES = 2**20, 64 * 2**10  # of cells.geojson: its head, and a cell
_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, EOFError, RuntimeError,
    csv.Error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class LoadedCell:
    """A row of `cells.csv`. Lengths are in µm, the box in level-0 pixels. None means no value."""

    cell_id: int
    class_name: str
    confidence: float
    box_xyxy: tuple[float, float, float, float]
    states: tuple[
        tuple[int, float], ...
    ]  # of vocabulary.ATTRIBUTES: (index of the likeliest state, its probability)
    diameter_um: float | None
    diameter_vs_rbc: float | None
    nc_ratio: float | None
    nucleus_fraction: float | None
    in_differential: bool
    left_out: str  # why a cell that lies there does not count, whatever its class; "": it does
    review: bool
    reasons: str
    explanation: str
    teaches: float | None = (
        None  # how much a decision on it would teach; None where no column says so
    )

    @property
    def centre(self) -> tuple[float, float]:
        """Return the centre of the box. It is also the centre of the cell's picture."""
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class LoadedRegion:
    """A row of `regions.csv`: the place of a region, and whether its cells count."""

    rect: tuple[float, float, float, float]
    state: str
    zone: str
    used: bool
    reason: str
    area_mm2: float


@dataclass(frozen=True)
class LoadedSlide:
    """A slide's results. `differential` is the checked `differential.json`.

    `overview` is b"" and `regions` is empty if the run wrote none.
    """

    folder: Path
    sha256: str
    record: SlideRecord
    differential: dict[str, Any]
    cells: tuple[LoadedCell, ...]
    outlines: dict[int, Outlines]
    pictures: dict[int, bytes]
    regions: tuple[LoadedRegion, ...]
    overview: bytes


def load_slide(folder: Path) -> LoadedSlide:
    """Read a slide's folder. Results that cannot be trusted raise ResultsError with file and remedy."""
    record = load_record(folder)
    cells = load_cells(folder, record)
    differential = load_differential(folder)
    _check_counts(folder, differential, cells)
    ids = {cell.cell_id for cell in cells}
    outlines = load_outlines(folder, len(ids))
    with _results_errors(folder / "cells.geojson"):
        _only_known(outlines, ids)
    with _results_errors(folder / "pictures.zip") as path:
        pictures = read_pictures(path, len(ids))
        _only_known(pictures, ids)
        if any(not jpeg.startswith(b"\xff\xd8") for jpeg in pictures.values()):
            raise ValueError("a picture is no JPEG")
    return LoadedSlide(
        folder,
        result_sha256(folder),
        record,
        differential,
        cells,
        outlines,
        pictures,
        _regions(folder),
        _overview(folder),
    )


def load_record(folder: Path) -> SlideRecord:
    """Read `result.json`. ResultsError says why this version cannot read it."""
    path = folder / RESULT_NAME
    with _results_errors(path):
        record = read_record(folder)
        if record is not None:
            return record
    if not path.is_file():
        raise ResultsError(
            f"{path}: is missing, so {folder.name!r} is half done or no result of hemax-batch; {REMEDY}"
        )
    with _results_errors(path):
        raw = read_json(path)
        written, slide_id = raw["format"], raw["slide_id"]
    if written != FORMAT_VERSION:
        raise ResultsError(
            f"{path}: is of format {written!r}, this version reads {FORMAT_VERSION}; {REMEDY}"
        )
    if slide_id != folder.name:
        raise ResultsError(
            f"{path}: is of slide {slide_id!r}, but its folder is {folder.name!r}; give the folder its name back"
        )
    with _results_errors(path), suppress(TypeError, KeyError):
        check_types(parse_record(folder))
    raise ResultsError(
        f"{path}: does not hold the entries of format {FORMAT_VERSION}: edited by hand? {REMEDY}"
    )


def load_cells(folder: Path, record: SlideRecord) -> tuple[LoadedCell, ...]:
    """Read `cells.csv`, in its order. ResultsError says which row is wrong, or that the cells are not those of `record`."""
    with _results_errors(folder / "cells.csv") as path:
        cells = tuple(
            _cell(row, record.slide_id, line) for line, row in enumerate(read_table(path), start=2)
        )
        if len({cell.cell_id for cell in cells}) != len(cells):
            raise ValueError("a cell_id is there twice")
        if len(cells) != record.cells:
            raise ValueError(f"holds {len(cells)} cells, {RESULT_NAME} says {record.cells}")
    return cells


def _cell(row: dict[str, str], slide_id: str, line: int) -> LoadedCell:
    try:
        if row["slide"] != slide_id:
            raise ValueError(f"is of slide {row['slide']!r}")
        if row["class"] not in (*CLASS_NAMES, UNIDENTIFIED):
            raise ValueError(f"{row['class']!r} is no class")
        states = tuple(
            (a.states.index(row[a.name]), _parse_number(row[f"{a.name}_confidence"]))
            for a in ATTRIBUTES
        )
        return LoadedCell(
            int(row["cell_id"]),
            row["class"],
            _parse_number(row["confidence"]),
            _box(row),
            states,
            _optional_number(row["diameter_um"]),
            _optional_number(row["diameter_vs_rbc"]),
            _optional_number(row["nc_ratio"]),
            _optional_number(row["nucleus_fraction"]),
            _parse_bool(row["in_differential"]),
            row["left_out"],
            _parse_bool(row["review"]),
            row["review_reasons"],
            row["explanation"],
            _optional_number(row.get(TEACHING_COLUMN, "")),
        )
    except KeyError as error:
        raise ValueError(f"line {line}: there is no column {error}") from error
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error


def load_outlines(folder: Path, cells: int) -> dict[int, Outlines]:
    """`cells.geojson` of so many cells. ResultsError where it cannot be trusted."""
    with _results_errors(folder / "cells.geojson") as path:
        return read_outlines(path, _OUTLINES_BYTES + cells * _OUTLINE_BYTES)


def load_differential(folder: Path) -> dict[str, Any]:
    """Read `differential.json`, and check every entry that a report shows. ResultsError names what is wrong."""
    with _results_errors(folder / "differential.json") as path:
        d: dict[str, Any] = read_json(path)
        for entry in d["classes"]:
            _typed(entry, words=str, count=int)
            if entry["class"] not in ("neutrophils", *WHITE_NAMES):
                raise ValueError(f"{entry['class']!r} is no white class")
            for key in ("percent", "low95", "high95", *_FALSE_CALLS):
                _number_or_none(entry[key])
            if "reference_percent" in entry:
                _low, _high = map(float, entry["reference_percent"])
        if [entry["class"] for entry in d["classes"]] != ["neutrophils", *WHITE_NAMES]:
            raise ValueError("the classes are not those of this version, in clinical order")
        _typed(
            d,
            white_cells=int,
            target_cells=int,
            sufficient=bool,
            reportable=bool,
            not_reportable=list,
            unidentified=int,
            to_review=int,
            claim=str,
            interval=str,
            rules=dict,
            warnings=list,
            not_assessed=list,
            flags=list,
        )
        _typed(d["nucleated_red_cells"], count=int)
        for key in ("per_100_white", "wbc", "corrected_wbc", *_FALSE_CALLS):
            _number_or_none(d["nucleated_red_cells"][key])
        _typed(d["smudge_cells"], count=int)
        _number_or_none(d["smudge_cells"]["per_100_white"])
        _number_or_none(d["red_cell_diameter_um"]["median"])
        _typed(d["red_cell_diameter_um"], measured=int, assumed=bool)
        for flag in d["flags"]:
            _typed(flag, rule=str, words=str)
        texts = (*d["warnings"], *d["not_assessed"], *d["not_reportable"])
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a warning is no text")
        _typed(d["rules"], reference_ranges_of=str)
        own_classes(d["rules"].get("own_classes", {}))
    return d


def _check_counts(
    folder: Path, differential: dict[str, Any], cells: tuple[LoadedCell, ...]
) -> None:
    """Check that the differential agrees with the cells. An edit of one of the two files is reported."""
    tally = Counter(cell.class_name for cell in cells if cell.in_differential)
    for entry in differential["classes"][1:]:
        if entry["count"] != tally[entry["class"]]:
            raise ResultsError(
                f"{folder / 'differential.json'}: counts {entry['count']} {entry['words']}, cells.csv holds "
                f"{tally[entry['class']]}: one of them was edited by hand or comes from another run; {REMEDY}"
            )


def _regions(folder: Path) -> tuple[LoadedRegion, ...]:
    if not (folder / "regions.csv").exists():
        return ()
    with _results_errors(folder / "regions.csv") as path:
        head = read_bounded(path, _REGIONS_BYTES).removeprefix(b"\xef\xbb\xbf")  # of an editor
        if not head.startswith(",".join(REGION_COLUMNS).encode()):
            raise ValueError("its columns are not those of this version")
        return tuple(
            LoadedRegion(
                _box(row),
                row["state"],
                row["zone"],
                _parse_bool(row["used"]),
                row["reason"],
                _parse_number(row["area_mm2"]),
            )
            for row in read_table(path)
        )


def _overview(folder: Path) -> bytes:
    if not (folder / "overview.jpg").exists():
        return b""
    with _results_errors(folder / "overview.jpg") as path:
        jpeg = read_bounded(path)
        if not jpeg.startswith(b"\xff\xd8"):
            raise ValueError("is no JPEG")
    return jpeg


def result_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) over the bytes of `cells.csv` and `result.json`. A review refers to it.

    ResultsError where either cannot be read.
    """
    digest = hashlib.sha256()
    for name in ("cells.csv", RESULT_NAME):
        with _results_errors(folder / name) as path:
            with open_regular(path) as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


@contextmanager
def _results_errors(path: Path) -> Iterator[Path]:
    """Turn every error of reading `path` into a ResultsError."""
    try:
        yield path
    except ResultsError:
        raise
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: is missing; {REMEDY}") from error
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read: {error.strerror or error}; {REMEDY}"
        ) from error
    except _DAMAGE as error:
        what = (
            f"there is no entry {error}"
            if isinstance(error, KeyError)
            else str(error) or type(error).__name__
        )
        raise ResultsError(
            f"{path}: is damaged or was edited by hand ({what}); {REMEDY}"
        ) from error


def _only_known(found: Mapping[int, object], ids: set[int]) -> None:
    if unknown := sorted(set(found) - ids):
        raise ValueError(f"holds cell {unknown[0]}, which cells.csv does not")


def _box(row: dict[str, str]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (_parse_number(row[k]) for k in ("x0", "y0", "x1", "y1"))
    return x0, y0, x1, y1


def _parse_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no figure")
    return value


def _optional_number(text: str) -> float | None:
    return _parse_number(text) if text else None


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _number_or_none(value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{value!r} is no figure")


def _typed(entry: dict[str, Any], **types: type) -> None:
    for name, wanted in types.items():
        if type(entry[name]) is not wanted:
            raise ValueError(f"{name} is {entry[name]!r}, expected {wanted.__name__}")
