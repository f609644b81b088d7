"""`cells.geojson`: the cells as QuPath imports them, in level-0 pixels (objectType "cell", with nucleusGeometry,
classification and measurements)."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.measure import approximate_polygon, find_contours

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
    of pixels.
    """
    filled = np.pad(binary_fill_holes(mask), 1).astype(np.float32)
    polygons = []
    for contour in find_contours(filled, 0.5):
        ring = _simplified(contour)
        polygons.append([[[round(x - 0.5 + int(xy[0]), 1), round(y - 0.5 + int(xy[1]), 1)] for y, x in ring.tolist()]])
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _simplified(contour: np.ndarray) -> np.ndarray:
    """A closed ring [V, 2] with fewer points, or itself where that would make it cross itself or lose its area."""
    ring = approximate_polygon(contour, _TOLERANCE_PX)
    return contour if len(ring) < 5 or _crosses_itself(ring) else ring


def _crosses_itself(ring: np.ndarray) -> bool:
    """Whether any two segments of the closed ring [V, 2] that are no neighbours meet. Time V², for V of some tens."""
    a, b = ring[:-1], ring[1:]
    n = len(a)
    side = _turn(a[:, None], b[:, None], np.stack([a, b])[:, None])  # [2, n, n]: ends of segment j as seen from i
    apart = side[0] * side[1] > 0
    low, high = np.minimum(a, b), np.maximum(a, b)
    beside = ((low[:, None] > high[None]) | (low[None] > high[:, None])).any(-1)  # segments of one line need not meet
    i, j = np.triu_indices(n, 2)
    neighbours = (i == 0) & (j == n - 1)
    return bool((~apart[i, j] & ~apart[j, i] & ~beside[i, j] & ~neighbours).any())


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of the triangles a, b, c [..., 2]."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
