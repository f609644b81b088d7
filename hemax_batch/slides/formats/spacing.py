"""µm per pixel from what a file says of itself, and only where that is believable for a microscope.

Resolution tags are trusted between 0.02 and 50 µm/px, and never at the round dots-per-inch that programs fill in when
they know nothing (72, 96, 300 …): a false spacing scales every cell silently, a missing one is an error that says so.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

PLAUSIBLE_UM = (0.02, 50.0)
_FILLER_DPI = (
    1,
    72,
    75,
    90,
    96,
    100,
    120,
    144,
    150,
    180,
    200,
    240,
    300,
    350,
    360,
    400,
    600,
    720,
    1200,
    1440,
    2400,
)
_UM_PER_INCH = 25400.0
_UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0,
    "nm": 1e-3, "inch": _UM_PER_INCH, "in": _UM_PER_INCH,
}  # fmt: skip
Spacing = tuple[float, float]  # µm per pixel along x, along y


def believable(x_um: float, y_um: float) -> Spacing | None:
    """The pair where both are finite and plausible for a microscope, else None."""
    low, high = PLAUSIBLE_UM
    return (x_um, y_um) if low <= x_um <= high and low <= y_um <= high else None


def from_pixels_per_unit(x: float, y: float, um_per_unit: float) -> Spacing | None:
    """From resolution tags: pixels per `um_per_unit`. Filler such as 96 dpi gives None.

    >>> from_pixels_per_unit(100000, 100000, 1e4), from_pixels_per_unit(96, 96, 25400.0)
    ((0.1, 0.1), None)
    """
    if not (math.isfinite(x) and math.isfinite(y)) or x <= 0 or y <= 0:
        return None
    dpi = x * _UM_PER_INCH / um_per_unit
    if any(abs(dpi - filler) < 0.51 for filler in _FILLER_DPI):
        return None
    return believable(um_per_unit / x, um_per_unit / y)


def from_dpi(dpi) -> Spacing | None:
    """From Pillow's `info["dpi"]` (a pair, or None)."""
    return None if not dpi else from_pixels_per_unit(float(dpi[0]), float(dpi[1]), _UM_PER_INCH)


def from_tiff_tags(x: float, y: float, unit: int, description: str) -> Spacing | None:
    """From XResolution, YResolution, ResolutionUnit (2 inch, 3 cm; 1 none, where ImageJ names its own unit)."""
    if unit in (2, 3):
        return from_pixels_per_unit(x, y, _UM_PER_INCH if unit == 2 else 1e4)
    named = re.search(
        r"^unit=(\S+)", description, re.MULTILINE
    )  # ImageJ: "unit=micron", pixels per that unit
    name = named.group(1).replace("\\u00B5", "µ") if named else ""
    return from_pixels_per_unit(x, y, _UM_PER_UNIT[name]) if name in _UM_PER_UNIT else None


def from_aperio(description: str) -> Spacing | None:
    """From an SVS ImageDescription: '… |MPP = 0.4990|…'."""
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    return believable(float(found.group(1)), float(found.group(1))) if found else None


def all_from_ome_xml(xml: str) -> list[Spacing | None]:
    """Of each image, from its PhysicalSizeX/Y and their units (µm where none is named); [] where the XML is damaged."""
    try:
        root = (
            ET.fromstring(xml) if "<!DOCTYPE" not in xml else None
        )  # no entities, so none can explode
    except ET.ParseError:
        root = None
    return (
        []
        if root is None
        else [_of_pixels(e) for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    )


def from_ome_xml(xml: str) -> Spacing | None:
    """Of the first image."""
    return next(iter(all_from_ome_xml(xml)), None)


def _of_pixels(pixels: ET.Element) -> Spacing | None:
    if "PhysicalSizeX" not in pixels.attrib:
        return None
    x = _in_um(pixels, "PhysicalSizeX")
    return believable(x, _in_um(pixels, "PhysicalSizeY") if "PhysicalSizeY" in pixels.attrib else x)


def _in_um(pixels: ET.Element, name: str) -> float:
    """A length attribute in µm; NaN where its number or unit makes no sense."""
    try:
        return float(pixels.attrib[name]) * _UM_PER_UNIT.get(
            pixels.get(f"{name}Unit", "µm"), math.nan
        )
    except ValueError:
        return math.nan
