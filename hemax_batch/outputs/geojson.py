"""`cells.geojson`: the cells as QuPath imports them, in level-0 pixels (objectType "cell", with nucleusGeometry,
classification and measurements)."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path

import numpy as np
import shapely
from skimage.measure import find_contours

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
    rings = [ring[:, ::-1] + offset for ring in find_contours(np.pad(mask, 1).astype(np.float32), 0.5)]
    polygons = [[_simplified(ring).round(1).tolist()] for ring in rings if _is_outer(ring)]
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _is_outer(ring: np.ndarray) -> bool:
    """Whether a closed contour [V, 2] (x, y) goes round the mask, not round a hole in it: by the sign of its area."""
    x, y = ring.T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) > 0


def _simplified(ring: np.ndarray) -> np.ndarray:
    """A closed ring [V, 2] with fewer points, or itself where that would make it invalid."""
    simple = shapely.simplify(shapely.Polygon(ring), _TOLERANCE_PX, preserve_topology=True)
    rounded = shapely.Polygon(np.asarray(simple.exterior.coords).round(1))
    return np.asarray(simple.exterior.coords) if rounded.is_valid and rounded.area > 0 else ring
