"""Report a slide's area, region by region and in total.

The report says what was read, its zone, what counts or is left out and why, and whether focus and
stain are good enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..cells.cell_selection import CellSelection, SmearAreas
from ..geometry import inside
from ..inference.region_inference import RBC_FIELD_MPP, RBC_FIELD_PX, RBC_FIELD_STEP_UM
from ..records import Region, RegionReport, RegionResult, Slide, StainProfile, TilePlan
from ..slides.quality import MIN_FOCUS, MIN_STAIN_CONTRAST
from ..slides.stain import FEW_RED_CELLS_PER_MM2
from ..slides.zones import BLANK, MONOLAYER, ZoneMap, film_statistics
from ..vocabulary import WHITE_NAMES, ZONES

# Share of the film in which red cells are measured.
FIELD_FRACTION = (RBC_FIELD_PX * RBC_FIELD_MPP / RBC_FIELD_STEP_UM) ** 2

# The stain is uneven beyond this ratio of the 90th to the 10th percentile of regions.
_UNEVEN_STAIN_RATIO = 2.0
_Counts = tuple[int, int, int]  # cells, white cells, counted white cells
_MIN_REGIONS = 10  # least number of regions for that statement
_MIN_AREA_FRACTION = 0.01  # of a region's film; a smaller zone gets no reason
_OUT_OF_FOCUS_SHARE = 0.05  # of the regions; a larger share gives a warning


def has_single_red_cells(zone_map: ZoneMap, slide: Slide, measured: int) -> bool:
    """Return whether the monolayer of a slide contains single red cells.

    `measured` is the number of red cells that were measured. Tissue may be as dense as a monolayer, but
    has hardly any single red cells.
    """
    monolayer_mm2 = (
        zone_map.areas_in((0, 0, slide.width, slide.height))[MONOLAYER] * (slide.mpp / 1000) ** 2
    )
    return bool(measured > FEW_RED_CELLS_PER_MM2 * FIELD_FRACTION * monolayer_mm2)


def region_reports(
    plan: TilePlan, results: Sequence[RegionResult], lost: Mapping[int, RegionResult], zone_map: ZoneMap,
    selection: CellSelection, centres_xy: np.ndarray, class_names: Sequence[str], rbc_diameter_um: float,
    unreadable_px: Mapping[int, float] | None = None,
) -> list[RegionReport]:  # fmt: skip
    """Return the report of every region of the plan, in its order.

    Parameters
    ----------
    centres_xy
        Centres of the slide's cells, float64 [N, 2]. Their final classes are `class_names`.
    rbc_diameter_um
        Diameter of the slide's typical red cell.
    unreadable_px
        Area of each region that could not be decoded, in level-0 pixels squared.
    """
    unreadable_px = unreadable_px or dict.fromkeys(range(len(plan.regions)), 0.0)
    by_index = {result.region_index: result for result in results}
    white = np.array([name in WHITE_NAMES for name in class_names], bool)
    counts = np.array([not reason for reason in selection.left_out], bool)
    mm2_per_px = (plan.slide.mpp / 1000) ** 2
    figures = []
    for region, cells in zip(
        plan.regions,
        _count_per_region(plan.regions, centres_xy, white, white & counts),
        strict=True,
    ):
        if region.index in by_index:
            areas_mm2 = zone_map.areas_in(region.core) * mm2_per_px
            figures.append(
                _readable_report(
                    region,
                    by_index[region.index],
                    areas_mm2,
                    selection,
                    cells,
                    rbc_diameter_um,
                    unreadable_px[region.index] * mm2_per_px,
                )
            )
        else:
            failure = lost[region.index].failure if region.index in lost else "not processed"
            figures.append(_unreadable_report(region, failure, mm2_per_px, cells))
    return figures


def _count_per_region(
    regions: Sequence[Region], centres_xy: np.ndarray, white: np.ndarray, used: np.ndarray
) -> Iterator[_Counts]:
    """Count the cells, the white cells and the counted white cells in each region's core.

    Only cells at a core's height are compared, because a slide has thousands of regions.
    """
    by_y = np.argsort(centres_xy[:, 1], kind="stable")
    points, white, used = centres_xy[by_y], white[by_y], used[by_y]
    for region in regions:
        start, stop = np.searchsorted(points[:, 1], (region.core[1], region.core[3]))
        in_core = inside(points[start:stop], region.core)
        white_in_core, used_in_core = in_core & white[start:stop], in_core & used[start:stop]
        yield int(in_core.sum()), int(white_in_core.sum()), int(used_in_core.sum())


def _readable_report(
    region: Region, result: RegionResult, areas_mm2: np.ndarray, selection: CellSelection, cells: _Counts,
    rbc_diameter_um: float, damaged_mm2: float,
) -> RegionReport:  # fmt: skip
    """Return the report of a region that was read."""
    if damaged_mm2:  # its zones are unknown, so all zones lose an equal share
        areas_mm2 = areas_mm2 * max(0.0, 1 - damaged_mm2 / areas_mm2.sum())
    film_mm2 = areas_mm2.copy()
    film_mm2[BLANK] = 0
    main = ZONES[int(film_mm2.argmax())] if film_mm2.any() else "blank"
    reasons = [selection.reason(zone) for zone in ZONES]
    left_out_mm2 = float(
        sum(area for area, reason in zip(film_mm2, reasons, strict=True) if reason)
    )
    reasons_shown = [
        f"{reason} ({area:.4f} mm²)"
        for area, reason in zip(film_mm2, reasons, strict=True)
        if reason and area > _MIN_AREA_FRACTION * film_mm2.sum()
    ]
    if damaged_mm2:
        reasons_shown.append(f"could not be decoded ({damaged_mm2:.6f} mm²)")
    cover, overlap, stain_contrast, nuclear_contrast = film_statistics(result.squares)
    rbc_per_mm2 = cover / (math.pi / 4 * (rbc_diameter_um / 1000) ** 2)
    return RegionReport(
        region.index,
        region.core,
        "read",
        main,
        not selection.reason(main),
        "; ".join(["bare glass"] * (main == "blank") + reasons_shown),
        _quality_text(result.focus, stain_contrast),
        float(areas_mm2.sum()) + damaged_mm2,
        float(film_mm2.sum()) - left_out_mm2,
        left_out_mm2,
        tuple(areas_mm2.tolist()),
        result.focus,
        stain_contrast,
        nuclear_contrast,
        cover,
        overlap,
        rbc_per_mm2,
        *cells,
        unreadable_mm2=damaged_mm2,
    )


def _unreadable_report(
    region: Region, failure: str, mm2_per_px: float, cells: _Counts
) -> RegionReport:
    """Return the report of a region that could not be read."""
    x0, y0, x1, y1 = region.core
    area_mm2 = (x1 - x0) * (y1 - y0) * mm2_per_px
    nan = math.nan
    return RegionReport(
        region.index,
        region.core,
        "unreadable",
        "",
        False,
        f"could not be read: {failure}",
        "",
        area_mm2,
        0.0,
        area_mm2,
        (nan,) * len(ZONES),
        nan,
        nan,
        nan,
        nan,
        nan,
        nan,
        *cells,
        unreadable_mm2=area_mm2,
    )


def _quality_text(focus: float, stain_contrast: float) -> str:
    """Describe the faults of a region. A value that was not measured (NaN) is no fault."""
    return "; ".join(
        words
        for words, wrong in (
            ("out of focus", focus < MIN_FOCUS),
            ("pale stain", stain_contrast < MIN_STAIN_CONTRAST),
        )
        if wrong
    )


def smear_areas(
    regions: Sequence[RegionReport], selection: CellSelection, class_names: Sequence[str]
) -> SmearAreas:
    """Sum the areas over a slide's regions."""
    read = [r for r in regions if r.state == "read"]
    blank, feathered, monolayer, thick = np.sum(
        [r.zones_mm2 for r in read] or [(0.0,) * len(ZONES)], axis=0
    ).tolist()
    left_out = [
        name for name, reason in zip(class_names, selection.left_out, strict=True) if reason
    ]
    return SmearAreas(
        counted_in=selection.counted_in,
        counted_because=selection.because,
        cells_left_out=len(left_out),
        white_cells_left_out=sum(name in WHITE_NAMES for name in left_out),
        scanned_mm2=_rounded_sum(r.area_mm2 for r in regions),
        monolayer_mm2=round(monolayer, 6),
        feathered_mm2=round(feathered, 6),
        thick_mm2=round(thick, 6),
        bare_glass_mm2=round(blank, 6),
        unreadable_mm2=_rounded_sum(r.unreadable_mm2 for r in regions),
        used_mm2=_rounded_sum(r.used_mm2 for r in regions),
        left_out_mm2=_rounded_sum(r.left_out_mm2 for r in regions),
        focus=_median([r.focus for r in read]),
        regions_out_of_focus=sum(r.focus < MIN_FOCUS for r in read),
        stain_contrast=_median([r.stain_contrast for r in read]),
    )


def _rounded_sum(areas_mm2: Iterable[float]) -> float:
    """Sum areas and round to a square micrometre."""
    return round(float(sum(areas_mm2)), 6)


def stain_figures(
    stain: StainProfile, regions: Sequence[RegionReport], ood_score: np.ndarray
) -> dict[str, float | int | None]:
    """Return entries of `SmearAreas` for the stain and for unfamiliar cells.

    `ood_score` is float [N], of the slide's cells.
    """
    colours = ("red", "green", "blue")
    glass = zip(colours, stain.background_rgb, strict=True)
    red_cell = zip(colours, stain.rbc_od_rgb, strict=True)
    return {
        "nuclear_contrast": _median([r.nuclear_contrast for r in regions if r.state == "read"]),
        **{f"background_{colour}": round(float(value), 2) for colour, value in glass},
        **{f"red_cell_od_{colour}": round(float(value), 4) for colour, value in red_cell},
        "unfamiliar_cells": int((ood_score > 1).sum()),
    }


def quality_warnings(regions: Sequence[RegionReport]) -> list[str]:
    """Return the warnings about focus and stain over the slide."""
    warnings = []
    focus = [r.focus for r in regions if not math.isnan(r.focus)]
    contrast = [
        r.stain_contrast
        for r in regions
        if r.zone == "monolayer" and not math.isnan(r.stain_contrast)
    ]
    blurred = sum(value < MIN_FOCUS for value in focus)
    if blurred > _OUT_OF_FOCUS_SHARE * len(focus):
        warnings.append(
            f"{blurred} of {len(focus)} regions are out of focus (sharpness below {MIN_FOCUS:g})"
        )
    if contrast and np.median(contrast) < MIN_STAIN_CONTRAST:
        warnings.append(
            f"pale stain: red cells have an optical density of {np.median(contrast):.3f} (below {MIN_STAIN_CONTRAST:g})"
        )
    if len(contrast) >= _MIN_REGIONS:
        low, high = np.percentile(contrast, [10, 90])
        if high > _UNEVEN_STAIN_RATIO * low:
            warnings.append(
                f"uneven stain: red cells have an optical density of {low:.3f} in some regions, {high:.3f} in others"
            )
    return warnings


def _median(values: Sequence[float]) -> float | None:
    """Return the rounded median of the values that are not NaN, or None."""
    known = [value for value in values if not math.isnan(value)]
    return round(float(np.median(known)), 4) if known else None
