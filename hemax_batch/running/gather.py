"""A slide's finished regions together: its cells, merged, and over all regions what they cost, red cells and notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..cells.audit import ScreenAudit, audit_of
from ..cells.merge import merge
from ..records import Cells, MergedCells, RegionResult
from ..results.folder import ScanFigures
from ..results.kept import KeptAside
from .slide_work import SlideWork


@dataclass(frozen=True)
class Gathered:
    """What a slide's journal holds. The regions' results are there without their cells, which are merged."""

    looked: list[RegionResult]
    merged: MergedCells
    figures: ScanFigures
    audit: ScreenAudit
    diameters_um: np.ndarray
    notes: list[str]


def gather(work: SlideWork, kept: KeptAside) -> Gathered:
    """The journal, read once; pictures and outlines stay there."""
    looked: list[RegionResult] = []

    def cells() -> Iterator[Cells]:
        for result in kept.results():
            looked.append(replace(result, cells=Cells.empty()))
            yield result.cells

    merged = merge(cells())
    audited_mm2 = round(sum(r.audited_um2 for r in looked) / 1e6, 6)
    missed = sum(r.audit_cells for r in looked)
    figures = ScanFigures(
        scanned_mm2=round(work.plan.scanned_mm2, 6),
        blank_mm2=round(work.plan.blank_mm2, 6),
        proposals=sum(r.proposals for r in looked),
        patches=sum(r.patches for r in looked),
        saturated=sum(r.saturated for r in looked),
        platelets=sum(r.platelets for r in looked),
        audited_mm2=audited_mm2,
        audit_cells=missed,
    )
    passed_over_mm2 = round(sum(r.passed_over_um2 for r in looked) / 1e6, 6)
    diameters_um = np.concatenate([np.zeros(0, np.float32), *(r.rbc_diameters_um for r in looked)])
    notes = [f"region {r.region_index}: {note}" for r in looked for note in r.notes]
    return Gathered(
        looked, merged, figures, audit_of(missed, audited_mm2, passed_over_mm2), diameters_um, notes
    )
