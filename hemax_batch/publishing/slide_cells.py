"""Collect a slide's finished regions: its merged cells, and figures over all regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..cells.merge import merge_cells
from ..cells.screening_audit import ScreenAudit, estimate_missed
from ..geometry import touching
from ..records import Cells, MergedCells, RegionResult
from ..results.region_blobs import RegionBlobs
from ..results.slide_record import ScanFigures
from ..scheduling.slide_job import SlideJob


def _outside_damage(merged: MergedCells, job: SlideJob) -> MergedCells:
    """Remove the cells that a damaged place cuts or hides, and number the others again."""
    keep = ~touching(merged.cells.boxes_xyxy, np.array(sorted(job.damaged)).reshape(-1, 4))
    ids = np.arange(1, keep.sum() + 1, dtype=np.int64)
    dropped = {**merged.dropped, "unreadable": int((~keep).sum())}
    return MergedCells(merged.cells.take(keep), ids, dropped)


@dataclass(frozen=True)
class SlideCells:
    """The contents of a slide's journal.

    The regions' results are without their cells, which are merged.
    """

    regions: list[RegionResult]
    merged: MergedCells
    figures: ScanFigures
    audit: ScreenAudit
    diameters_um: np.ndarray
    notes: list[str]


def collect_regions(job: SlideJob, blobs: RegionBlobs) -> SlideCells:
    """Read the journal once. Pictures and outlines stay there."""
    regions: list[RegionResult] = []

    def cells() -> Iterator[Cells]:
        for result in blobs.results():
            regions.append(replace(result, cells=Cells.empty()))
            yield result.cells

    merged = _outside_damage(merge_cells(cells()), job)
    audited_mm2 = round(sum(r.audited_um2 for r in regions) / 1e6, 6)
    missed = sum(r.audit_cells for r in regions)
    figures = ScanFigures(
        scanned_mm2=round(job.plan.scanned_mm2, 6),
        blank_mm2=round(job.plan.blank_mm2, 6),
        proposals=sum(r.proposals for r in regions),
        patches=sum(r.patches for r in regions),
        saturated=sum(r.saturated for r in regions),
        platelets=sum(r.platelets for r in regions),
        audited_mm2=audited_mm2,
        audit_cells=missed,
    )
    passed_over_mm2 = round(sum(r.passed_over_um2 for r in regions) / 1e6, 6)
    diameters_um = np.concatenate([np.zeros(0, np.float32), *(r.rbc_diameters_um for r in regions)])
    notes = [f"region {r.region_index}: {note}" for r in regions for note in r.notes]
    return SlideCells(
        regions,
        merged,
        figures,
        estimate_missed(missed, audited_mm2, passed_over_mm2),
        diameters_um,
        notes,
    )
