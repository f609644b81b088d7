"""`cells.geojson`: the cells as QuPath imports them, in level-0 pixels (objectType "cell", with nucleusGeometry,
classification and measurements)."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path

import numpy as np
import shapely

from ..cells.explain import Reading
from ..cells.measure import Measures
from ..records import MergedCells, unpack_mask
from ..vocabulary import CLAIM, CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR

_COLOURS = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
_TOLERANCE_PX = 0.5
_NAMESPACE = uuid.UUID("6f1d1f6e-6f0c-5d0b-9a51-0f6f0f1f8a10")  # ours: a cell's object id is the same in every run


def write_geojson(path: Path, slide_id: str, merged: MergedCells, measures: Measures, readings: list[Reading]) -> None:
    """Write a FeatureCollection, a feature at a time. The caller renames the file into place."""
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'{{"type": "FeatureCollection", "claim": {json.dumps(CLAIM)}, "features": [')
        for i, reading in enumerate(readings):
            feature = _feature(slide_id, merged, measures, i, reading)
            f.write((",\n" if i else "\n") + json.dumps(feature, allow_nan=False))
        f.write("\n]}\n")


def _feature(slide_id: str, merged: MergedCells, measures: Measures, i: int, reading: Reading) -> dict:
    cells, number = merged.cells, int(merged.ids[i])
    mask = unpack_mask(cells.masks[i], cells.mask_hw[i])
    colour = _COLOURS[reading.class_name]
    figures = {
        "confidence": reading.confidence, "nucleus area um^2": measures.nucleus_area_um2[i],
        "cell area um^2": measures.cell_area_um2[i], "nucleus/cytoplasm area ratio": measures.nc_ratio[i],
        "nucleus/cell area fraction": measures.nucleus_fraction[i], "diameter um": measures.diameter_um[i],
        "diameter/red cell": measures.diameter_vs_rbc[i],
    }  # fmt: skip
    feature = {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id.encode('utf-8', 'backslashreplace')!r}/{number}")),
        "geometry": outline_of(mask > 0, cells.mask_xy[i]),
        "properties": {
            "objectType": "cell", "name": str(number),
            "classification": {"name": reading.class_name, "color": [int(colour[k : k + 2], 16) for k in (1, 3, 5)]},
            "measurements": {k: round(float(v), 4) for k, v in figures.items() if math.isfinite(v)},
            "metadata": {"explanation": reading.explanation, "review": "; ".join(reading.reasons)},
        },
    }  # fmt: skip
    nucleus = outline_of(mask == 2, cells.mask_xy[i])
    if nucleus is not None:
        feature["nucleusGeometry"] = nucleus
    return feature


def outline_of(mask: np.ndarray, xy) -> dict | None:
    """A mask crop's outline as a Polygon, or MultiPolygon where it has several pieces; None where it is empty.

    Holes are filled. Traced half-way between inside and outside pixels, so that the enclosed area is near the number
    of pixels; simplified (Douglas & Peucker, GEOS) without crossing itself.
    """
    offset = np.asarray(xy, float) - 0.5
    rings = [ring + offset for ring in trace_rings(np.pad(mask, 1))]
    polygons = [[_simplified(ring).round(1).tolist()] for ring in rings if _is_outer(ring)]
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


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


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Closed contours, float [V, 2] (x, y; the last point repeats the first), half-way between the pixels that are
    inside and those that are not; pixels that touch by a corner only are apart.

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
    following = dict(zip((square + side[_FROM[case]]).tolist(), (square + side[_TO[case]]).tolist(), strict=True))
    for diagonal, (start, end) in _SECOND.items():
        there = square[case == diagonal]
        following.update(zip((there + side[start]).tolist(), (there + side[end]).tolist(), strict=True))
    rings = []
    while following:
        first = next(iter(following))
        ring, point = [first], following.pop(first)
        while point != first:
            ring.append(point)
            point = following.pop(point)
        numbers = np.array([*ring, first])
        rings.append(np.stack([numbers % stride, numbers // stride], 1) / 2)
    return rings


def _is_outer(ring: np.ndarray) -> bool:
    """Whether a closed contour [V, 2] (x, y) goes round the mask, not round a hole in it: by the sign of its area."""
    x, y = ring.T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) > 0


def _simplified(ring: np.ndarray) -> np.ndarray:
    """A closed ring [V, 2] with fewer points, or itself where that would make it invalid."""
    polygon = shapely.polygons(ring)
    for keep_topology in (False, True):  # what costs ten times as much only where a line would cross itself
        simple = shapely.get_coordinates(shapely.simplify(polygon, _TOLERANCE_PX, preserve_topology=keep_topology))
        rounded = shapely.polygons(simple.round(1)) if len(simple) > 3 else None
        if rounded is not None and shapely.is_valid(rounded) and shapely.area(rounded) > 0:
            return simple
    return ring
