"""Patches at the network's scale, cut round given centres.

A patch's pixels depend on its centre alone, never on the region that asks for it: the source window is chosen from
the centre, with margin for the whole support of the resampling filter, so that two workers cut the same bytes.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..records import PatchBatch, Slide
from .reader import SlideReader

_MPP_TOLERANCE = 1.01  # 0.2525 µm/px serves where 0.25 is asked for
_CUBIC_SUPPORT_PX = (
    2  # Pillow's BICUBIC, in output pixels when shrinking and source pixels when enlarging
)


def best_level(slide: Slide, mpp: float) -> int:
    """The coarsest level that is no coarser than `mpp` (within 1 %); level 0 where even that is coarser.

    >>> # levels of 0.05, 0.1, 0.2 µm/px, asked for 0.12: level 1 (0.1) is shrunk, level 2 would be enlarged
    """
    fine_enough = [
        i for i, f in enumerate(slide.level_downsamples) if slide.mpp * f <= mpp * _MPP_TOLERANCE
    ]
    return max(fine_enough, key=lambda i: slide.level_downsamples[i], default=0)


def cut_patches(
    reader: SlideReader, centres_xy: np.ndarray, mpp: float, size_px: int
) -> PatchBatch:
    """Patches of `size_px` squared at `mpp` µm/px, centred on `centres_xy` float64 [N, 2] (level-0 pixels).

    The batch's pixels are uint8 [N, 3, size_px, size_px], glass outside the slide; no centres give an empty batch.
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
    """One patch, uint8 [size_px, size_px, 3], centred on level-0 (x, y), at `scale` level-0 pixels per patch pixel."""
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
