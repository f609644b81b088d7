"""Masks on the slide's pixels, drawn from the network's mask logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..geometry import fill_holes
from .network_output import mask_coordinates


@dataclass(frozen=True)
class DrawnMask:
    """Mask of one cell on level-0 pixels.

    Attributes
    ----------
    label : ndarray of uint8 [h, w]
        0 outside, 1 cytoplasm, 2 nucleus; cropped to the cell.
    x, y : int
        Level-0 position of the top-left pixel.
    """

    label: np.ndarray
    x: int
    y: int


def draw_mask(
    logits: np.ndarray,
    box_xyxy: np.ndarray,
    origin_xy: np.ndarray,
    scale: float,
    patch_wh: tuple[int, ...],
    slide_wh: tuple[int, int] | None,
) -> DrawnMask | None:
    """Draw a query's mask on level-0 pixels.

    Steps: take the pixels that the box, enlarged by a quarter, covers; sample the logits at their
    centres; keep the largest connected part of the cell and fill its holes; keep the nucleus
    inside the cell; crop. Sampling logits instead of a binary mask places borders between the
    stride-4 positions.

    Parameters
    ----------
    logits : ndarray [2, h, w]
        Nucleus and cell at stride 4.
    box_xyxy : ndarray [4]
        Box in patch pixels.
    origin_xy : ndarray [2]
        Level-0 position of the patch's top-left corner.
    scale : float
        Level-0 pixels per patch pixel.
    patch_wh : tuple of int
        Width and height of the patch in pixels.
    slide_wh : tuple of int, optional
        Width and height of the slide; the mask is clipped to it.

    Returns
    -------
    DrawnMask or None
        None if no pixel belongs to the cell.
    """
    rect = _covered_pixels(box_xyxy, origin_xy, scale, patch_wh, slide_wh)
    if rect is None:
        return None
    x0, y0, x1, y1 = rect
    xs = mask_coordinates((np.arange(x0, x1) + 0.5 - origin_xy[0]) / scale)
    ys = mask_coordinates((np.arange(y0, y1) + 0.5 - origin_xy[1]) / scale)
    nucleus, cell = sample_bilinear(logits, xs, ys) > 0
    parts, n = ndimage.label(cell)
    if n == 0:
        return None
    if n > 1:
        cell = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    cell = fill_holes(cell)
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    label = cell[crop].astype(np.uint8) + (nucleus & cell)[crop]
    return DrawnMask(label, int(x0 + columns[0]), int(y0 + rows[0]))


def _covered_pixels(
    box_xyxy: np.ndarray,
    origin_xy: np.ndarray,
    scale: float,
    patch_wh: tuple[int, ...],
    slide_wh: tuple[int, int] | None,
) -> tuple[int, int, int, int] | None:
    """Return the level-0 rectangle of the enlarged box; None below 2 x 2 pixels."""
    margin = 0.25 * max(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]) + 4
    low = np.maximum(np.array([box_xyxy[0], box_xyxy[1]]) - margin, 0) * scale + origin_xy
    high = np.minimum(np.array([box_xyxy[2], box_xyxy[3]]) + margin, patch_wh) * scale + origin_xy
    x0, y0 = np.floor(low).astype(int)
    x1, y1 = np.ceil(high).astype(int)
    if slide_wh is not None:
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, slide_wh[0]), min(y1, slide_wh[1])
    return None if x1 - x0 < 2 or y1 - y0 < 2 else (x0, y0, x1, y1)


def sample_bilinear(maps: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Sample maps [C, h, w] bilinearly on a grid: float32 [C, len(ys), len(xs)].

    Coordinates are map pixels with centres at 0.5, 1.5, …; outside, the border is repeated.

    >>> maps = np.array([[[0.0, 4.0]]], np.float32)
    >>> sample_bilinear(maps, np.array([0.5, 1.0, 9.0]), np.array([0.5])).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    low, high, part = _interpolation_weights(ys, maps.shape[1])
    rows = maps[:, low] * (1 - part)[:, None] + maps[:, high] * part[:, None]
    low, high, part = _interpolation_weights(xs, maps.shape[2])
    samples: np.ndarray = rows[:, :, low] * (1 - part) + rows[:, :, high] * part
    return samples


def _interpolation_weights(
    places: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower and upper pixel of each place, and the upper one's weight (float32)."""
    at = np.clip(places - 0.5, 0, size - 1)
    low = at.astype(int)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
