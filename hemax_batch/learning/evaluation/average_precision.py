"""COCO average precision of white-cell localisation, on fields whose cells are all labelled."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LocalisationField:
    """One patch; boxes are xyxy in pixels of 0.1 µm, so COCO's size classes fit every source.

    Attributes
    ----------
    truth : ndarray [T, 4]
    cut : ndarray of bool [T]
        Whether the patch's border cuts the true box, which is then ignored.
    boxes : ndarray [P, 4]
    scores : ndarray [P]
    """

    truth: np.ndarray
    cut: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def average_precision(fields: list[LocalisationField]) -> dict[str, float]:
    """Compute AP over IoU 0.50:0.95, at 0.50 and at 0.75.

    The result is empty if no field has a whole white cell, or if pycocotools is not installed.
    """
    if all(f.cut.all() for f in fields) or find_spec("pycocotools") is None:
        return {}
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(fields))],
        "categories": [{"id": 1, "name": "white cell"}],
        "annotations": [
            {"image_id": i, "category_id": 1, "iscrowd": int(cut), **_box(box)}
            for i, f in enumerate(fields)
            for box, cut in zip(f.truth, f.cut, strict=True)
        ],
    }
    for number, annotation in enumerate(truth.dataset["annotations"], 1):
        annotation["id"] = number
    predictions = [
        {"image_id": i, "category_id": 1, "score": float(score), "bbox": _box(box)["bbox"]}
        for i, f in enumerate(fields)
        for box, score in zip(f.boxes, f.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress.
        truth.createIndex()
        if not predictions:
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        measured = COCOeval(truth, truth.loadRes(predictions), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    return {name: float(measured.stats[k]) for k, name in enumerate(("AP", "AP50", "AP75"))}


def _box(box: np.ndarray) -> dict[str, Any]:
    """Return COCO's bbox and area of a box."""
    x0, y0, x1, y1 = map(float, box)
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
