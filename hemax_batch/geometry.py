"""Geometry of boxes and masks. Boxes are x0, y0, x1, y1 (half-open), float, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return the area [N] of boxes [N, 4]. An inverted box has area 0."""
    wh: np.ndarray = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    areas: np.ndarray = wh[:, 0] * wh[:, 1]
    return areas


def pairwise_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return the intersection over union [N, M] of boxes [N, 4] and [M, 4].

    >>> pairwise_iou(np.array([[0., 0., 2., 2.]]), np.array([[1., 0., 3., 2.]])).round(3)
    array([[0.333]])
    """
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    wh = np.clip(bottom_right - top_left, 0, None)
    inter = wh[..., 0] * wh[..., 1]
    union = area(a_xyxy)[:, None] + area(b_xyxy)[None] - inter
    ious: np.ndarray = inter / np.maximum(union, 1e-9)
    return ious


def union_area(rects_xyxy: np.ndarray) -> float:
    """Area that rectangles [N, 4] cover together; an inverted one covers nothing.

    >>> union_area(np.array([[0, 0, 2, 2], [1, 0, 3, 2]]))
    6.0
    """
    rects = rects_xyxy[(rects_xyxy[:, :2] < rects_xyxy[:, 2:]).all(1)]
    xs, ys = np.unique(rects[:, ::2]), np.unique(rects[:, 1::2])
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    for x0, y0, x1, y1 in rects:
        covered[slice(*np.searchsorted(ys, (y0, y1))), slice(*np.searchsorted(xs, (x0, x1)))] = True
    return float(np.diff(ys) @ covered @ np.diff(xs)) if covered.size else 0.0


def clipped(rects_xyxy: np.ndarray, rect: Sequence[float]) -> np.ndarray:
    """Clip rectangles [N, 4] to another one. Those outside it become inverted or empty."""
    low, high = np.maximum(rects_xyxy[:, :2], rect[:2]), np.minimum(rects_xyxy[:, 2:], rect[2:])
    return np.concatenate([low, high], 1)


def touching(boxes_xyxy: np.ndarray, rects_xyxy: np.ndarray) -> np.ndarray:
    """Return whether each box [N, 4] shares area with any rectangle [M, 4]: bool [N]."""
    hit = np.zeros(len(boxes_xyxy), bool)
    for x0, y0, x1, y1 in rects_xyxy:
        hit |= (
            (boxes_xyxy[:, 0] < x1)
            & (boxes_xyxy[:, 2] > x0)
            & (boxes_xyxy[:, 1] < y1)
            & (boxes_xyxy[:, 3] > y0)
        )
    return hit


def centres(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return the centres [N, 2] (x, y) of boxes [N, 4]."""
    middles: np.ndarray = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    return middles


def corners(boxes_cxcywh: np.ndarray) -> np.ndarray:
    """Convert boxes [..., 4] from centre, width and height to x0, y0, x1, y1."""
    half = boxes_cxcywh[..., 2:] / 2
    return np.concatenate([boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half], -1)


def inside(points_xy: np.ndarray, rect_xyxy: Sequence[float]) -> np.ndarray:
    """Return whether each point [N, 2] lies in the half-open rectangle: bool [N]."""
    x0, y0, x1, y1 = rect_xyxy
    x, y = points_xy[:, 0], points_xy[:, 1]
    is_inside: np.ndarray = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return is_inside


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of a mask, bool [h, w].

    A hole is background that no path of pixels with a common side joins to the border. The result
    equals that of `ndimage.binary_fill_holes`. It takes one pass instead of one per pixel of depth.
    """
    background, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, bool)
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        outside[edge] = True
    outside[0] = False  # label 0 is the mask
    filled: np.ndarray = ~outside[background]
    return filled
