"""How unlike the cells that the network was measured on a cell looks: what it should not be trusted with.

A cell's features are the mean of the backbone's stride-16 map inside its box: they know colour, sharpness and texture,
which the last layers, trained to tell classes apart, have thrown away. Their Mahalanobis distance from the known cells
(one Gaussian; after Lee et al. 2018) is divided by the limit that 99 in 100 known cells keep within. `calibrate` fits
it (`learning.evaluation.ood_evaluation`); they lie in the checkpoint beside the network's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEATURE_STAGE = 2  # of the backbone: stride 16. Earlier ones call every other laboratory strange, later ones hardly anything
TENSOR_PREFIX = "ood."  # of its tensors in a checkpoint


@dataclass(frozen=True)
class OodDetector:
    """Known cells: centre float32 [D], and whitening float32 [D, D], whose scale makes the limit 1."""

    centre: np.ndarray
    whitening: np.ndarray

    def score(self, features: np.ndarray) -> np.ndarray:
        """float32 [N] of features [N, D]: above 1, unlike what is known."""
        return np.linalg.norm((features - self.centre) @ self.whitening, axis=1).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """As a checkpoint keeps them."""
        return {f"{TENSOR_PREFIX}{name}": getattr(self, name) for name in ("centre", "whitening")}

    @classmethod
    def from_arrays(cls, state: dict[str, np.ndarray]) -> OodDetector | None:
        """From a checkpoint's arrays; None where it has none."""
        if f"{TENSOR_PREFIX}centre" not in state:
            return None
        return cls(
            *(
                state[f"{TENSOR_PREFIX}{name}"].astype(np.float32)
                for name in ("centre", "whitening")
            )
        )


def box_mean_features(
    feature_map: np.ndarray, boxes_xyxy: np.ndarray, size_wh: tuple[int, int]
) -> np.ndarray:
    """Mean of a map [D, h, w] over boxes [N, 4], in pixels of a patch `size_wh`: float32 [N, D].

    A box is what lies of it in the patch, and at least one place of the map.
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
