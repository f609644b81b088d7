"""Made-up results of a slide: N cells drawn with PIL, written by the writers that a run uses. Never to be called real."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hemax_batch import __version__
from hemax_batch.cells.cell_selection import CellSelection, select_cells
from hemax_batch.cells.classify import classify_cells
from hemax_batch.cells.differential import count_differential
from hemax_batch.cells.measure import measure_cells
from hemax_batch.cells.screening_audit import estimate_missed
from hemax_batch.mask_packing import pack_mask
from hemax_batch.outputs import geojson
from hemax_batch.outputs.differential_json import write_differential
from hemax_batch.outputs.pictures import write_overview, write_pictures
from hemax_batch.outputs.tables import (
    CELL_COLUMNS,
    DIFFERENTIAL_COLUMNS,
    REGION_COLUMNS,
    cell_rows,
    differential_row,
    region_rows,
    write_table,
)
from hemax_batch.publishing.area_report import smear_areas
from hemax_batch.records import PICTURE_UM, Cells, MergedCells, RegionReport
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.results.slide_record import ScanFigures, SlideRecord
from hemax_batch.settings import FORMAT_VERSION
from hemax_batch.vocabulary import ATTRIBUTES, CLASS_NAMES, N_CLASSES, ZONES

MPP = 0.2
SIDE_PX = round(PICTURE_UM / MPP)
VARIANTS = 6  # different drawings of each class
#: class -> share of a made-up smear, diameter in µm, nucleus (lobes, share of the diameter), cytoplasm, state indices
_KINDS = {
    "segmented_neutrophil": (0.52, 13.0, (3, 0.30), "#f2d9dc", (1, 0, 4, 1)),
    "lymphocyte": (0.27, 10.0, (1, 0.84), "#b9c9ee", (0, 1, 0, 0)),
    "monocyte": (0.08, 16.0, (2, 0.42), "#b7b6cf", (0, 2, 1, 1)),
    "eosinophil": (0.04, 13.0, (2, 0.34), "#f09a6a", (2, 0, 3, 1)),
    "band_neutrophil": (0.04, 13.0, (2, 0.30), "#f0d6da", (1, 0, 2, 1)),
    "basophil": (0.01, 12.0, (2, 0.44), "#8d7cc0", (2, 2, 5, 1)),
    "blast": (0.02, 16.0, (1, 0.82), "#8fa0dd", (0, 1, 0, 1)),
    "erythroblast": (0.02, 9.0, (1, 0.5), "#d9b8c6", (0, 2, 0, 0)),
}


def make_results(
    root: Path, slide_id: str = "S1", n: int = 60, path: str | None = None, seed: int = 0
) -> Path:
    """Results of one slide of `n` made-up cells in `root`/`slide_id`; returns that folder. No masks.zarr: nothing that
    reads results for people needs it."""
    merged, side_px = _cells(n, np.random.default_rng(seed))
    diameters_um = np.full(40, 7.2)
    measures = measure_cells(merged.cells, MPP, diameters_um)
    calls = classify_cells(merged.cells, measures, (side_px, side_px), 0.5)
    names = calls.names
    counting = select_cells(names, _zones(merged, side_px), "monolayer", 200, is_smear=True)
    differential = count_differential(
        name for name, reason in zip(names, counting.left_out, strict=True) if not reason
    )
    regions = _regions(side_px, counting)
    smear, audit = smear_areas(regions, counting, names), estimate_missed(1, 0.0125, 1.2)
    path = path or f"/slides/{slide_id}.svs"
    record = SlideRecord(
        FORMAT_VERSION,
        slide_id,
        path,
        side_px,
        side_px,
        MPP,
        "f" * 64,
        "5" * 64,
        "a" * 64,
        __version__,
        n,
        4,
        (),
        0.0,
        ("2 regions are out of focus",),
        1,
        measures.rbc_diameter_um,
        measures.rbc_measured,
        ScanFigures(smear.scanned_mm2, 0.4, n + 9, n + 20, 0, 3, 0.0125, 1),
        smear,
        audit,
    )
    results = ResultsFolder(root)
    results.prepare()
    made, to_review = results.staging_folder(slide_id), int(calls.review.sum())
    write_table(
        made / "cells.csv", CELL_COLUMNS, cell_rows(slide_id, merged, measures, calls, counting)
    )
    write_table(made / "regions.csv", REGION_COLUMNS, region_rows(slide_id, regions))
    row = differential_row(slide_id, path, differential, to_review, record.warnings)
    write_table(made / "differential.csv", DIFFERENTIAL_COLUMNS, [row])
    write_differential(
        made / "differential.json",
        slide_id,
        path,
        differential,
        measures,
        to_review,
        record.warnings,
        smear,
        audit,
    )
    write_overview(made / "overview.jpg", _overview())
    write_pictures(made / "pictures.zip", merged)
    geojson.write_geojson(made / "cells.geojson", slide_id, merged, measures, calls)
    results.publish(made, record)
    return results.slide(slide_id)


#: The slide from left to right: (zone, share of the width). A quarter of the cells lies outside the monolayer.
_STRIPS = (("thick", 0.15), ("monolayer", 0.75), ("feathered", 0.1))


def _zones(merged: MergedCells, side_px: int) -> list[str]:
    """The zone of each cell."""
    at = (merged.cells.boxes_xyxy[:, 0] + merged.cells.boxes_xyxy[:, 2]) / 2 / side_px
    ends = np.cumsum([share for _, share in _STRIPS])
    return [_STRIPS[k][0] for k in np.searchsorted(ends, at)]


def _regions(side_px: int, counting: CellSelection) -> list[RegionReport]:
    figures, x0 = [], 0
    for index, (zone, share) in enumerate(_STRIPS):
        x1 = x0 + round(share * side_px)
        area_mm2 = (x1 - x0) * side_px * (MPP / 1000) ** 2
        reason = counting.reason(zone)
        zones_mm2 = tuple(area_mm2 if zone == name else 0.0 for name in ZONES)
        used_mm2 = 0.0 if reason else area_mm2
        figures.append(
            RegionReport(
                index,
                (x0, 0, x1, side_px),
                "read",
                zone,
                not reason,
                reason,
                "",
                area_mm2,
                used_mm2,
                area_mm2 - used_mm2,
                zones_mm2,
                0.4,
                0.3,
                0.8,
                0.35,
                0.1,
                9000.0,
                0,
                0,
                0,
            )
        )
        x0 = x1
    return figures


def _overview() -> np.ndarray:
    """A smear from thick to thin, uint8 [300, 300, 3]."""
    random = np.random.default_rng(0)
    thin = np.linspace(0.0, 1.0, 300)[None, :, None] + random.normal(0, 0.05, (300, 300, 1))
    return np.clip(np.array([214, 150, 160]) + thin * np.array([34, 80, 72]), 0, 255).astype(
        np.uint8
    )


def _cells(n: int, random: np.random.Generator) -> tuple[MergedCells, int]:
    """n cells on a square slide, in the order of their ids."""
    across = int(np.ceil(np.sqrt(max(n, 1))))
    side_px = SIDE_PX * (across + 1)
    names, shares = list(_KINDS), np.array([kind[0] for kind in _KINDS.values()])
    parts = []
    for i in range(n):
        name = names[random.choice(len(names), p=shares / shares.sum())]
        mask, jpeg = _drawing(name, int(random.integers(VARIANTS)))
        jitter = random.integers(-20, 20, 2)
        x0, y0 = SIDE_PX // 2 + SIDE_PX * np.array([i % across, i // across]) + jitter
        parts.append(_cell(name, int(x0), int(y0), mask, jpeg, random))
    cells = Cells.concat(parts)
    order = np.lexsort(
        (
            (cells.boxes_xyxy[:, 0] + cells.boxes_xyxy[:, 2]),
            (cells.boxes_xyxy[:, 1] + cells.boxes_xyxy[:, 3]),
        )
    )
    return MergedCells(cells.take(order), np.arange(1, n + 1), {"duplicate": 0}), side_px


def _cell(
    name: str, x0: int, y0: int, mask: np.ndarray, jpeg: bytes, random: np.random.Generator
) -> Cells:
    """One cell whose box is its mask's: a little noise in what the network says, sometimes a great deal."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    x, y = x0 + int(columns[0]), y0 + int(rows[0])
    sure = (
        0.35 + 0.2 * random.random() if random.random() < 0.06 else 1 - 0.3 * random.random() ** 3
    )
    probs = np.full(N_CLASSES, (1 - sure) / (N_CLASSES - 1) * 0.5)
    probs[CLASS_NAMES.index(name)] = sure
    probs[(CLASS_NAMES.index(name) + 1) % N_CLASSES] += 1 - probs.sum()
    attributes = []
    for attribute, state in zip(ATTRIBUTES, _KINDS[name][4], strict=True):
        if random.random() < 0.03:
            state = int(random.integers(len(attribute.states)))
        certain = 0.5 + 0.5 * random.random() ** 0.3
        row = np.full(len(attribute.states), (1 - certain) / (len(attribute.states) - 1))
        row[state] = certain
        attributes.append(row)
    return Cells(
        np.array([[x, y, x + crop.shape[1], y + crop.shape[0]]], np.float32),
        np.array([0.99], np.float32),
        probs[None].astype(np.float32),
        np.concatenate(attributes)[None].astype(np.float32),
        np.array([[x, y]], np.int32),
        np.array([crop.shape], np.int32),
        (pack_mask(crop),),
        np.zeros(1, np.float32),
        np.zeros(1, np.int32),
        (jpeg,),
    )


@cache
def _drawing(name: str, variant: int) -> tuple[np.ndarray, bytes]:
    """A cell's mask uint8 [SIDE_PX, SIDE_PX] and its picture, centred on its box."""
    random = np.random.default_rng([variant, CLASS_NAMES.index(name)])
    _, diameter_um, (lobes, lobe_share), cytoplasm, _ = _KINDS[name]
    radius = diameter_um / MPP / 2 * (0.92 + 0.16 * random.random())
    yy, xx = np.mgrid[:SIDE_PX, :SIDE_PX] + 0.5 - SIDE_PX / 2
    angle = np.arctan2(yy, xx)
    edge = radius * (
        1 + 0.04 * np.sin(2 * angle + variant) + 0.03 * np.sin(3 * angle + 2 * variant)
    )
    cell = np.hypot(xx, yy) <= edge
    nucleus = np.zeros_like(cell)
    for k in range(lobes):
        turn = 2 * np.pi * k / max(lobes, 1) * 0.7 + variant
        off = 0.38 * radius if lobes > 1 else 0.05 * radius
        nucleus |= np.hypot(
            xx - off * np.cos(turn), yy - off * np.sin(turn)
        ) <= lobe_share * radius * (1.25 if lobes > 1 else 1)
    nucleus &= np.hypot(xx, yy) <= edge * 0.94
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), "#f4eef0")
    draw = ImageDraw.Draw(picture)
    for x, y in ((8, 12), (105, 20), (112, 100), (15, 108), (60, -8)):
        draw.ellipse([x - 18, y - 18, x + 18, y + 18], fill="#e3b3b5", outline="#d39ca0")
        draw.ellipse([x - 7, y - 7, x + 7, y + 7], fill="#ecc8c8")
    picture.paste(Image.new("RGB", picture.size, cytoplasm), mask=Image.fromarray(cell))
    picture.paste(Image.new("RGB", picture.size, "#5b3a86"), mask=Image.fromarray(nucleus))
    noise = random.normal(0, 5, (SIDE_PX, SIDE_PX, 1))
    smooth = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.9)), float) + noise
    buffer = io.BytesIO()
    Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return cell.astype(np.uint8) + nucleus, buffer.getvalue()


def change_record(folder: Path, **changed) -> None:
    """Rewrite `result.json` with some entries changed."""
    import json
    from dataclasses import asdict

    from hemax_batch.results.slide_record import RESULT_NAME, read_record

    (folder / RESULT_NAME).write_text(json.dumps(asdict(replace(read_record(folder), **changed))))
