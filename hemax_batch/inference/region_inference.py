"""Everything that happens to one region of a slide: candidates, patches, predictions, cells.

What is found must not depend on how the slide was cut into regions. So each candidate is looked at by the one region
whose core holds its centre, in a patch centred on it, whose pixels depend on the candidate alone; what a patch leads to
(re-reading it in smaller windows, a follow-up patch) depends on that patch and the candidates round it alone; and the
slide's cells are the union over its candidates, deduplicated once over the whole slide (cells.merge), the view most
central in its patch first. The audit's sample is counted only: the cells in it never join the slide's.
"""

from __future__ import annotations

import math
import time

import numpy as np

from ..geometry import inside
from ..outputs.outlines import add_outlines
from ..records import CENTRAL_CELL_UM, Cells, RegionResult
from ..slides import patch_grid, quality, screen_view, screening
from ..slides.overview import overview_piece
from ..slides.patches import cut_patches
from ..slides.reader import SlideReader
from ..slides.zones import measure_squares
from .config import RegionTask
from .patch_predictor import PatchDetections, PatchPredictor
from .screening_audit import audit_screening
from .worker_cache import cached_reader

LARGEST_CELL_UM = (
    22.0  # promyelocytes and blasts reach 21 µm: whole in some patch of --exhaustive's lattice
)
EDGE_TOLERANCE_UM = 1.0  # by which an outline may fall short of its patch's border
RBC_FIELD_STEP_UM, RBC_FIELD_MPP, RBC_FIELD_PX = (
    100.0,
    0.5,
    150,
)  # 75 µm of every 100: some ten single red cells each


def infer_region(task: RegionTask, predictor) -> RegionResult:
    """Steps: one coarse look, candidates, density of the film, red cells, patches, crowded patches again in smaller
    windows, follow-ups, outlines, the audit."""
    reader, card, region = cached_reader(task.slide), predictor.card, task.region
    reader.take_damaged()  # of a region that was read before
    patch_predictor = PatchPredictor(reader, predictor, task.config.batch_size)
    started = time.perf_counter()
    view = screen_view.read_view(reader, region.window, task.stain)
    candidates = _candidates(task, view, card)
    squares = measure_squares(view, region.core, task.slide)
    overview = overview_piece(view, region.core, task.slide)
    diameters_um, focus = _measure_red_cells(task, reader)
    seconds_screen = time.perf_counter() - started
    own_candidates = candidates[inside(candidates, region.core)]
    if task.config.exhaustive:
        detections = patch_predictor.predict(own_candidates, card.patch_px)
    else:
        detections = patch_predictor.predict_own_cells(own_candidates, card.patch_px)
    windows = patch_predictor.predict(
        subwindow_centres(detections.saturated_xy, card, task.slide.mpp),
        subwindow_px(card.patch_px),
    )
    if task.config.exhaustive:  # no patch is a cell's own
        keep, follow_up_rows, notes = (
            ~detections.cut,
            _cut_oversized(detections, task.slide.mpp),
            (),
        )
    else:
        keep, follow_up_rows = (
            whole_or_central(detections, task.slide.mpp),
            _cut_without_candidate(detections, candidates, task, reader),
        )
        notes = _cut_notes(detections, task.slide.mpp)
    follow_ups = patch_predictor.predict(detections.centres_xy()[follow_up_rows], card.patch_px)
    kept_cells = [
        detections.cells.take(keep),
        follow_ups.cells.take(whole_or_central(follow_ups, task.slide.mpp)),
    ]
    notes += _cut_notes(follow_ups, task.slide.mpp)
    cells = Cells.concat([*kept_cells, windows.cells.take(~windows.cut)]).with_region(region.index)
    cells = add_outlines(cells)
    patches, platelets = patch_predictor.patches, patch_predictor.platelets
    passed_over_um2, audited_um2, audit_cells = audit_screening(
        task, patch_predictor, candidates, card
    )
    return RegionResult(
        region.index,
        cells,
        diameters_um,
        proposals=len(own_candidates),
        patches=patches,
        saturated=len(detections.saturated_xy),
        platelets=platelets,
        passed_over_um2=passed_over_um2,
        audited_um2=audited_um2,
        audit_cells=audit_cells,
        squares=squares,
        overview=overview,
        focus=focus,
        seconds_read=seconds_screen + patch_predictor.seconds_read,
        seconds_network=patch_predictor.seconds_network,
        notes=notes + _saturation_notes(windows),
        damaged=reader.take_damaged(),
    )


def _candidates(task: RegionTask, view: screen_view.ScreenView, card) -> np.ndarray:
    """Where to look, float64 [N, 2]: what the screen proposes in the window, or the lattice that covers it all."""
    if task.config.exhaustive:
        return patch_grid.lattice_centres(
            task.region.window, card.patch_px * card.mpp - LARGEST_CELL_UM, task.slide.mpp
        )
    return screening.candidates_in_view(view, task.region.window)


def _measure_red_cells(task: RegionTask, reader: SlideReader) -> tuple[np.ndarray, float]:
    """Diameters (µm) of single red cells, float32 [R], and the median focus, in one small field of each RBC_FIELD_STEP_UM.

    The fields lie on a slide-wide lattice, so that the slide's median does not depend on its regions.
    """
    fields_xy = patch_grid.lattice_centres(task.region.core, RBC_FIELD_STEP_UM, task.slide.mpp)
    diameters_um, focuses = [np.zeros(0, np.float32)], []
    for place in fields_xy:
        pixels = (
            cut_patches(reader, place[None], RBC_FIELD_MPP, RBC_FIELD_PX)
            .pixels[0]
            .transpose(1, 2, 0)
        )
        diameters_um.append(quality.rbc_diameters_um(pixels, RBC_FIELD_MPP, task.stain))
        focuses.append(quality.focus(pixels, task.stain))
    known = [value for value in focuses if not math.isnan(value)]
    return np.concatenate(diameters_um), float(np.median(known)) if known else float("nan")


def _cut_without_candidate(
    detections: PatchDetections, candidates: np.ndarray, task: RegionTask, reader: SlideReader
) -> np.ndarray:
    """Rows of the cut cells that no candidate stands for, so that no patch would show them whole: int64 [U].

    A window's candidates are exact in its core only (its halo is the screen's support), so round a cell beyond the
    core the screen looks again: whether a cell has a candidate must not depend on who asks.
    """
    reach_px = CENTRAL_CELL_UM / task.slide.mpp
    x0, y0, x1, y1 = task.region.core
    rows = []
    for row in np.flatnonzero(detections.cut):
        x, y = detections.centres_xy()[row]
        near = candidates
        if not (x0 + reach_px <= x < x1 - reach_px and y0 + reach_px <= y < y1 - reach_px):
            near = screening.propose_candidates(
                reader,
                _square(x, y, (screen_view.SUPPORT_UM + CENTRAL_CELL_UM) / task.slide.mpp),
                task.stain,
            )
        if not (np.hypot(*(near - (x, y)).T) <= reach_px).any():
            rows.append(row)
    return np.array(rows, int)


def _cut_oversized(detections: PatchDetections, mpp: float) -> np.ndarray:
    """Rows of the cut cells that no patch of the lattice may show whole: int64 [U]. The patch that is nearest such a cell
    shows LARGEST_CELL_UM of it each way, or all."""
    sides_px = (detections.cells.boxes_xyxy[:, 2:] - detections.cells.boxes_xyxy[:, :2]).max(
        1, initial=0
    )
    return np.flatnonzero(
        detections.cut & (sides_px * mpp >= LARGEST_CELL_UM - 2 * EDGE_TOLERANCE_UM)
    )


def _square(x: float, y: float, half_px: float) -> tuple[int, int, int, int]:
    return (
        math.floor(x - half_px),
        math.floor(y - half_px),
        math.ceil(x + half_px),
        math.ceil(y + half_px),
    )


def whole_or_central(detections: PatchDetections, mpp: float) -> np.ndarray:
    """Rows to keep, bool [N]: cells seen whole, and the cell that a patch is centred on, even if it is cut.

    Other cut cells have a patch of their own, which shows them whole.
    """
    return ~detections.cut | detections.is_central(mpp)


def _cut_notes(detections: PatchDetections, mpp: float) -> tuple[str, ...]:
    places = detections.centres_xy()[detections.cut & detections.is_central(mpp)]
    return tuple(
        f"the cell at x {x:.0f}, y {y:.0f} reaches beyond its patch: its outline is cut"
        for x, y in places
    )


def _saturation_notes(windows: PatchDetections) -> tuple[str, ...]:
    return tuple(
        f"more cells than the network can tell apart round x {x:.0f}, y {y:.0f}"
        for x, y in windows.saturated_xy
    )


def subwindow_px(patch_px: int) -> int:
    """Side of the smaller windows: half a patch, rounded up to the multiple of 32 that the network takes.

    >>> subwindow_px(320), subwindow_px(300)
    (160, 160)
    """
    return math.ceil(patch_px / 64) * 32


def subwindow_centres(saturated_xy: np.ndarray, card, mpp: float) -> np.ndarray:
    """Centres of the windows that re-read each of S crowded patches, 3 x 3 overlapping by half: float64 [9 S, 2]."""
    step = card.patch_px / 4 * card.mpp / mpp  # level-0 pixels
    offsets = np.array([(x, y) for y in (-step, 0, step) for x in (-step, 0, step)])
    return (saturated_xy[:, None] + offsets[None]).reshape(-1, 2)
