"""Audit the screen on one region: the network sees a random sample of what the screen passed over."""

from __future__ import annotations

import numpy as np

from ..cells.measure import measure_cells
from ..cells.morphology import ANY_NUCLEUS_FRACTION
from ..model.checkpoint import WeightsCard
from ..records import CENTRAL_CELL_UM
from ..slides import patch_grid
from .config import RegionTask
from .patch_predictor import PatchPredictor

AUDIT_SEED = 0  # fixed, so that a slide always has the same sample


def audit_screening(
    task: RegionTask, patch_predictor: PatchPredictor, candidates: np.ndarray, card: WeightsCard
) -> tuple[float, float, int]:
    """Measure what the screen missed in a region.

    The sampled squares are patches. Every cell centred in one counts, cut or not, unless a candidate
    stands for it. A cell that would stay unidentified on the slide (unsure, or without a nucleus) is no
    missed cell.

    Returns
    -------
    tuple
        Area that the screen passed over and area of the sample, both in µm², and the number of cells
        in the sample that the screen missed.
    """
    if task.config.exhaustive:
        return 0.0, 0.0, 0
    patch_um = card.patch_px * card.mpp
    centres_xy, audited_um2, passed_over_um2 = patch_grid.audit_sample(
        task.region.core,
        candidates,
        task.config.audit,
        AUDIT_SEED,
        task.slide.mpp,
        patch_um,
        (task.slide.width, task.slide.height),
    )
    detections = patch_predictor.predict(centres_xy, card.patch_px)
    nucleated = (
        measure_cells(detections.cells, task.slide.mpp, np.zeros(0)).nucleus_fraction
        >= ANY_NUCLEUS_FRACTION[0]
    )
    found_xy = detections.centres_xy()[
        nucleated & (detections.cells.class_probs.max(1, initial=0) >= card.min_confidence)
    ]
    away_um = np.hypot(*(found_xy[:, None] - candidates[None]).transpose(2, 0, 1)) * task.slide.mpp
    return passed_over_um2, audited_um2, int((away_um > CENTRAL_CELL_UM).all(1).sum())
