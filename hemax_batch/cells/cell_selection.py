"""Selection of the cells that make up a slide's differential, by their zone on the smear.

White cells are counted in the monolayer, as a morphologist does. In the thick area cells shrink
and hide under red cells. Large cells gather at the feathered edge. If the monolayer holds fewer
white cells than `--target-cells`, the whole smear is counted and the results say so.
`--count-in all` always counts the whole smear. Nucleated red cells and unidentified cells count
where white cells do. Cells that do not count stay in every table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..vocabulary import WHITE_NAMES

COUNT_IN = ("monolayer", "all")

#: Why cells in a zone do not count, by zone.
EXCLUDED_ZONES = {
    "thick": "thick area: red cells lie on one another",
    "feathered": "feathered edge: hardly any red cells",
}


@dataclass(frozen=True)
class CellSelection:
    """Where cells were counted, and which cells are left out.

    Attributes
    ----------
    counted_in : str
        "monolayer" or "all".
    because : str
        Why.
    zones : tuple of str
        Zone of each cell.
    left_out : tuple of str
        Why each cell does not count; "" for a cell that counts.
    """

    counted_in: str
    because: str
    zones: tuple[str, ...]
    left_out: tuple[str, ...]

    def reason(self, zone: str) -> str:
        """Return why cells of a zone do not count; "" if they count."""
        return "" if self.counted_in == "all" else EXCLUDED_ZONES.get(zone, "")


def select_cells(
    class_names: Sequence[str],
    zones: Sequence[str],
    count_in: str,
    target_cells: int,
    is_smear: bool,
) -> CellSelection:
    """Select the cells that count.

    Parameters
    ----------
    class_names
        Final class of each cell.
    zones
        Zone of each cell: "monolayer", "thick" or "feathered".
    count_in
        "monolayer" or "all", the option `--count-in`.
    target_cells
        White cells that the monolayer must hold.
    is_smear
        Whether the slide looks like a smear, with single red cells in its monolayer. If not, zones
        have no meaning and all cells count.
    """
    white = [zone for name, zone in zip(class_names, zones, strict=True) if name in WHITE_NAMES]
    inside = white.count("monolayer")
    monolayer_text = f"the monolayer holds {inside} white cell{'' if inside == 1 else 's'}, {target_cells} are asked for"
    if count_in == "all":
        counted_in, because = "all", "--count-in all"
    elif not is_smear:
        counted_in, because = (
            "all",
            "hardly any single red cell is seen, so that no monolayer can be told",
        )
    elif inside < target_cells:
        counted_in, because = "all", monolayer_text
    else:
        counted_in, because = "monolayer", monolayer_text
    unfiltered = CellSelection(counted_in, because, tuple(zones), ())
    return CellSelection(counted_in, because, tuple(zones), tuple(map(unfiltered.reason, zones)))


def selection_warning(counting: CellSelection, class_names: Sequence[str]) -> str:
    """Return the sentence on white cells outside the monolayer; "" if there are none."""
    outside = Counter(
        zone
        for name, zone in zip(class_names, counting.zones, strict=True)
        if name in WHITE_NAMES and zone != "monolayer"
    )
    if not outside:
        return ""
    number = outside.total()
    text = f"{number} white cell{'' if number == 1 else 's'} outside the monolayer "
    text += "(" + ", ".join(f"{zone} {outside[zone]}" for zone in sorted(outside)) + ") "
    return text + (
        f"counted: {counting.because}"
        if counting.counted_in == "all"
        else "left out of the differential"
    )


@dataclass(frozen=True)
class SmearAreas:
    """Scanned, used and excluded area of a slide, and its median quality.

    Areas are in mm². The scanned area is the sum of monolayer, feathered edge, thick area, bare
    glass and unreadable area. Used and left-out area add up to the scanned area without the bare
    glass.

    Attributes
    ----------
    cells_left_out : int
        Cells of any class that do not count.
    focus : float, optional
        Median over regions of `slides.quality.focus`; None if not measured.
    stain_contrast, nuclear_contrast : float, optional
        Median over regions, see `slides.zones.film_statistics`; None if not measured.
    background_red, background_green, background_blue : float, optional
        Colour of clear glass, 0..255.
    red_cell_od_red, red_cell_od_green, red_cell_od_blue : float, optional
        Optical density of a typical red cell.
    unfamiliar_cells : int, optional
        Cells that are out of distribution (`records.Cells.ood_score` above 1).
    """

    counted_in: str
    counted_because: str
    cells_left_out: int
    white_cells_left_out: int
    scanned_mm2: float
    monolayer_mm2: float
    feathered_mm2: float
    thick_mm2: float
    bare_glass_mm2: float
    unreadable_mm2: float
    used_mm2: float
    left_out_mm2: float
    focus: float | None
    regions_out_of_focus: int
    stain_contrast: float | None
    nuclear_contrast: float | None = None
    background_red: float | None = None
    background_green: float | None = None
    background_blue: float | None = None
    red_cell_od_red: float | None = None
    red_cell_od_green: float | None = None
    red_cell_od_blue: float | None = None
    unfamiliar_cells: int | None = None
