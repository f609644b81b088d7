"""A labelled cell as the tool would see it: in the middle of a patch at the working scale, unchanged."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from .examples import Example, load_rgb

GROUND_PERCENTILE = 92  # of a picture's pixels: what lies between the cells


def background_colour(rgb: np.ndarray) -> np.ndarray:
    """The colour of the glass of a picture uint8 [H, W, 3]: uint8 [3]."""
    return np.percentile(rgb[::4, ::4].reshape(-1, 3), GROUND_PERCENTILE, axis=0).astype(np.uint8)


def resize(rgb: np.ndarray, scale: float) -> np.ndarray:
    """A picture uint8 [H, W, 3] at `scale` times its size, at least 8 px a side, as the tool resamples."""
    size = max(round(rgb.shape[1] * scale), 8), max(round(rgb.shape[0] * scale), 8)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


@lru_cache(maxsize=64)  # a picture's cells come one after the other
def _at_scale(path: str, scale: float) -> np.ndarray:
    return resize(load_rgb(path), scale)


def centred_patch(
    example: Example, mpp: float, size_px: int, cell: int = 0
) -> tuple[np.ndarray, tuple[float, float], float]:
    """A patch at `mpp` µm/px with the example's cell `cell` in the middle; the glass's colour where the picture ends.

    Returns pixels uint8 [3, S, S], the picture's origin in the patch (x, y), and the picture's scale in it. Where the
    cell has no box, and where there is no cell, the picture's middle is the patch's.
    """
    scale = example.mpp / mpp
    rgb = _at_scale(example.path, scale)
    box = example.cells[cell].box_xyxy if example.cells else None
    focus = (
        np.array(rgb.shape[1::-1]) / 2
        if box is None
        else (np.array(box[:2]) + np.array(box[2:])) / 2 * scale
    )
    x, y = (int(v) for v in np.round(size_px / 2 - focus))
    canvas = Image.new("RGB", (size_px, size_px), tuple(int(v) for v in background_colour(rgb)))
    canvas.paste(Image.fromarray(rgb), (x, y))
    return np.asarray(canvas).transpose(2, 0, 1).copy(), (float(x), float(y)), scale
