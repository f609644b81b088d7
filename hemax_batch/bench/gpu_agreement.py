"""Agreement of a GPU with the CPU: the cells of the same patches compared."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ..geometry import pairwise_iou
from ..records import Cells, PatchBatch
from ..scheduling.resources import cpu_limit

if TYPE_CHECKING:
    from ..model.predictor import Predictor

_SAME_IOU = 0.5


def agreement(
    predictor: Predictor, batch: PatchBatch, mpp: float, weights: str | None
) -> dict[str, object]:
    """Compare a predictor's cells with the CPU's."""
    from ..model.predictor import Predictor

    reference = Predictor.load(weights, "cpu")
    with ThreadPoolExecutor(max(1, cpu_limit() // 2)) as threads:
        parts = [
            PatchBatch(batch.pixels[i : i + 1], batch.origins[:1], 1.0) for i in range(len(batch))
        ]
        wanted = [
            prediction.cells for prediction in threads.map(lambda part: reference(part, mpp), parts)
        ]
    prediction = predictor(batch, mpp)
    found = [prediction.cells.take(prediction.patch_index == i) for i in range(len(batch))]
    return {"patches": len(batch)} | compare_cells(wanted, found)


def compare_cells(wanted: Sequence[Cells], found: Sequence[Cells]) -> dict[str, object]:
    """Compare cells of the same patches from two devices: places, classes, boxes, probabilities."""
    same_class, off_px, off_probability = [], [0.0], [0.0]
    for a, b in zip(wanted, found, strict=True):
        if not len(a) or not len(b):
            continue
        iou = pairwise_iou(a.boxes_xyxy, b.boxes_xyxy)
        rows = np.flatnonzero(iou.max(1) >= _SAME_IOU)
        columns = iou[rows].argmax(1)
        same_class += list(a.class_probs[rows].argmax(1) == b.class_probs[columns].argmax(1))
        off_px += list(np.abs(a.boxes_xyxy[rows] - b.boxes_xyxy[columns]).max(1))
        off_probability += list(np.abs(a.class_probs[rows] - b.class_probs[columns]).max(1))
    return {
        "cells_of_cpu": sum(map(len, wanted)),
        "cells": sum(map(len, found)),
        "same_place": len(same_class),
        "same_class": int(sum(same_class)),
        "median_box_off_px": round(float(np.median(off_px[1:] or [0])), 3),
        "largest_box_off_px": round(float(max(off_px)), 2),
        "largest_probability_off": round(float(max(off_probability)), 4),
    }
