"""What a network says of patches before that becomes cells: the same record from PyTorch and from OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_SCORE = 0.5  # that there is a cell at all


@dataclass(frozen=True)
class Answer:
    """Raw answers for B patches of H x W px with Q queries; arrays float32 on the host.

    class_logits      [B, Q, K + 1]; the last class is "no cell"
    attribute_logits  [B, Q, A], concatenated as vocabulary.attribute_slices
    boxes_cxcywh      [B, Q, 4], pixels
    sure              bool [B, Q], a cell with at least MIN_SCORE
    mask_logits       [S, 2, H/4, W/4], nucleus and cell of the S sure queries alone, row-major: what else is drawn is
                      never looked at, and would be most of what is copied from a GPU
    looks             [B, D, h', w'] of the backbone's map `familiarity.STAGE`
    """

    class_logits: np.ndarray
    attribute_logits: np.ndarray
    boxes_cxcywh: np.ndarray
    sure: np.ndarray
    mask_logits: np.ndarray
    looks: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; the same bytes for a patch, whatever stands beside it."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
