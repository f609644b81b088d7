"""Process one region of a slide: candidates, patches, predictions, cells.

The cells that are found do not depend on how the slide is divided into regions:

- Each candidate is processed by the one region whose core contains its centre. Its patch is centred
  on it, and the patch's pixels depend on the candidate alone.
- What follows from a patch (smaller windows, a follow-up patch) depends on that patch and the
  candidates around it alone.
- The slide's cells are the union over its candidates. They are deduplicated once over the whole
  slide (cells.merge). The view that is most central in its patch has priority.

Cells in the audit's sample are only counted. They never join the slide's cells.
"""

from __future__ import annotations

import math
import time

import numpy as np

from ..geometry import inside
from ..model.checkpoint import WeightsCard
from ..outputs.outlines import add_outlines
from ..records import CENTRAL_CELL_UM, Cells, Rect, RegionResult
from ..slides import patch_grid, quality, screen_view, screening
from ..slides.overview import overview_piece
from ..slides.patches import cut_patches
from ..slides.reader import SlideReader
from ..slides.zones import measure_squares
from .config import RegionTask
from .patch_predictor import PatchDetections, PatchNetwork, PatchPredictor
from .screening_audit import audit_screening
from .worker_cache import cached_reader

# Promyelocytes and blasts reach 21 µm. They lie whole in some patch of the grid of --exhaustive.
LARGEST_CELL_UM = 22.0
EDGE_TOLERANCE_UM = 1.0  # largest gap between a cut outline and its patch's border
# Fields of 75 µm every 100 µm, with about ten single red cells each.
RBC_FIELD_STEP_UM, RBC_FIELD_MPP, RBC_FIELD_PX = 100.0, 0.5, 150


def infer_region(task: RegionTask, predictor: PatchNetwork) -> RegionResult:
    """Process one region.

    Steps: read the screen's view, find candidates, measure the film and the red cells, predict patches,
    read saturated patches again in smaller windows, predict follow-ups, trace outlines, audit.
    """
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
    notes: tuple[str, ...] = ()
    if task.config.exhaustive:  # no patch is centred on a cell
        keep = ~detections.cut
        follow_up_rows = _cut_oversized(detections, task.slide.mpp)
    else:
        keep = whole_or_central(detections, task.slide.mpp)
        follow_up_rows = _cut_without_candidate(detections, candidates, task, reader)
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


def _candidates(task: RegionTask, view: screen_view.ScreenView, card: WeightsCard) -> np.ndarray:
    """Return the centres of patches, float64 [N, 2].

    They are the screen's candidates in the window, or the grid that covers all of it.
    """
    if task.config.exhaustive:
        return patch_grid.lattice_centres(
            task.region.window, card.patch_px * card.mpp - LARGEST_CELL_UM, task.slide.mpp
        )
    return screening.candidates_in_view(view, task.region.window)


def _measure_red_cells(task: RegionTask, reader: SlideReader) -> tuple[np.ndarray, float]:
    """Measure single red cells and the focus in one small field per RBC_FIELD_STEP_UM.

    The fields lie on a slide-wide grid, so the slide's median does not depend on its regions.

    Returns
    -------
    tuple
        Diameters in µm, float32 [R], and the median focus.
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
    """Return the rows of cut cells that no candidate stands for: int64 [U].

    No other patch would show them whole. A window's candidates are exact in its core only, because its
    halo is the screen's support. The screen therefore reads again around a cell beyond the core.
    Whether a cell has a candidate must not depend on the region.
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
    """Return the rows of cut cells that perhaps no patch of the grid shows whole: int64 [U].

    The patch nearest to such a cell shows LARGEST_CELL_UM of it each way, or all of it.
    """
    sides_px = (detections.cells.boxes_xyxy[:, 2:] - detections.cells.boxes_xyxy[:, :2]).max(
        1, initial=0
    )
    return np.flatnonzero(
        detections.cut & (sides_px * mpp >= LARGEST_CELL_UM - 2 * EDGE_TOLERANCE_UM)
    )


def _square(x: float, y: float, half_px: float) -> Rect:
    """Return the square around a point, enlarged to whole pixels."""
    return (
        math.floor(x - half_px),
        math.floor(y - half_px),
        math.ceil(x + half_px),
        math.ceil(y + half_px),
    )


def whole_or_central(detections: PatchDetections, mpp: float) -> np.ndarray:
    """Return the rows to keep, bool [N]: whole cells, and the cell on which a patch is centred.

    The central cell is kept even if it is cut. Other cut cells have a patch of their own.
    """
    keep: np.ndarray = ~detections.cut | detections.is_central(mpp)
    return keep


def _cut_notes(detections: PatchDetections, mpp: float) -> tuple[str, ...]:
    """Return a note for each central cell that is cut."""
    places = detections.centres_xy()[detections.cut & detections.is_central(mpp)]
    return tuple(
        f"the cell at x {x:.0f}, y {y:.0f} reaches beyond its patch: its outline is cut"
        for x, y in places
    )


def _saturation_notes(windows: PatchDetections) -> tuple[str, ...]:
    """Return a note for each window that is still saturated."""
    return tuple(
        f"more cells than the network can separate around x {x:.0f}, y {y:.0f}"
        for x, y in windows.saturated_xy
    )


def subwindow_px(patch_px: int) -> int:
    """Return the side of the smaller windows: half a patch, rounded up to a multiple of 32.

    >>> subwindow_px(320), subwindow_px(300)
    (160, 160)
    """
    return math.ceil(patch_px / 64) * 32


def subwindow_centres(saturated_xy: np.ndarray, card: WeightsCard, mpp: float) -> np.ndarray:
    """Return the centres of the windows that read S saturated patches again: float64 [9 S, 2].

    Each patch gets 3 x 3 windows that overlap by half.
    """
    step = card.patch_px / 4 * card.mpp / mpp  # level-0 pixels
    offsets = np.array([(x, y) for y in (-step, 0, step) for x in (-step, 0, step)])
    windows_xy: np.ndarray = (saturated_xy[:, None] + offsets[None]).reshape(-1, 2)
    return windows_xy
