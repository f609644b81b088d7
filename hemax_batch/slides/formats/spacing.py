"""Read µm per pixel from a file's metadata, if the figure is plausible for a microscope.

Resolution tags are accepted between 0.02 and 50 µm/px. The round dots-per-inch that programs write
by default (72, 96, 300 …) are rejected. A false spacing would scale every cell without notice, and
a missing one is an error with a remedy.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

PLAUSIBLE_UM = (0.02, 50.0)
_FILLER_DPI = (
    1, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 1440,
    2400,
)  # fmt: skip
_UM_PER_INCH = 25400.0
_UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0,
    "nm": 1e-3, "inch": _UM_PER_INCH, "in": _UM_PER_INCH,
}  # fmt: skip
Spacing = tuple[float, float]  # µm per pixel along x and along y


def believable(x_um: float, y_um: float) -> Spacing | None:
    """Return the pair if both values are finite and plausible for a microscope, else None."""
    low, high = PLAUSIBLE_UM
    return (x_um, y_um) if low <= x_um <= high and low <= y_um <= high else None


def from_pixels_per_unit(x: float, y: float, um_per_unit: float) -> Spacing | None:
    """Convert resolution tags, in pixels per `um_per_unit`. Default values (96 dpi) give None.

    >>> from_pixels_per_unit(100000, 100000, 1e4), from_pixels_per_unit(96, 96, 25400.0)
    ((0.1, 0.1), None)
    """
    if not (math.isfinite(x) and math.isfinite(y)) or x <= 0 or y <= 0:
        return None
    dpi = x * _UM_PER_INCH / um_per_unit
    if any(abs(dpi - filler) < 0.51 for filler in _FILLER_DPI):
        return None
    return believable(um_per_unit / x, um_per_unit / y)


def from_dpi(dpi: Sequence[float] | None) -> Spacing | None:
    """Convert Pillow's `info["dpi"]`, a pair or None."""
    return None if not dpi else from_pixels_per_unit(float(dpi[0]), float(dpi[1]), _UM_PER_INCH)


def from_tiff_tags(x: float, y: float, unit: int, description: str) -> Spacing | None:
    """Convert XResolution, YResolution and ResolutionUnit.

    The unit is 2 for inch, 3 for cm, and 1 for none. ImageJ then names its own unit in the
    description.
    """
    if unit in (2, 3):
        return from_pixels_per_unit(x, y, _UM_PER_INCH if unit == 2 else 1e4)
    # ImageJ writes "unit=micron" and stores pixels per that unit.
    named = re.search(r"^unit=(\S+)", description, re.MULTILINE)
    name = named.group(1).replace("\\u00B5", "µ") if named else ""
    return from_pixels_per_unit(x, y, _UM_PER_UNIT[name]) if name in _UM_PER_UNIT else None


def from_aperio(description: str) -> Spacing | None:
    """Read an SVS ImageDescription: '… |MPP = 0.4990|…'."""
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    return believable(float(found.group(1)), float(found.group(1))) if found else None


def all_from_ome_xml(xml: str) -> list[Spacing | None]:
    """Read PhysicalSizeX/Y of each image and their units. The default unit is µm.

    The list is empty if the XML is damaged.
    """
    try:
        # A document type may define entities that expand without end.
        root = ET.fromstring(xml) if "<!DOCTYPE" not in xml else None
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
    """Return a length attribute in µm, or NaN if its number or unit is invalid."""
    try:
        return float(pixels.attrib[name]) * _UM_PER_UNIT.get(
            pixels.get(f"{name}Unit", "µm"), math.nan
        )
    except ValueError:
        return math.nan
