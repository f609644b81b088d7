"""Write `cells.geojson`: the cells as QuPath imports them, in level-0 pixels.

Each feature has objectType "cell", nucleusGeometry, a classification and measurements.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

import numpy as np

from ..cells.classify import CALL_NAMES, CellCalls
from ..cells.measure import CellMeasures
from ..records import MergedCells
from ..vocabulary import CLAIM, CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR
from .outlines import outline_texts
from .tables import row_blocks

_COLOURS = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
_NAMESPACE = uuid.UUID(
    "6f1d1f6e-6f0c-5d0b-9a51-0f6f0f1f8a10"
)  # fixed: a cell has the same object id in every run


def write_geojson(
    path: Path, slide_id: str, merged: MergedCells, measures: CellMeasures, calls: CellCalls,
    read: Callable[..., bytes] = bytes,
) -> None:  # fmt: skip
    """Write a FeatureCollection in blocks of some thousand features. The caller renames the file.

    read  returns the text of an entry of `Cells.outlines`. The entry may be only a place (results.region_blobs).
          An outline that is missing is traced here.
    """
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'{{"type": "FeatureCollection", "claim": {json.dumps(CLAIM)}, "features": [\n')
        for rows in row_blocks(len(calls)):
            f.write(",\n" if rows.start else "")
            f.write(",\n".join(_features(slide_id, merged, measures, calls, rows, read)))
        f.write("\n]}\n" if len(calls) else "]}\n")


def _features(
    slide_id: str,
    merged: MergedCells,
    measures: CellMeasures,
    calls: CellCalls,
    rows: slice,
    read: Callable[..., bytes],
) -> Iterator[str]:
    """Yield the features of some cells."""
    numbers, explanations, reasons = merged.ids[rows].tolist(), *calls.explain(rows)
    figures = {
        "confidence": calls.confidences[rows, 0],
        "nucleus area um^2": measures.nucleus_area_um2[rows],
        "cell area um^2": measures.cell_area_um2[rows],
        "nucleus/cytoplasm area ratio": measures.nc_ratio[rows],
        "nucleus/cell area fraction": measures.nucleus_fraction[rows],
        "diameter um": measures.diameter_um[rows],
        "diameter/red cell": measures.diameter_vs_rbc[rows],
    }
    for number, kind, measurements, explanation, cell_reasons, outline in zip(
        numbers,
        calls.class_index[rows].tolist(),
        _measurements(figures),
        explanations,
        reasons,
        _outlines(merged, rows, read),
        strict=True,
    ):
        geometry, nucleus = outline.decode().split("\n")
        nucleus = "" if nucleus == "null" else f', "nucleusGeometry": {nucleus}'
        yield (
            f'{{"type": "Feature", "id": "{_object_id(slide_id, number)}", "geometry": {geometry}, "properties": {{'
            f'"objectType": "cell", "name": "{number}", "classification": {_CLASSIFICATIONS[kind]}, '
            f'"measurements": {measurements}, "metadata": {{"explanation": {quoted(explanation)}, '
            f'"review": {quoted("; ".join(cell_reasons))}}}}}{nucleus}}}'
        )


#: The classification of each of `CALL_NAMES`.
_CLASSIFICATIONS = [
    json.dumps({"name": name, "color": [int(_COLOURS[name][k : k + 2], 16) for k in (1, 3, 5)]})
    for name in CALL_NAMES
]


def _measurements(figures: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield each cell's measurements as a JSON object. NaN is left out."""
    names = [f"{json.dumps(name)}: " for name in figures]
    for values in zip(*(column.tolist() for column in figures.values()), strict=True):
        entries = [
            f"{name}{round(v, 4)}"
            for name, v in zip(names, values, strict=True)
            if math.isfinite(v)
        ]
        yield f"{{{', '.join(entries)}}}"


def _outlines(merged: MergedCells, rows: slice, read: Callable[..., bytes]) -> list[bytes]:
    """Return the texts of some cells' outlines."""
    outlines = merged.cells.outlines
    texts = (
        [read(blob) for blob in outlines[rows]] if outlines else [b""] * (rows.stop - rows.start)
    )
    missing = [k for k, text in enumerate(texts) if not text]
    traced = outline_texts(merged.cells.take(np.array(missing, int) + rows.start))
    for k, text in zip(missing, traced, strict=True):
        texts[k] = text
    return texts


def _object_id(slide_id: str, number: int) -> str:
    """Return the UUID of a cell, as `uuid.uuid5` makes it. QuPath uses it across slides."""
    name = f"{slide_id.encode('utf-8', 'backslashreplace')!r}/{number}"
    digest = hashlib.sha1(_NAMESPACE.bytes + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
