"""Cells' outlines as the text that `cells.geojson` holds: made where a region is looked at, so that publishing a slide
only copies it."""

from __future__ import annotations

from dataclasses import replace

from ..cells.contours import Ring, outlines_of
from ..records import Cells, unpack_planes


def outlined(cells: Cells) -> Cells:
    """The same cells with their outlines."""
    return replace(cells, outlines=tuple(outline_texts(cells)))


def outline_texts(cells: Cells) -> list[bytes]:
    """The GeoJSON geometries of each cell and of its nucleus, in level-0 pixels: two lines, "null" where there is none.

    b'{"type": "Polygon", "coordinates": [[[10.0, 20.5], …]]}\\nnull'
    """
    planes = [unpack_planes(packed, hw) for packed, hw in zip(cells.masks, cells.mask_hw.tolist(), strict=True)]
    of_cells, of_nuclei = (outlines_of([plane[k] for plane in planes], cells.mask_xy) for k in (0, 1))
    return [
        f"{_geometry(cell)}\n{_geometry(nucleus)}".encode() for cell, nucleus in zip(of_cells, of_nuclei, strict=True)
    ]


def _geometry(rings: list[Ring]) -> str:
    """A Polygon, or MultiPolygon where there are several pieces; the floats of a list show as JSON's do."""
    if not rings:
        return "null"
    if len(rings) == 1:
        return f'{{"type": "Polygon", "coordinates": {rings}}}'
    return f'{{"type": "MultiPolygon", "coordinates": {[[ring] for ring in rings]}}}'
