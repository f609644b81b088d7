"""The audit of the screen on one region: a random sample of what it passed over, looked at by the network."""

from __future__ import annotations

import numpy as np

from ..cells.measure import measure_cells
from ..cells.morphology import ANY_NUCLEUS_FRACTION
from ..records import CENTRAL_CELL_UM
from ..slides import patch_grid
from .config import RegionTask
from .patch_predictor import PatchPredictor

AUDIT_SEED = 0  # one draw for ever: the same slide gives the same sample


def audit_screening(
    task: RegionTask, patch_predictor: PatchPredictor, candidates: np.ndarray, card
) -> tuple[float, float, int]:
    """Area (µm²) that the screen passed over, area of the sample of it, and the cells centred there that it missed.

    The squares looked at are patches, so every cell centred in one counts, cut or not, that no candidate stands for;
    what would be left unidentified on the slide (unsure, or without a nucleus) is no missed cell here either.
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
