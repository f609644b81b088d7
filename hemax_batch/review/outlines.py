"""Read the outlines of cells and nuclei from `cells.geojson`, and draw them as SVG paths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bounded_files import parse_json, read_bounded
from ..records import PICTURE_UM

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Outlines:
    """The closed rings of one cell and of its nucleus, in level-0 pixels; empty if there is none."""

    cell: tuple[Ring, ...]
    nucleus: tuple[Ring, ...]


def read_outlines(path: Path, max_bytes: int) -> dict[int, Outlines]:
    """Cell id to outlines. OSError, or ValueError, KeyError or TypeError where the file is not one of ours.

    Each feature is reduced as soon as it is parsed. A file of many cells needs little more memory than its text.
    """
    found: dict[int, Outlines] = {}

    def reduce_feature(entry: dict[str, Any]) -> tuple[Ring, ...] | dict[str, Any] | None:
        if "coordinates" in entry:
            return _rings(entry)
        if entry.get("type") == "Feature":
            cell_id = int(entry["properties"]["name"])
            if cell_id in found:
                raise ValueError(f"cell {cell_id} is there twice")
            rings = entry["geometry"] or (), entry.get("nucleusGeometry") or ()
            if not all(isinstance(part, tuple) for part in rings):
                raise ValueError(f"the outline of cell {cell_id} is no polygon")
            found[cell_id] = Outlines(*rings)
            return None
        return entry

    whole = parse_json(read_bounded(path, max_bytes), object_hook=reduce_feature)
    if whole["type"] != "FeatureCollection":
        raise ValueError(f"is a {whole['type']!r}, expected a FeatureCollection")
    return found


def _rings(geometry: dict[str, Any]) -> tuple[Ring, ...]:
    """Return the rings of a Polygon or MultiPolygon, with holes."""
    polygons = (
        [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    )
    rings = tuple(
        tuple((float(x), float(y)) for x, y in ring)
        for polygon in polygons
        for ring in polygon
        if ring
    )
    if not all(math.isfinite(v) for ring in rings for point in ring for v in point):
        raise ValueError("a coordinate is not a number")
    return rings


def svg_path(rings: tuple[Ring, ...], centre: tuple[float, float], mpp: float) -> str:
    """Return an SVG path in µm over the cell's picture, whose box is 0 0 PICTURE_UM PICTURE_UM.

    >>> svg_path((((10, 10), (14, 10), (14, 13.5), (10, 10)),), (10, 10), 0.5)
    'M12 12L14 12 14 13.75Z'
    """
    parts = []
    for ring in rings:
        points = [
            " ".join(
                f"{(value - middle) * mpp + PICTURE_UM / 2:.2f}".rstrip("0").rstrip(".")
                for value, middle in zip(point, centre, strict=True)
            )
            for point in (ring[:-1] if ring[0] == ring[-1] else ring)
        ]
        parts.append(f"M{points[0]}L{' '.join(points[1:])}Z")
    return "".join(parts)
