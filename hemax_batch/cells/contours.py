"""Outlines of masks as polygons, traced half-way between inside and outside pixels and simplified.

Many masks are drawn below one another on one canvas. Tracing them together takes a tenth of the
time of tracing each alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import shapely

_TOLERANCE_PX = 0.5
#: Bounds the memory of one canvas.
_MASKS_PER_CANVAS = 128

# Marching squares on 2 x 2 pixels. The case is 1 (top left) + 2 (top right) + 4 (bottom left) +
# 8 (bottom right). `_FROM` and `_TO` give the sides of the square at which the line starts and
# ends, with the inside on its right on a screen. In the two diagonal cases the pixels are separate
# and `_SECOND` gives a second line.
_TOP, _BOTTOM, _LEFT, _RIGHT, _NONE = 0, 1, 2, 3, -1
_FROM = np.array(
    [_NONE, _TOP, _RIGHT, _RIGHT, _LEFT, _TOP, _RIGHT, _RIGHT,
     _BOTTOM, _TOP, _BOTTOM, _BOTTOM, _LEFT, _TOP, _LEFT, _NONE]
)  # fmt: skip
_TO = np.array(
    [_NONE, _LEFT, _TOP, _LEFT, _BOTTOM, _BOTTOM, _TOP, _BOTTOM,
     _RIGHT, _LEFT, _TOP, _LEFT, _RIGHT, _RIGHT, _TOP, _NONE]
)  # fmt: skip
_SECOND = {6: (_LEFT, _BOTTOM), 9: (_BOTTOM, _RIGHT)}

#: [[x, y], …]; the last point repeats the first.
Ring = list[list[float]]


def trace_outlines(masks: Sequence[np.ndarray], masks_xy: np.ndarray) -> list[list[Ring]]:
    """Trace the outer rings of each mask's parts.

    Holes are filled. The enclosed area is near the number of pixels. A ring never crosses itself.
    The outline of a mask does not depend on the other masks.

    Parameters
    ----------
    masks : sequence of ndarray of bool [h, w]
    masks_xy : ndarray of int [N, 2]
        Position (x, y) of each mask's top-left pixel.

    Returns
    -------
    list
        Per mask, its rings.

    Examples
    --------
    >>> trace_outlines([np.ones((1, 2), bool)], np.array([[10, 20]]))
    [[[[10.0, 20.5], [10.5, 20.0], [12.0, 20.5], [11.5, 21.0], [10.0, 20.5]]]]
    """
    outlines: list[list[Ring]] = []
    for start in range(0, len(masks), _MASKS_PER_CANVAS):
        outlines += _trace_together(
            masks[start : start + _MASKS_PER_CANVAS], masks_xy[start : start + _MASKS_PER_CANVAS]
        )
    return outlines


def _trace_together(masks: Sequence[np.ndarray], masks_xy: np.ndarray) -> list[list[Ring]]:
    """Trace the rings of masks on one canvas.

    Steps: draw the masks on the canvas, trace, find each ring's mask, move rings to their
    positions, fill holes, simplify.
    """
    canvas, tops = _canvas(masks)
    points, ends = trace_rings(canvas)
    if not len(ends):
        return [[] for _ in masks]
    lengths = np.diff(ends, prepend=0)
    owner = np.searchsorted(tops, points[ends - 1, 1], side="right") - 1
    # From pixel centres on the canvas to positions on the slide.
    shift = masks_xy - np.stack([np.ones(len(tops)), tops + 1], 1) + 0.5
    points = points + np.repeat(shift[owner], lengths, axis=0)
    outer = _is_outer(points, ends)
    if not outer.all():
        holed = set(owner[~outer].tolist())
        return _trace_together(
            [_fill_holes(mask) if k in holed else mask for k, mask in enumerate(masks)], masks_xy
        )
    outlines: list[list[Ring]] = [[] for _ in masks]
    for index, ring in zip(owner.tolist(), _simplify(points, lengths), strict=True):
        outlines[index].append(ring)
    return outlines


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill a mask's holes and the islands in them, whose rings would lie inside another ring.

    Pixels that touch at a corner do not enclose a hole.
    """
    from scipy import ndimage

    filled: np.ndarray = ndimage.binary_fill_holes(mask, np.ones((3, 3), bool))
    return filled


def _canvas(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Draw masks below one another, separated by blank rows.

    Returns
    -------
    tuple of ndarray
        The canvas, bool [H, W], and the blank row above each mask.
    """
    heights = np.array([len(mask) for mask in masks])
    tops = np.cumsum(heights + 1) - heights - 1
    canvas = np.zeros((tops[-1] + heights[-1] + 2, max(mask.shape[1] for mask in masks) + 2), bool)
    for top, mask in zip(tops.tolist(), masks, strict=True):
        canvas[top + 1 : top + 1 + len(mask), 1 : 1 + mask.shape[1]] = mask
    return canvas, tops


def trace_rings(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace closed contours half-way between inside and outside pixels.

    The contours are those of `skimage.measure.find_contours` at 0.5, where pixels that touch only
    at a corner are separate. This function looks only at squares on the border and takes a fraction
    of the time.

    Parameters
    ----------
    mask : ndarray of bool [h, w]
        False along its border. Pixel centres lie at whole numbers.

    Returns
    -------
    points : ndarray [V, 2]
        Points (x, y) of all rings, one ring after the other; a ring's last point repeats its first.
    ends : ndarray of int [R]
        End of each ring in `points`.
    """
    inside = mask.view(np.uint8)
    case = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, :-1] + 8 * inside[1:, 1:]
    rows, columns = np.nonzero((case != 0) & (case != 15))
    case = case[rows, columns]
    stride = 2 * mask.shape[1]  # A point's number is 2y * stride + 2x.
    side = np.array([1, 2 * stride + 1, stride, stride + 2])
    square = 2 * rows * stride + 2 * columns
    starts, stops = [square + side[_FROM[case]]], [square + side[_TO[case]]]
    for diagonal, (first, last) in _SECOND.items():
        at = square[case == diagonal]
        starts.append(at + side[first])
        stops.append(at + side[last])
    start = np.concatenate(starts)
    if not len(start):
        return np.zeros((0, 2)), np.zeros(0, int)
    by_number = np.argsort(start)
    following = by_number[np.searchsorted(start, np.concatenate(stops), sorter=by_number)]
    order, ends = _cycles(following)
    number = start[order]
    return np.stack([number % stride, number // stride], 1) / 2, ends


def _cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the cycles of a permutation, each from its least point back to it, in time V.

    The cycles are linked to one path, which is followed once.

    Parameters
    ----------
    following : ndarray of int [V]
        The next point of each point.

    Returns
    -------
    tuple of ndarray
        Points of the cycles, int [V + R], and the end of each cycle, int [R].

    Examples
    --------
    >>> [v.tolist() for v in _cycles(np.array([2, 3, 0, 1]))]
    [[0, 2, 0, 1, 3, 1], [3, 6]]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, depth_first_order

    def graph(targets: np.ndarray) -> csr_array:
        return csr_array((np.ones(len(targets), np.int8), targets, np.arange(len(targets) + 1)))

    count, cycle = connected_components(graph(following), directed=False)
    _, first = np.unique(cycle, return_index=True)
    linked, before = following.copy(), np.empty_like(following)
    before[following] = np.arange(len(following))
    linked[before[first]] = np.roll(first, -1)
    order = depth_first_order(graph(linked), 0, return_predecessors=False)
    ends = np.cumsum(np.bincount(cycle, minlength=count))
    return np.insert(order, ends, first), ends + np.arange(1, count + 1)


def _is_outer(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return whether each closed ring encloses a mask and not a hole: bool [R].

    The sign of a ring's area tells which.
    """
    x, y = points.T
    cross = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    cross[ends - 1] = 0.0  # Steps from one ring's end to the next ring's start.
    area = np.add.reduceat(cross, np.concatenate([[0], ends[:-1]]))
    return np.greater(area, 0)


def _simplify(points: np.ndarray, lengths: np.ndarray) -> list[Ring]:
    """Simplify closed rings (Douglas & Peucker, GEOS); a ring that would become invalid is kept.

    Parameters
    ----------
    points : ndarray [V, 2]
        Points of all rings, one ring after the other.
    lengths : ndarray of int [R]
        Number of points of each ring.
    """
    import shapely  # Only processes that trace outlines need it.

    index = np.repeat(np.arange(len(lengths)), lengths)
    polygons = shapely.polygons(shapely.linearrings(points, indices=index))
    simple, of_ring = shapely.get_coordinates(
        shapely.simplify(polygons, _TOLERANCE_PX, preserve_topology=False), return_index=True
    )
    simple = simple.round(1)
    counts = np.bincount(of_ring, minlength=len(lengths))
    good = counts > 3
    _, compact = np.unique(of_ring[good[of_ring]], return_inverse=True)
    rings = shapely.polygons(shapely.linearrings(simple[good[of_ring]], indices=compact))
    good[good] = shapely.is_valid(rings) & (shapely.area(rings) > 0)
    listed, ends = simple.tolist(), np.cumsum(counts).tolist()
    return [
        listed[end - count : end] if fine else _simplify_safely(polygon)
        for fine, count, end, polygon in zip(
            good.tolist(), counts.tolist(), ends, polygons, strict=True
        )
    ]


def _simplify_safely(polygon: shapely.Polygon) -> Ring:
    """Simplify one ring without self-crossings, which takes ten times as long.

    The ring is returned unchanged if even that is invalid.
    """
    import shapely

    simple = shapely.get_coordinates(
        shapely.simplify(polygon, _TOLERANCE_PX, preserve_topology=True)
    ).round(1)
    rounded = shapely.polygons(simple) if len(simple) > 3 else None
    if rounded is not None and shapely.is_valid(rounded) and shapely.area(rounded) > 0:
        return _as_ring(simple)
    return _as_ring(shapely.get_coordinates(polygon).round(1))


def _as_ring(points: np.ndarray) -> Ring:
    """Convert points [V, 2] to a list."""
    ring: Ring = points.tolist()
    return ring
