"""Network output on the host, the same records for PyTorch and OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from .. import vocabulary

if TYPE_CHECKING:
    import torch

#: Least probability that a query holds a cell.
MIN_SCORE = 0.5
#: Pixels per position of the mask logits.
MASK_STRIDE = 4
#: Offset in pixels, right and down, between a mask position's centre and the place it predicts.
#: Training compares the masks with the odd pixels (`learning.data.sampler`), which lie there.
MASK_OFFSET_PX = 0.5

Coordinates = TypeVar("Coordinates", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class NetworkOutput:
    """Raw output for B patches of H x W px and Q queries, as float32 arrays.

    Attributes
    ----------
    class_logits : ndarray [B, Q, K + 1]
        The last class is "no cell".
    attribute_logits : ndarray [B, Q, A]
        Concatenated as `vocabulary.attribute_slices` says.
    boxes_cxcywh : ndarray [B, Q, 4]
        Boxes in pixels.
    confident : ndarray of bool [B, Q]
        Whether the score of a query is at least `MIN_SCORE`.
    mask_logits : ndarray [S, 2, H/4, W/4]
        Nucleus and cell of the S confident queries, in row-major order. Other masks are never
        used, and they would be most of what is copied from a GPU.
    backbone_features : ndarray [B, D, h', w']
        The backbone's map `out_of_distribution.FEATURE_STAGE`.
    """

    class_logits: np.ndarray
    attribute_logits: np.ndarray
    boxes_cxcywh: np.ndarray
    confident: np.ndarray
    mask_logits: np.ndarray
    backbone_features: np.ndarray


class Network(Protocol):
    """A function from patches to raw output."""

    def __call__(self, pixels: np.ndarray, /) -> NetworkOutput:
        """Run the network on patches uint8 [B, 3, H, W]."""
        ...


class Engine(Network, Protocol):
    """A network on a device."""

    @property
    def device(self) -> str | torch.device:
        """Device that the network runs on."""
        ...


def mask_coordinates(places_px: Coordinates) -> Coordinates:
    """Convert patch coordinates in pixels to coordinates in the mask logits.

    Pixel centres lie at 0.5, 1.5, … in both.
    """
    return (places_px - MASK_OFFSET_PX) / MASK_STRIDE


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis.

    The result for one row does not depend on the other rows.
    """
    e: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = e / e.sum(-1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class NetworkProbabilities:
    """Network output for B patches and Q queries as probabilities.

    Attributes
    ----------
    scores : ndarray [B, Q]
        Probability that the query holds a cell.
    class_probs : ndarray [B, Q, K]
        Class probabilities given that there is a cell, after temperature scaling.
    attribute_probs : ndarray [B, Q, A]
    boxes : ndarray [B, Q, 4]
        Centre and size in pixels.
    confident : ndarray of bool [B, Q]
    masks : ndarray [S, 2, h, w]
        Mask logits of the confident queries at stride 4.
    mask_row : ndarray of int [B, Q]
        Row of each confident query in `masks`.
    backbone_features : ndarray [B, D, h', w']
    """

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
        """Convert logits to probabilities; `temperature` divides the class logits."""
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
