"""A labelled cell as the tool sees it: in the centre of a patch at the working scale."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from .examples import Example, load_rgb

#: Percentile of an image's pixels that is background.
GROUND_PERCENTILE = 92


def background_colour(rgb: np.ndarray) -> np.ndarray:
    """Return the glass's colour in an image uint8 [H, W, 3]: uint8 [3]."""
    colour: np.ndarray = np.percentile(rgb[::4, ::4].reshape(-1, 3), GROUND_PERCENTILE, axis=0)
    return colour.astype(np.uint8)


def resize(rgb: np.ndarray, scale: float) -> np.ndarray:
    """Resample an image uint8 [H, W, 3] by a factor as the tool does, to at least 8 px per side."""
    size = max(round(rgb.shape[1] * scale), 8), max(round(rgb.shape[0] * scale), 8)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


@lru_cache(maxsize=64)  # The cells of an image are requested one after the other.
def _at_scale(path: str, scale: float) -> np.ndarray:
    """Read an image at a scale."""
    return resize(load_rgb(path), scale)


def centred_patch(
    example: Example, mpp: float, size_px: int, cell: int = 0
) -> tuple[np.ndarray, tuple[float, float], float]:
    """Cut a patch at `mpp` µm/px with one of the example's cells in its centre.

    Outside the image the patch has the glass's colour. If the cell has no box, or there is no cell,
    the image's centre is the patch's.

    Returns
    -------
    pixels : ndarray of uint8 [3, S, S]
    origin : tuple of float
        Position (x, y) of the image's corner in the patch.
    scale : float
        Patch pixels per image pixel.
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
