"""Make cells' outlines as the text of `cells.geojson`. Workers make it, so publishing a slide only copies it."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from ..cells.contours import Ring, trace_outlines
from ..mask_packing import unpack_planes
from ..records import Cells


def add_outlines(cells: Cells) -> Cells:
    """Return the same cells with their outlines."""
    return replace(cells, outlines=tuple(outline_texts(cells)))


def outline_texts(cells: Cells) -> list[bytes]:
    r"""Return the GeoJSON geometries of each cell and its nucleus, in level-0 pixels: two lines, or "null".

    b'{"type": "Polygon", "coordinates": [[[10.0, 20.5], …]]}\nnull'
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
    """Return the outer rings of a cell and of its nucleus as text."""
    return f"{_geometry(cell)}\n{_geometry(nucleus)}".encode()


def _geometry(rings: list[Ring]) -> str:
    """Return a Polygon, or a MultiPolygon if there are several pieces."""
    if not rings:
        return "null"
    if len(rings) == 1:
        return f'{{"type": "Polygon", "coordinates": [{_ring(rings[0])}]}}'
    return f'{{"type": "MultiPolygon", "coordinates": [{", ".join(f"[{_ring(ring)}]" for ring in rings)}]}}'


def _ring(ring: Ring) -> str:
    """Return the points of whole and half pixels as JSON. It takes a third of the time of `json`.

    >>> _ring([[10.0, 20.5], [0.0, 3.0]])
    '[[10.0, 20.5], [0.0, 3.0]]'
    """
    return f"[{', '.join(['[%.1f, %.1f]'] * len(ring))}]" % tuple(chain.from_iterable(ring))
