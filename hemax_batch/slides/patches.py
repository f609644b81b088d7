"""Cut patches at the network's scale around given centres.

The pixels of a patch depend on its centre alone and not on the region that reads it. The source
window has a margin for the whole support of the resampling filter, so two workers cut equal bytes.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..records import PatchBatch, Slide
from .reader import SlideReader

_MPP_TOLERANCE = 1.01  # a level of 0.2525 µm/px is used for 0.25 µm/px
_CUBIC_SUPPORT_PX = 2  # of Pillow's BICUBIC: output pixels when shrinking, else source pixels


def best_level(slide: Slide, mpp: float) -> int:
    """Return the coarsest level that is no coarser than `mpp` (within 1 %).

    The result is level 0 if level 0 is coarser than `mpp`. With levels of 0.05, 0.1 and 0.2 µm/px
    and `mpp` 0.12 it is level 1 (0.1): level 1 is shrunk, level 2 would be enlarged.
    """
    fine_enough = [
        i for i, f in enumerate(slide.level_downsamples) if slide.mpp * f <= mpp * _MPP_TOLERANCE
    ]
    return max(fine_enough, key=lambda i: slide.level_downsamples[i], default=0)


def cut_patches(
    reader: SlideReader, centres_xy: np.ndarray, mpp: float, size_px: int
) -> PatchBatch:
    """Cut square patches of `size_px` pixels at `mpp` µm/px.

    Parameters
    ----------
    centres_xy
        Centres, float64 [N, 2], in level-0 pixels.

    Returns
    -------
    PatchBatch
        Pixels uint8 [N, 3, size_px, size_px], white outside the slide. N may be 0.
    """
    centres_xy = np.asarray(centres_xy, np.float64).reshape(-1, 2)
    scale = mpp / reader.slide.mpp
    level = best_level(reader.slide, mpp)
    pixels = np.empty((len(centres_xy), 3, size_px, size_px), np.uint8)
    for i, (x, y) in enumerate(centres_xy):
        pixels[i] = _cut(reader, level, x, y, scale, size_px).transpose(2, 0, 1)
    return PatchBatch(pixels, centres_xy - scale * size_px / 2, scale)


def _cut(
    reader: SlideReader, level: int, x: float, y: float, scale: float, size_px: int
) -> np.ndarray:
    """Cut one patch, uint8 [size_px, size_px, 3], centred on level-0 (x, y).

    `scale` is the number of level-0 pixels per patch pixel.
    """
    factor = reader.slide.level_downsamples[level]
    step = scale / factor  # level pixels per patch pixel
    side = step * size_px
    left, top = x / factor - side / 2, y / factor - side / 2
    margin = math.ceil(_CUBIC_SUPPORT_PX * max(step, 1.0)) + 1
    x0, y0 = math.floor(left) - margin, math.floor(top) - margin
    window = math.ceil(side) + 2 * margin + 1
    source = reader.read(level, x0, y0, window, window)
    box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    return np.asarray(
        Image.fromarray(source).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    )
