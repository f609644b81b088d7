"""Publish a slide: merge, measure, explain, count, write aside, rename."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..cells.cell_selection import CellSelection, SmearAreas, select_cells, selection_warning
from ..cells.classify import CellCalls, classify_cells
from ..cells.differential import (
    SCALE_FLAG,
    Differential,
    Flag,
    count_differential,
    expected_false_calls,
    not_assessed,
)
from ..cells.false_calls import CallErrors
from ..cells.measure import CellMeasures, measure_cells
from ..cells.outside import OutsideVerdict, expected_share, judge_slide
from ..geometry import centres
from ..model.checkpoint import WeightsCard
from ..outputs.differential_json import write_differential
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
from ..records import MergedCells, RegionReport, Slide
from ..results.atomic_files import as_output_error
from ..results.folder import ResultsFolder
from ..results.region_blobs import RegionBlobs
from ..results.slide_record import SlideRecord, UnreadablePlace, write_record
from ..review.report import write_report_or_say_why
from ..scheduling.process_pool import MIN_CELLS_FOR_POOL, ProcessPool
from ..scheduling.slide_job import SlideJob, unreadable_areas, unreadable_share
from ..settings import FORMAT_VERSION, RunSettings
from ..slides.overview import assemble_overview
from ..slides.zones import zone_map
from ..vocabulary import ZONES
from .area_report import (
    has_single_red_cells,
    quality_warnings,
    region_reports,
    smear_areas,
    stain_figures,
)
from .slide_cells import SlideCells, collect_regions

_MAX_NOTES = 12


def publish_slide(
    results: ResultsFolder,
    job: SlideJob,
    settings: RunSettings,
    card: WeightsCard,
    processes: int = 0,
) -> SlideRecord:
    """Make a slide's results from its journal and put them in place at once.

    Steps: collect the regions and merge their cells, measure, explain, find each cell's zone, count,
    write everything aside with the report last, rename. Very many cells are written by `processes`.

    Raises OutputError if the results folder cannot be written. Returns the record of the results.
    """
    with RegionBlobs(job.journal) as blobs:
        cells_found = collect_regions(job, blobs)
        counts = _count_cells(job, cells_found, settings, card)
        record = _make_record(job, cells_found, counts, card.sha256)
        folder = results.staging_folder(job.slide_id)
        with as_output_error(results.slide(job.slide_id)):
            record = replace(record, sample_id=settings.sample_id)
            _write_tables(folder, job.slide, cells_found, counts, record)
            _write_cells(folder, job.slide, cells_found.merged, counts, blobs, processes)
            overview = assemble_overview(
                job.slide, job.plan.stain, [r.overview for r in cells_found.regions]
            )
            write_overview(folder / "overview.jpg", overview)
            write_record(folder, record)  # the report reads it
            write_report_or_say_why(folder)
    results.publish(folder, record)
    return record


@dataclass(frozen=True)
class _SlideCounts:
    """Measures, calls and counts of a slide's cells."""

    measures: CellMeasures
    calls: CellCalls
    selection: CellSelection
    regions: list[RegionReport]
    smear: SmearAreas
    differential: Differential
    outside: OutsideVerdict | None
    not_assessed: tuple[str, ...]


def _count_cells(
    job: SlideJob, cells_found: SlideCells, settings: RunSettings, card: WeightsCard
) -> _SlideCounts:
    """Measure, classify, select and count a slide's cells."""
    slide, cells = job.slide, cells_found.merged.cells
    min_confidence = settings.min_confidence
    if min_confidence is None:
        min_confidence = card.min_confidence
    measures = measure_cells(cells, slide.mpp, cells_found.diameters_um)
    calls = classify_cells(cells, measures, (slide.width, slide.height), min_confidence)
    names, centres_xy = calls.names, centres(cells.boxes_xyxy.astype(np.float64))
    read = {r.region_index for r in cells_found.regions}
    lost = [region.core for region in job.plan.regions if region.index not in read]
    zones = zone_map(slide, [r.squares for r in cells_found.regions], lost, job.damaged)
    selection = select_cells(
        names,
        [ZONES[z] for z in zones.zones_at(centres_xy).tolist()],
        settings.count_in,
        settings.target_cells,
        is_smear=has_single_red_cells(zones, slide, len(cells_found.diameters_um)),
    )
    regions = region_reports(
        job.plan,
        cells_found.regions,
        job.unreadable,
        zones,
        selection,
        centres_xy,
        names,
        measures.rbc_diameter_um,
        unreadable_areas(job),
    )
    counted_names = [
        name for name, reason in zip(names, selection.left_out, strict=True) if not reason
    ]
    outside = judge_slide(
        cells.ood_score, expected_share(card.metrics), settings.rules.outside_percent
    )
    differential = count_differential(
        counted_names,
        settings.target_cells,
        settings.wbc,
        settings.rules,
        expected_false_calls(_call_errors(card, min_confidence), counted_names),
        (outside.words,) if outside and outside.outside else (),
        (Flag(SCALE_FLAG, job.plan.scale_warning),) if job.plan.scale_warning else (),
    )
    stained: dict[str, Any] = stain_figures(job.plan.stain, regions, cells.ood_score)
    smear = replace(smear_areas(regions, selection, names), **stained)
    return _SlideCounts(
        measures,
        calls,
        selection,
        regions,
        smear,
        differential,
        outside,
        not_assessed(card.unknown_classes),
    )


def _call_errors(card: WeightsCard, min_confidence: float) -> CallErrors | None:
    """What the card measured of wrong calls; None where this run calls cells that the card left unidentified."""
    errors = CallErrors.from_record(card.metrics.get("calls"))
    return errors if errors and min_confidence >= errors.min_confidence else None


def _make_record(
    job: SlideJob, cells_found: SlideCells, counts: _SlideCounts, weights_sha256: str
) -> SlideRecord:
    """Return the record of a slide's results."""
    slide, merged, measures = job.slide, cells_found.merged, counts.measures
    notices = [
        counts.outside.words if counts.outside else "",
        selection_warning(counts.selection, counts.calls.names),
        cells_found.audit.warning(len(merged.ids)),
        *quality_warnings(counts.regions),
    ]
    return SlideRecord(
        FORMAT_VERSION,
        slide.slide_id,
        slide.path,
        slide.width,
        slide.height,
        slide.mpp,
        job.fingerprint,
        slide.fingerprint,
        weights_sha256,
        __version__,
        len(merged.ids),
        len(job.plan.regions),
        tuple(sorted(job.unreadable)),
        round(unreadable_share(job), 6),
        _warnings(job, notices, cells_found.notes),
        merged.dropped["duplicate"],
        measures.rbc_diameter_um,
        measures.rbc_measured,
        cells_found.figures,
        counts.smear,
        cells_found.audit,
        counts.outside,
        slide.notes,
        slide.orientation,
        _unreadable_places(job),
    )


def _unreadable_places(job: SlideJob) -> tuple[UnreadablePlace, ...]:
    """Return the damaged places with their areas."""
    um2_per_px = job.slide.mpp**2
    return tuple(
        UnreadablePlace(
            rect, round((rect[2] - rect[0]) * (rect[3] - rect[1]) * um2_per_px / 1e6, 6), reason
        )
        for rect, reason in sorted(job.damaged.items())
    )


def _write_tables(
    folder: Path, slide: Slide, cells_found: SlideCells, counts: _SlideCounts, record: SlideRecord
) -> None:
    """Write the slide's tables and its differential."""
    rows = cell_rows(
        slide.slide_id,
        cells_found.merged,
        counts.measures,
        counts.calls,
        counts.selection,
        record.sample_id,
    )
    write_table(folder / "cells.csv", CELL_COLUMNS, rows)
    write_table(folder / "regions.csv", REGION_COLUMNS, region_rows(slide.slide_id, counts.regions))
    to_review = int(counts.calls.review.sum())
    row = differential_row(
        slide.slide_id,
        slide.path,
        counts.differential,
        to_review,
        record.warnings,
        record.sample_id,
    )
    write_table(folder / "differential.csv", DIFFERENTIAL_COLUMNS, [row])
    write_differential(
        folder / "differential.json",
        slide.slide_id,
        slide.path,
        counts.differential,
        counts.measures,
        to_review,
        record.warnings,
        counts.smear,
        cells_found.audit,
        counts.not_assessed,
        record.sample_id,
    )


def _write_cells(
    folder: Path,
    slide: Slide,
    merged: MergedCells,
    counts: _SlideCounts,
    blobs: RegionBlobs,
    processes: int,
) -> None:
    """Write the slide's masks, pictures and outlines."""
    with ProcessPool(processes if len(merged.ids) >= MIN_CELLS_FOR_POOL else 0) as pool:
        write_masks(folder / "masks.zarr", slide, merged, counts.calls.names, pool.map)
    write_pictures(folder / "pictures.zip", merged, blobs.picture)
    write_geojson(
        folder / "cells.geojson",
        slide.slide_id,
        merged,
        counts.measures,
        counts.calls,
        blobs.outline,
    )


def _unreadable_warning(job: SlideJob) -> str:
    """Return the warning of what could not be read."""
    parts = []
    if job.unreadable:
        parts.append(f"{len(job.unreadable)} of {len(job.plan.regions)} regions")
    if job.damaged:
        (x0, y0, x1, y1), reason = min(job.damaged.items())
        parts.append(
            f"{len(job.damaged)} damaged place{'s' * (len(job.damaged) != 1)}, "
            f"the first at x {x0}..{x1}, y {y0}..{y1}: {reason}"
        )
    mm2 = sum(unreadable_areas(job).values()) * job.slide.mpp**2 / 1e6
    return (
        f"{100 * unreadable_share(job):.2g} % of the scanned area ({mm2:.3g} mm²; "
        f"{'; '.join(parts)}) could not be read"
    )


def _warnings(job: SlideJob, notices: list[str], notes: list[str]) -> tuple[str, ...]:
    """Return the warnings, the most important first. `notices` may contain empty strings."""
    warnings = list(job.plan.warnings)
    if job.unreadable or job.damaged:
        warnings.append(_unreadable_warning(job))
    warnings += filter(None, notices)
    left_out = len(notes) - _MAX_NOTES
    return (
        *warnings,
        *notes[:_MAX_NOTES],
        *([f"and {left_out} more such notes"] if left_out > 0 else []),
    )
