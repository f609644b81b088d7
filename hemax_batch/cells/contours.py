"""Outlines of masks as polygons: traced half-way between inside and outside pixels, and simplified. Many masks at once:
drawn below one another on one canvas they cost a tenth of what each alone would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TOLERANCE_PX = 0.5
_MASKS_PER_CANVAS = 128  # masks on one canvas, so that memory stays bounded

# Marching squares on 2 x 2 pixels, the case being 1 (top left) + 2 (top right) + 4 (bottom left) + 8 (bottom right):
# from which side of the square the line comes and to which it goes, with the inside on its right as seen on a screen.
# In the two cases of a diagonal the pixels stay apart, which takes a second line.
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

Ring = list[list[float]]  # [[x, y], …], the last point the first again


def trace_outlines(masks: Sequence[np.ndarray], masks_xy: np.ndarray) -> list[list[Ring]]:
    """Of each of N masks, bool [h, w] with the top left pixel at `masks_xy` int [N, 2], the outer rings of its pieces.

    Holes are filled. The enclosed area is near the number of pixels; a ring never crosses itself. A mask's outline
    depends on it and its place alone, whatever is traced beside it.

    >>> trace_outlines([np.ones((1, 2), bool)], np.array([[10, 20]]))
    [[[[10.0, 20.5], [10.5, 20.0], [12.0, 20.5], [11.5, 21.0], [10.0, 20.5]]]]
    """
    found: list[list[Ring]] = []
    for start in range(0, len(masks), _MASKS_PER_CANVAS):
        found += _trace_together(
            masks[start : start + _MASKS_PER_CANVAS], masks_xy[start : start + _MASKS_PER_CANVAS]
        )
    return found


def _trace_together(masks: Sequence[np.ndarray], masks_xy: np.ndarray) -> list[list[Ring]]:
    """Steps: draw all on one canvas, trace, tell whose each ring is, move it to its place, fill holes, simplify."""
    canvas, tops = _canvas(masks)
    points, ends = trace_rings(canvas)
    if not len(ends):
        return [[] for _ in masks]
    lengths = np.diff(ends, prepend=0)
    owner = np.searchsorted(tops, points[ends - 1, 1], side="right") - 1
    shift = (
        masks_xy - np.stack([np.ones(len(tops)), tops + 1], 1) + 0.5
    )  # canvas pixel centres to slide
    points = points + np.repeat(shift[owner], lengths, axis=0)
    outer = _is_outer(points, ends)
    if not outer.all():
        holed = set(owner[~outer].tolist())
        return _trace_together(
            [_fill_holes(mask) if k in holed else mask for k, mask in enumerate(masks)], masks_xy
        )
    found: list[list[Ring]] = [[] for _ in masks]
    for whose, ring in zip(owner.tolist(), _simplify(points, lengths), strict=True):
        found[whose].append(ring)
    return found


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Without its holes, nor the islands in them, whose rings would lie in another's; pixels that touch by a corner
    let the outside through."""
    from scipy import ndimage

    return ndimage.binary_fill_holes(mask, np.ones((3, 3), bool))


def _canvas(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Masks below one another with a blank row before and after each, bool [H, W], and each one's blank row above."""
    heights = np.array([len(mask) for mask in masks])
    tops = np.cumsum(heights + 1) - heights - 1
    canvas = np.zeros((tops[-1] + heights[-1] + 2, max(mask.shape[1] for mask in masks) + 2), bool)
    for top, mask in zip(tops.tolist(), masks, strict=True):
        canvas[top + 1 : top + 1 + len(mask), 1 : 1 + mask.shape[1]] = mask
    return canvas, tops


def trace_rings(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closed contours half-way between the pixels that are inside and those that are not; pixels that touch by a
    corner only are apart. Points float [V, 2] (x, y) of one ring after the other, whose last repeats its first; and
    where each ring ends in them, int [R].

    mask  bool [h, w], False along its border. Pixel centres lie at whole numbers. The contours are those of
    skimage.measure.find_contours at 0.5, in a fraction of its time: only the squares on the border are looked at.
    """
    inside = mask.view(np.uint8)
    case = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, :-1] + 8 * inside[1:, 1:]
    rows, columns = np.nonzero((case != 0) & (case != 15))
    case = case[rows, columns]
    stride = 2 * mask.shape[1]  # a point's number is 2y * stride + 2x
    side = np.array([1, 2 * stride + 1, stride, stride + 2])
    square = 2 * rows * stride + 2 * columns
    starts, stops = [square + side[_FROM[case]]], [square + side[_TO[case]]]
    for diagonal, (start, stop) in _SECOND.items():
        there = square[case == diagonal]
        starts.append(there + side[start])
        stops.append(there + side[stop])
    start = np.concatenate(starts)
    if not len(start):
        return np.zeros((0, 2)), np.zeros(0, int)
    by_number = np.argsort(start)
    following = by_number[np.searchsorted(start, np.concatenate(stops), sorter=by_number)]
    walk, ends = _walk(following)
    number = start[walk]
    return np.stack([number % stride, number // stride], 1) / 2, ends


def _walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of V points' next, a permutation, -> its cycles one after the other, each from its least point back to
    that: int [V + R], and where each ends, int [R]. In time V: the cycles are tied to one and walked at once.

    >>> [v.tolist() for v in _walk(np.array([2, 3, 0, 1]))]
    [[0, 2, 0, 1, 3, 1], [3, 6]]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, depth_first_order

    def graph(targets: np.ndarray):
        return csr_array((np.ones(len(targets), np.int8), targets, np.arange(len(targets) + 1)))

    count, cycle = connected_components(graph(following), directed=False)
    _, first = np.unique(cycle, return_index=True)
    tied, before = following.copy(), np.empty_like(following)
    before[following] = np.arange(len(following))
    tied[before[first]] = np.roll(first, -1)
    order = depth_first_order(graph(tied), 0, return_predecessors=False)
    ends = np.cumsum(np.bincount(cycle, minlength=count))
    return np.insert(order, ends, first), ends + np.arange(1, count + 1)


def _is_outer(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether each closed ring goes round the mask, not round a hole in it: bool [R], by the sign of its area."""
    x, y = points.T
    cross = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    cross[ends - 1] = 0.0  # from one ring's end to the next ring's beginning
    return np.add.reduceat(cross, np.concatenate([[0], ends[:-1]])) > 0


def _simplify(points: np.ndarray, lengths: np.ndarray) -> list[Ring]:
    """Closed rings, points [V, 2] one after the other, with fewer points (Douglas & Peucker, GEOS), each as it was
    where that would make it invalid."""
    import shapely  # here: of a run's processes only those that trace need it

    whose = np.repeat(np.arange(len(lengths)), lengths)
    polygons = shapely.polygons(shapely.linearrings(points, indices=whose))
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


def _simplify_safely(polygon) -> Ring:
    """As above without crossing itself, for ten times the time; as it was where even that is invalid."""
    import shapely

    simple = shapely.get_coordinates(
        shapely.simplify(polygon, _TOLERANCE_PX, preserve_topology=True)
    ).round(1)
    rounded = shapely.polygons(simple) if len(simple) > 3 else None
    if rounded is not None and shapely.is_valid(rounded) and shapely.area(rounded) > 0:
        return simple.tolist()
    return shapely.get_coordinates(polygon).round(1).tolist()
