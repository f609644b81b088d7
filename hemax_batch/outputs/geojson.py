"""`cells.geojson`: the cells as QuPath imports them (objectType "cell", with nucleusGeometry, classification and
measurements)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from ..cells.explain import Reading
from ..cells.measure import Measures
from ..records import MergedCells, unpack_mask
from ..vocabulary import CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR

_COLOURS = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
_TOLERANCE_PX = 0.5


def write_geojson(path: Path, merged: MergedCells, measures: Measures, readings: list[Reading]) -> None:
    """Write a FeatureCollection in level-0 pixels, a feature at a time."""
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for i, reading in enumerate(readings):
            feature = _feature(merged, measures, i, reading)
            if feature is not None:
                f.write(separator + json.dumps(feature, allow_nan=False))
                separator = ",\n"
        f.write("\n]}\n")


def _feature(merged: MergedCells, measures: Measures, i: int, reading: Reading) -> dict | None:
    cells = merged.cells
    mask = unpack_mask(cells.masks[i], cells.mask_hw[i])
    outline = outline_of(mask > 0, cells.mask_xy[i])
    if outline is None:
        return None
    colour = _COLOURS[reading.class_name]
    figures = {
        "confidence": reading.confidence, "nucleus area um^2": measures.nucleus_area_um2[i],
        "cell area um^2": measures.cell_area_um2[i], "nucleus/cytoplasm ratio": measures.nc_ratio[i],
        "nucleus/cell fraction": measures.nucleus_fraction[i], "diameter um": measures.diameter_um[i],
    }  # fmt: skip
    feature = {
        "type": "Feature", "id": f"00000000-0000-4000-8000-{int(merged.ids[i]):012d}", "geometry": outline,
        "properties": {
            "objectType": "cell", "name": str(int(merged.ids[i])),
            "classification": {"name": reading.class_name, "color": [int(colour[k : k + 2], 16) for k in (1, 3, 5)]},
            "measurements": {k: round(float(v), 4) for k, v in figures.items() if not math.isnan(v)},
            "metadata": {"explanation": reading.explanation, "review": "; ".join(reading.reasons)},
        },
    }  # fmt: skip
    nucleus = outline_of(mask == 2, cells.mask_xy[i])
    if nucleus is not None:
        feature["nucleusGeometry"] = nucleus
    return feature


def outline_of(mask: np.ndarray, xy) -> dict | None:
    """A mask crop's outer outline as a Polygon, or MultiPolygon where it has several pieces; None where it is empty.

    Traced half-way between inside and outside pixels, so that the enclosed area is near the number of pixels.
    """
    polygons = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        area = np.dot(contour[:-1, 1], contour[1:, 0]) - np.dot(contour[1:, 1], contour[:-1, 0])
        if len(contour) < 4 or area <= 0:  # find_contours goes round holes the other way
            continue
        ring = approximate_polygon(contour, _TOLERANCE_PX)
        if len(ring) >= 4:
            polygons.append(
                [[[round(float(x) - 0.5 + int(xy[0]), 1), round(float(y) - 0.5 + int(xy[1]), 1)] for y, x in ring]]
            )
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
