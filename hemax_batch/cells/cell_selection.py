"""Which of a slide's cells make up its differential, by where they lie on the smear.

The rule: white cells are counted in the monolayer, as a morphologist does, since in the thick part cells shrink and hide
under red cells, and large cells gather at the feathered edge. Where the monolayer holds fewer of them than were asked
for (--target-cells), the whole smear is counted, and that is said. `--count-in all` always counts the whole smear.
Nucleated red cells and unidentified cells count where white cells do. Cells that do not count stay in every table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..vocabulary import WHITE_NAMES

COUNT_IN = ("monolayer", "all")

#: zone -> why cells there do not count
EXCLUDED_ZONES = {
    "thick": "thick area: red cells lie on one another",
    "feathered": "feathered edge: hardly any red cells",
}


@dataclass(frozen=True)
class CellSelection:
    """Where was counted ("monolayer" or "all"), why, and of each cell its zone and why it does not count ("": it
    does)."""

    counted_in: str
    because: str
    zones: tuple[str, ...]
    left_out: tuple[str, ...]

    def reason(self, zone: str) -> str:
        """Why cells of a zone do not count; "" where they do."""
        return "" if self.counted_in == "all" else EXCLUDED_ZONES.get(zone, "")


def select_cells(
    class_names: Sequence[str],
    zones: Sequence[str],
    count_in: str,
    target_cells: int,
    is_smear: bool,
) -> CellSelection:
    """Decide for cells of these final classes in these zones ("monolayer", "thick" or "feathered").

    is_smear: whether the slide looks like a smear, with single red cells in its monolayer; if not, zones mean nothing.
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
    everything = CellSelection(counted_in, because, tuple(zones), ())
    return CellSelection(counted_in, because, tuple(zones), tuple(map(everything.reason, zones)))


def selection_warning(counting: CellSelection, class_names: Sequence[str]) -> str:
    """The sentence on white cells outside the monolayer, counted or not; "" where there are none."""
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
    """What became of the area that was scanned, and how good it looked. Areas in mm²; None: not measured.

    scanned = monolayer + feathered + thick + bare glass + unreadable; used + left out = all of that but the bare glass.
    """

    counted_in: str
    counted_because: str
    cells_left_out: int  # of any class
    white_cells_left_out: int
    scanned_mm2: float
    monolayer_mm2: float
    feathered_mm2: float
    thick_mm2: float
    bare_glass_mm2: float
    unreadable_mm2: float
    used_mm2: float
    left_out_mm2: float
    focus: float | None  # the median region's, see slides.quality.focus
    regions_out_of_focus: int
    stain_contrast: float | None  # the median region's, see slides.zones.film_statistics
    nuclear_contrast: float | None = None  # likewise
    background_red: float | None = None  # clear glass, 0..255, as are the next two
    background_green: float | None = None
    background_blue: float | None = None
    red_cell_od_red: float | None = None  # a typical red cell's optical density, and the next two
    red_cell_od_green: float | None = None
    red_cell_od_blue: float | None = None
    unfamiliar_cells: int | None = None  # of `records.Cells.ood_score` above 1
