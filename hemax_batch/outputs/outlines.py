"""Cells' outlines as the text that `cells.geojson` holds: made where a region is looked at, so that publishing a slide
only copies it."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from ..cells.contours import Ring, trace_outlines
from ..mask_packing import unpack_planes
from ..records import Cells


def add_outlines(cells: Cells) -> Cells:
    """The same cells with their outlines."""
    return replace(cells, outlines=tuple(outline_texts(cells)))


def outline_texts(cells: Cells) -> list[bytes]:
    """The GeoJSON geometries of each cell and of its nucleus, in level-0 pixels: two lines, "null" where there is none.

    b'{"type": "Polygon", "coordinates": [[[10.0, 20.5], …]]}\\nnull'
    """
    planes = [
        unpack_planes(packed, hw)
        for packed, hw in zip(cells.masks, cells.mask_hw.tolist(), strict=True)
    ]
    of_cells, of_nuclei = (
        trace_outlines([plane[k] for plane in planes], cells.mask_xy) for k in (0, 1)
    )
    return list(map(outline_text, of_cells, of_nuclei))


def outline_text(cell: list[Ring], nucleus: list[Ring]) -> bytes:
    """The outer rings of a cell and of its nucleus as text."""
    return f"{_geometry(cell)}\n{_geometry(nucleus)}".encode()


def _geometry(rings: list[Ring]) -> str:
    """A Polygon, or MultiPolygon where there are several pieces."""
    if not rings:
        return "null"
    if len(rings) == 1:
        return f'{{"type": "Polygon", "coordinates": [{_ring(rings[0])}]}}'
    return f'{{"type": "MultiPolygon", "coordinates": [{", ".join(f"[{_ring(ring)}]" for ring in rings)}]}}'


def _ring(ring: Ring) -> str:
    """Its points, of whole and half pixels, as JSON; at once, in a third of the time that json takes.

    >>> _ring([[10.0, 20.5], [0.0, 3.0]])
    '[[10.0, 20.5], [0.0, 3.0]]'
    """
    return f"[{', '.join(['[%.1f, %.1f]'] * len(ring))}]" % tuple(chain.from_iterable(ring))
