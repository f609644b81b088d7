"""What `monitor` charts: the figures of a slide that drift when a scanner, a stain or a network
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One figure of a slide, and how it is charted.

    name     as the rules file and `monitor.json` name it
    words    as the page names it; `unit` after its values
    why      what a drift of it usually comes from
    digits   decimals that are shown
    alarms   whether its chart sets exit code 9 unless the rules file says otherwise
    """

    name: str
    words: str
    unit: str
    why: str
    digits: int = 2
    alarms: bool = True


_STAIN = "stain batch, staining time, buffer pH, light of the scanner"
_PATIENTS = "who is ill moves it as well as the network does: look at the other charts first"
MEASURES: tuple[Measure, ...] = (
    Measure(
        "red_cell_diameter", "red-cell diameter", "µm", "µm per pixel, focus, drying of the film"
    ),
    Measure("stain_strength", "stain strength of red cells", "OD", _STAIN, 3),
    Measure("nuclear_contrast", "stain strength of nuclei", "OD", _STAIN, 3, alarms=False),
    Measure("red_over_green", "red-cell colour, red over green", "", _STAIN, 3, alarms=False),
    Measure("blue_over_green", "red-cell colour, blue over green", "", _STAIN, 3, alarms=False),
    Measure(
        "background", "background brightness", "of 255", "lamp, exposure, dirt on the slide", 1
    ),
    Measure(
        "background_tint",
        "background tint, blue minus red",
        "of 255",
        "white balance, mounting medium",
        1,
        alarms=False,
    ),
    Measure(
        "focus", "focus, sharpness of the median region", "", "autofocus, objective, cover slip", 3
    ),
    Measure("out_of_focus", "regions out of focus", "%", "autofocus, uneven film", alarms=False),
    Measure(
        "unfamiliar",
        "cells unlike those the network knows",
        "%",
        "stain, scanner, focus, rare disease",
    ),
    Measure("unidentified", "unidentified cells", "%", "stain, focus, rare disease"),
    Measure(
        "missed",
        "cells that the screen's audit finds",
        "per mm²",
        "stain of nuclei, focus",
        alarms=False,
    ),
    Measure(
        "corrected",
        "cells reclassified in review",
        "% of reviewed",
        "the network, the reviewers, the patients",
        alarms=False,
    ),
    *(
        Measure(name, words, "% of white cells", _PATIENTS, alarms=False)
        for name, words in (
            ("share_neutrophils", "neutrophils, total"),
            ("share_band_neutrophil", "band neutrophils"),
            ("share_lymphocyte", "lymphocytes"),
            ("share_monocyte", "monocytes"),
            ("share_eosinophil", "eosinophils"),
            ("share_basophil", "basophils"),
            ("share_blast", "blasts"),
        )
    ),
    Measure("nrbc", "nucleated red cells", "per 100 white", _PATIENTS, alarms=False),
)
MEASURE: Mapping[str, Measure] = {measure.name: measure for measure in MEASURES}
