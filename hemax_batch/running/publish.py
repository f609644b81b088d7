"""From a slide's finished regions to its results: merge, measure, explain, count, write aside, rename. And the tables
over all slides, which are joined from those of the slides, so that they too hold what earlier nights did.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import __version__
from ..cells.counting import Counting, SmearAccount, choose_cells, words_on
from ..cells.differential import Differential, count
from ..cells.explain import Readings, read_cells, words_on_unfamiliar
from ..cells.measure import Measures, measure
from ..errors import OutputError
from ..geometry import centres
from ..outputs.clinical import write_differential
from ..outputs.geojson import write_geojson
from ..outputs.masks import write_masks
from ..outputs.pictures import write_overview, write_pictures
from ..outputs.tables import (
    CELL_COLUMNS,
    DIFFERENTIAL_COLUMNS,
    REGION_COLUMNS,
    cell_rows,
    differential_row,
    region_rows,
    write_table,
)
from ..records import MergedCells, RegionFigures, Slide
from ..results.folder import ResultsFolder, SlideRecord, write_record
from ..results.kept import KeptAside
from ..review.report import write_report_or_say_why
from ..settings import FORMAT_VERSION, RunSettings
from ..slides.overview import assemble
from ..slides.zones import zone_map
from ..vocabulary import ZONES
from .account import (
    account_regions,
    account_smear,
    holds_single_cells,
    stain_figures,
    words_on_quality,
)
from .gather import Gathered, gather
from .spread import MANY_CELLS, Spread
from .workqueue import SlideWork, unreadable_share

_MOST_WARNINGS = 12


def publish_slide(
    results: ResultsFolder, work: SlideWork, settings: RunSettings, min_confidence: float, weights_sha256: str,
    processes: int = 0,
) -> SlideRecord:  # fmt: skip
    """Make a slide's results from its journal and put them in place at once; returns their record. A slide of very many
    cells is written by so many `processes`.

    Steps: gather the regions, merge their cells, measure, explain, see where on the smear they lie, count those that
    count, write everything aside, the report of it last, rename. OutputError where the results folder cannot take them.
    """
    with KeptAside(work.journal) as kept:
        found = gather(work, kept)
        counted = _count(work, found, settings, min_confidence)
        record = _record(work, found, counted, weights_sha256)
        made = results.making(work.slide_id)
        with _as_output_error(results.slide(work.slide_id)):
            _write_tables(made, work.slide, found, counted, record)
            _write_cells(made, work.slide, found.merged, counted, kept, processes)
            overview = assemble(work.slide, work.plan.stain, [r.overview for r in found.looked])
            write_overview(made / "overview.jpg", overview)
            write_record(made, record)  # the report reads the results back, this among them
            write_report_or_say_why(made)
    results.publish(made, record)
    return record


@dataclass(frozen=True)
class _Counted:
    """What is said of a slide's cells, one by one and together."""

    measures: Measures
    readings: Readings
    counting: Counting
    regions: list[RegionFigures]
    smear: SmearAccount
    differential: Differential


def _count(
    work: SlideWork, found: Gathered, settings: RunSettings, min_confidence: float
) -> _Counted:
    slide, cells = work.slide, found.merged.cells
    measures = measure(cells, slide.mpp, found.diameters_um)
    readings = read_cells(cells, measures, (slide.width, slide.height), min_confidence)
    names, centres_xy = readings.names, centres(cells.boxes_xyxy.astype(np.float64))
    read = {r.region_index for r in found.looked}
    lost = [region.core for region in work.plan.regions if region.index not in read]
    zones = zone_map(slide, [r.squares for r in found.looked], lost)
    counting = choose_cells(
        names,
        [ZONES[z] for z in zones.at(centres_xy).tolist()],
        settings.count_in,
        settings.target_cells,
        is_smear=holds_single_cells(zones, slide, len(found.diameters_um)),
    )
    regions = account_regions(
        work.plan,
        found.looked,
        work.lost,
        zones,
        counting,
        centres_xy,
        names,
        measures.rbc_diameter_um,
    )
    those = [name for name, reason in zip(names, counting.left_out, strict=True) if not reason]
    differential = count(those, settings.target_cells, settings.wbc, settings.rules)
    stained = stain_figures(work.plan.stain, regions, cells.unfamiliar)
    smear = replace(account_smear(regions, counting, names), **stained)
    return _Counted(measures, readings, counting, regions, smear, differential)


def _record(
    work: SlideWork, found: Gathered, counted: _Counted, weights_sha256: str
) -> SlideRecord:
    slide, merged, measures = work.slide, found.merged, counted.measures
    told = [
        words_on_unfamiliar(merged.cells),
        words_on(counted.counting, counted.readings.names),
        found.audit.words(len(merged.ids)),
        *words_on_quality(counted.regions),
    ]
    return SlideRecord(
        FORMAT_VERSION,
        slide.slide_id,
        slide.path,
        slide.width,
        slide.height,
        slide.mpp,
        work.fingerprint,
        slide.fingerprint,
        weights_sha256,
        __version__,
        len(merged.ids),
        len(work.plan.regions),
        tuple(sorted(work.lost)),
        round(unreadable_share(work), 6),
        _warnings(work, told, found.notes),
        merged.dropped["duplicate"],
        measures.rbc_diameter_um,
        measures.rbc_measured,
        found.figures,
        counted.smear,
        found.audit,
    )


def _write_tables(
    made: Path, slide: Slide, found: Gathered, counted: _Counted, record: SlideRecord
) -> None:
    """The slide's tables and its differential."""
    rows = cell_rows(
        slide.slide_id, found.merged, counted.measures, counted.readings, counted.counting
    )
    write_table(made / "cells.csv", CELL_COLUMNS, rows)
    write_table(made / "regions.csv", REGION_COLUMNS, region_rows(slide.slide_id, counted.regions))
    to_review = int(counted.readings.review.sum())
    row = differential_row(
        slide.slide_id, slide.path, counted.differential, to_review, record.warnings
    )
    write_table(made / "differential.csv", DIFFERENTIAL_COLUMNS, [row])
    write_differential(
        made / "differential.json",
        slide.slide_id,
        slide.path,
        counted.differential,
        counted.measures,
        to_review,
        record.warnings,
        counted.smear,
        found.audit,
    )


def _write_cells(
    made: Path,
    slide: Slide,
    merged: MergedCells,
    counted: _Counted,
    kept: KeptAside,
    processes: int,
) -> None:
    """What shows the slide's cells: masks, pictures, outlines."""
    with Spread(processes if len(merged.ids) >= MANY_CELLS else 0) as spread:
        write_masks(made / "masks.zarr", slide, merged, counted.readings.names, spread.map)
    write_pictures(made / "pictures.zip", merged, kept.picture)
    write_geojson(
        made / "cells.geojson",
        slide.slide_id,
        merged,
        counted.measures,
        counted.readings,
        kept.outline,
    )


def _warnings(work: SlideWork, told: list[str], notes: list[str]) -> tuple[str, ...]:
    """What to know before the numbers are used, the weightiest first; `told` may hold empty sentences."""
    warnings = list(work.plan.stain.warnings)
    if work.lost:
        share = 100 * unreadable_share(work)
        warnings.append(
            f"{share:.1f} % of the scanned area ({len(work.lost)} of {len(work.plan.regions)} regions) "
            "could not be read"
        )
    warnings += filter(None, told)
    left_out = len(notes) - _MOST_WARNINGS
    return (
        *warnings,
        *notes[:_MOST_WARNINGS],
        *([f"and {left_out} more such notes"] if left_out > 0 else []),
    )


def write_run_tables(results: ResultsFolder) -> None:
    """`differential.csv` and `cells.csv` over all slides in the folder, by id, each put in place at once."""
    folders = [results.slide(record.slide_id) for record in results.records()]
    for name, columns in (("differential.csv", DIFFERENTIAL_COLUMNS), ("cells.csv", CELL_COLUMNS)):
        target = results.root / name
        aside = results.state / f"{name}.{os.getpid()}.partial"
        with _as_output_error(target):
            with open(aside, "wb") as joined:
                joined.write((",".join(columns) + "\n").encode())
                for folder in folders:
                    with open(folder / name, "rb") as part:
                        part.readline()
                        shutil.copyfileobj(part, joined)
                joined.flush()
                os.fsync(joined.fileno())
            aside.replace(target)


@contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}; "
            "check space and permissions, then run again to go on"
        ) from error
