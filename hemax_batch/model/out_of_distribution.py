"""Out-of-distribution score of a cell: its distance from the cells the network was calibrated on.

A cell's features are the mean of the backbone's stride-16 map inside its box, and the colours of
the box and of the patch. The map holds sharpness and texture, which the last layers discard. The score is the Mahalanobis distance from
the calibration cells (one Gaussian, after Lee et al. 2018), divided by the limit that 99 % of
those cells keep. `learning.evaluation.ood_evaluation` fits the detector. The checkpoint stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Index of the backbone's stride-16 map. Earlier maps score every other laboratory as out of
#: distribution, later maps hardly any cell.
FEATURE_STAGE = 2
#: Prefix of the detector's tensors in a checkpoint.
TENSOR_PREFIX = "ood."


class FeatureScorer(Protocol):
    """Scores the features of cells."""

    def score(self, features: np.ndarray, /) -> np.ndarray:
        """Score features [N, D]: float32 [N]."""
        ...


@dataclass(frozen=True)
class OodDetector:
    """Gaussian of the calibration cells' features.

    Attributes
    ----------
    centre : ndarray of float32 [D]
    whitening : ndarray of float32 [D, D]
        Scaled so that a distance of 1 is the limit.
    """

    centre: np.ndarray
    whitening: np.ndarray

    def score(self, features: np.ndarray) -> np.ndarray:
        """Score features [N, D]: float32 [N]; above 1 is out of distribution.

        A detector of older weights knows the first D features only.
        """
        features = features[:, : len(self.centre)]
        whitened = (features - self.centre) @ self.whitening
        distance: np.ndarray = np.linalg.norm(whitened, axis=1)
        return distance.astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays as a checkpoint stores them."""
        return {f"{TENSOR_PREFIX}{name}": getattr(self, name) for name in ("centre", "whitening")}

    @classmethod
    def from_arrays(cls, state: dict[str, np.ndarray]) -> OodDetector | None:
        """Read a detector from a checkpoint's arrays; None if there is none."""
        if f"{TENSOR_PREFIX}centre" not in state:
            return None
        names = (f"{TENSOR_PREFIX}centre", f"{TENSOR_PREFIX}whitening")
        return cls(*(state[name].astype(np.float32) for name in names))


_OD_TABLE = (np.log10(256.0) - np.log10(np.arange(256) + 1.0)).astype(np.float32)
COLOUR_FEATURES = 12


def colour_features(pixels: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Measure the colours of cells and of their surroundings.

    The backbone learns to ignore the stain. So it cannot tell a stain that was never seen. Colours
    themselves can.

    Parameters
    ----------
    pixels : ndarray of uint8 [3, H, W]
    boxes_xyxy : ndarray [N, 4]
        Boxes in pixels of the patch.

    Returns
    -------
    ndarray of float32 [N, COLOUR_FEATURES]
        Optical densities of red, green and blue: the mean and the standard deviation inside the
        box, the 10th percentile (glass) and the 90th percentile of the whole patch.
    """
    h, w = pixels.shape[1:]
    coarse = _OD_TABLE[pixels[:, ::8, ::8]].reshape(3, -1)
    patch = np.concatenate([np.percentile(coarse, share, axis=1) for share in (10, 90)])
    rows = []
    for box in np.asarray(boxes_xyxy, float).reshape(-1, 4):
        x0, y0 = np.clip(np.floor(box[:2]).astype(int), 0, [w - 1, h - 1])
        x1, y1 = np.clip(np.ceil(box[2:]).astype(int), [x0 + 1, y0 + 1], [w, h])
        inside = _OD_TABLE[pixels[:, y0:y1:2, x0:x1:2]].reshape(3, -1)
        rows.append(np.concatenate([inside.mean(1), inside.std(1), patch]))
    return np.array(rows, np.float32).reshape(-1, COLOUR_FEATURES)


def box_mean_features(
    feature_map: np.ndarray, boxes_xyxy: np.ndarray, size_wh: tuple[int, int]
) -> np.ndarray:
    """Average a map over boxes.

    A box counts where it lies inside the patch, and covers at least one map position.

    Parameters
    ----------
    feature_map : ndarray [D, h, w]
    boxes_xyxy : ndarray [N, 4]
        Boxes in pixels of the patch.
    size_wh : tuple of int
        Size of the patch in pixels.

    Returns
    -------
    ndarray of float32 [N, D]
    """
    d, h, w = feature_map.shape
    grid = np.asarray(boxes_xyxy, float).reshape(-1, 4) / np.tile(size_wh, 2) * [w, h, w, h]
    low = np.clip(np.floor(grid[:, :2]).astype(int), 0, [w - 1, h - 1])
    high = np.clip(np.ceil(grid[:, 2:]).astype(int), low + 1, [w, h])
    means = [
        feature_map[:, y0:y1, x0:x1].mean((1, 2))
        for (x0, y0), (x1, y1) in zip(low, high, strict=True)
    ]
    return np.stack(means) if means else np.zeros((0, d), np.float32)
