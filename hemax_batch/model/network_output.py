"""What a network says of patches before that becomes cells: the same records from PyTorch and from OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import vocabulary

MIN_SCORE = 0.5  # that there is a cell at all
MASK_STRIDE = 4  # pixels
#: A position of the masks speaks of a place so far right of and below its own middle: training compares it with the odd
#: pixels (`learning.data.sampler`), whose middles lie there.
MASK_OFFSET_PX = 0.5


@dataclass(frozen=True)
class NetworkOutput:
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
    confident: np.ndarray
    mask_logits: np.ndarray
    backbone_features: np.ndarray


def mask_coordinates(places_px):
    """Where in a map of mask logits it is told what lies at `places_px` of the patch, an array or tensor (middles lie at
    0.5, 1.5, … in both)."""
    return (places_px - MASK_OFFSET_PX) / MASK_STRIDE


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; the same bytes for a patch, whatever stands beside it."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@dataclass(frozen=True)
class NetworkProbabilities:
    """An answer for B patches in probabilities: scores [B, Q], class_probs [B, Q, K], attribute_probs [B, Q, A], boxes
    [B, Q, 4] cxcywh px, sure bool [B, Q], masks [S, 2, h, w] logits at stride 4 of the sure queries, each at
    mask_row int [B, Q] there, looks [B, D, h', w'] of the backbone."""

    scores: np.ndarray
    class_probs: np.ndarray
    attribute_probs: np.ndarray
    boxes: np.ndarray
    confident: np.ndarray
    masks: np.ndarray
    mask_row: np.ndarray
    backbone_features: np.ndarray

    @classmethod
    def from_output(cls, output: NetworkOutput, temperature: float) -> NetworkProbabilities:
        """`temperature` divides the class logits."""
        logits, attributes = output.class_logits, output.attribute_logits
        return cls(
            scores=1 - softmax(logits)[..., -1],
            class_probs=softmax(logits[..., :-1] / np.float32(temperature)),
            attribute_probs=np.concatenate(
                [softmax(attributes[..., s]) for s in vocabulary.attribute_slices().values()], -1
            ),
            boxes=output.boxes_cxcywh,
            confident=output.confident,
            masks=output.mask_logits,
            mask_row=output.confident.ravel().cumsum().reshape(output.confident.shape) - 1,
            backbone_features=output.backbone_features,
        )
