"""Draw the slide: its regions by zone and its cells by class, in SVG units."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass

from ..vocabulary import CLASSES, UNIDENTIFIED
from .class_legend import mark
from .load_results import LoadedRegion, LoadedSlide

LONG_SIDE = 1000.0  # SVG units
_WORDS = {"blank": "bare glass", "feathered": "feathered edge", "thick": "thick area"}


@dataclass(frozen=True)
class Marks:
    """All cells of one class as one SVG path."""

    class_name: str
    words: str
    count: int
    path: str


@dataclass(frozen=True)
class Zone:
    """All regions of one zone, as one SVG path."""

    words: str
    used: bool
    regions: int
    path: str


@dataclass(frozen=True)
class Overview:
    """A drawing of `width` x `height` units. `units_per_px` is per level-0 pixel. `picture` is base64."""

    width: float
    height: float
    units_per_px: float
    picture: str
    zones: list[Zone]
    marks: list[Marks]


def draw_overview(slide: LoadedSlide) -> Overview:
    """Draw a slide."""
    record = slide.record
    scale = LONG_SIDE / max(record.width, record.height)
    words = {c.name: c.words for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED}
    places = defaultdict(list)
    for cell in slide.cells:
        places[cell.class_name].append((cell.centre[0] * scale, cell.centre[1] * scale))
    marks = [
        Marks(n, words[n], len(places[n]), "".join(mark(n, *p) for p in places[n]))
        for n in words
        if places[n]
    ]
    return Overview(
        round(record.width * scale, 2),
        round(record.height * scale, 2),
        scale,
        base64.b64encode(slide.overview).decode(),
        _zones(slide.regions, scale),
        marks,
    )


def _zones(regions: tuple[LoadedRegion, ...], scale: float) -> list[Zone]:
    """Return the regions by zone: those that count first, then by number."""
    kinds = defaultdict(list)
    for region in regions:
        zone_words = region.zone if region.state == "read" else region.state
        kinds[(_WORDS.get(zone_words, zone_words), region.used)].append(region)
    zones = [
        Zone(zone_words, used, len(found), "".join(_rect(r, scale) for r in found))
        for (zone_words, used), found in kinds.items()
    ]
    return sorted(zones, key=lambda zone: (not zone.used, -zone.regions, zone.words))


def _rect(region: LoadedRegion, scale: float) -> str:
    x0, y0, x1, y1 = (round(value * scale, 1) for value in region.rect)
    return f"M{x0:g} {y0:g}H{x1:g}V{y1:g}H{x0:g}z"
