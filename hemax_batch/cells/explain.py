"""What a morphologist would say of each cell, how sure the network is, and when a person must look.

An explanation is checked against its class (`CONTRADICTIONS`, from the typical descriptions of haematology texts): a
sure attribute that the class does not allow sends the cell to review. A cell that the network is unsure of becomes
`unidentified`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import Cells
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, CLASSES, UNIDENTIFIED, attribute_slices
from .measure import Measures

SURE_ATTRIBUTE = 0.8  # an attribute contradicts a class only when it is at least this sure
PLAIN_ATTRIBUTE = 0.6  # below it the sentence says "probably"
SIZE_UM = (5.0, 30.0)  # a nucleated cell outside this is an artefact or two cells (haematology texts: 7-21 µm)
SCANT, ABUNDANT = 0.70, 0.40  # nucleus/cell area: above, a scant rim; below, abundant cytoplasm

_LOBED = ("bilobed", "multilobed")

#: class -> attribute -> states that no typical cell of it shows
CONTRADICTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "blast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "promyelocyte": {"granularity": ("agranular",), "nucleus_shape": ("band", *_LOBED)},
    "myelocyte": {"nucleus_shape": ("band", *_LOBED)},
    "metamyelocyte": {"nucleus_shape": ("round", "multilobed")},
    "band_neutrophil": {"granularity": ("agranular", "coarse"), "nucleus_shape": ("round", "multilobed")},
    "segmented_neutrophil": {"granularity": ("agranular", "coarse"), "nucleus_shape": ("round", "indented")},
    "eosinophil": {"granularity": ("agranular", "fine")},
    "basophil": {"granularity": ("agranular",)},
    "monocyte": {"granularity": ("coarse",), "nucleus_shape": ("multilobed",)},
    "lymphocyte": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "erythroblast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
}


@dataclass(frozen=True)
class Reading:
    """How one cell is read: its final class, and why a person should look (empty = no particular reason)."""

    class_name: str
    confidence: float
    reasons: tuple[str, ...]
    explanation: str


def read_cells(cells: Cells, measures: Measures, slide_size: tuple[int, int], min_confidence: float) -> list[Reading]:
    """A reading of each cell. `slide_size` is (width, height) in level-0 pixels."""
    return [_read(cells, measures, i, slide_size, min_confidence) for i in range(len(cells))]


def _read(cells: Cells, measures: Measures, i: int, slide_size, min_confidence: float) -> Reading:
    """Steps: the likeliest class; reasons to doubt it; the final class; the sentence."""
    probs = cells.class_probs[i]
    first, second = np.argsort(-probs, kind="stable")[:2]
    confidence = float(probs[first])
    unsure = confidence < min_confidence
    reasons = []
    if unsure:
        reasons.append(
            f"low confidence ({confidence:.2f} for {CLASSES[first].words}, "
            f"{probs[second]:.2f} for {CLASSES[second].words})"
        )
    reasons += _contradictions(cells, i, CLASS_NAMES[first])
    reasons += _odd_measures(cells, measures, i, slide_size)
    name = UNIDENTIFIED if unsure else CLASS_NAMES[first]
    sentence = _sentence(cells, measures, i, name, int(first), int(second))
    return Reading(name, confidence, tuple(reasons), sentence)


def _contradictions(cells: Cells, i: int, class_name: str) -> list[str]:
    found = []
    for a in ATTRIBUTES:
        probs = cells.attribute_probs[i, attribute_slices()[a.name]]
        state = int(probs.argmax())
        if probs[state] >= SURE_ATTRIBUTE and a.states[state] in CONTRADICTIONS.get(class_name, {}).get(a.name, ()):
            words = CLASSES[CLASS_NAMES.index(class_name)].words
            found.append(f"explanation contradicts class: {a.words[state]} in {_article(words)}")
    return found


def _odd_measures(cells: Cells, measures: Measures, i: int, slide_size) -> list[str]:
    found = []
    x0, y0, x1, y1 = cells.boxes_xyxy[i]
    if x0 <= 0 or y0 <= 0 or x1 >= slide_size[0] or y1 >= slide_size[1]:
        found.append("cut by the edge of the slide")
    diameter = measures.diameter_um[i]
    if not SIZE_UM[0] <= diameter <= SIZE_UM[1]:
        found.append(f"unusual size ({diameter:.1f} µm across)")
    if measures.nucleus_area_um2[i] == 0:
        found.append("no nucleus found")
    return found


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _sentence(cells: Cells, measures: Measures, i: int, name: str, first: int, second: int) -> str:
    """ "Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, …; 12.4 µm across,
    …"."""
    probs = cells.class_probs[i]
    if name == UNIDENTIFIED:
        head = (f"Unidentified: {_article(CLASSES[first].words)} ({probs[first]:.2f}) or "
                f"{_article(CLASSES[second].words)} ({probs[second]:.2f})")  # fmt: skip
    else:
        words = CLASSES[first].words
        sure = f"confidence {probs[first]:.2f}"
        if probs[first] < 0.8:
            sure += f"; otherwise {CLASSES[second].words}, {probs[second]:.2f}"
        head = f"{words[0].upper()}{words[1:]} ({sure})"
    said = {a.name: _attribute_words(cells, i, a) for a in ATTRIBUTES}
    looks = ", ".join(said[k] for k in ("nucleus_shape", "granularity", "cytoplasm_colour"))
    return f"{head}: {looks}; {_size_words(measures, i, said['size_vs_rbc'])}; {_nc_words(measures, i)}."


def _attribute_words(cells: Cells, i: int, attribute) -> str:
    probs = cells.attribute_probs[i, attribute_slices()[attribute.name]]
    order = np.argsort(-probs, kind="stable")
    best = attribute.words[order[0]]
    return best if probs[order[0]] >= PLAIN_ATTRIBUTE else f"probably {best}"


def _size_words(measures: Measures, i: int, category: str) -> str:
    against = f"{measures.size_vs_rbc[i]:.1f} times a red cell"
    if measures.rbc_measured < 20:
        against += " of normal size (too few red cells were measured)"
    return f"{category}, {measures.diameter_um[i]:.1f} µm across, {against}"


def _nc_words(measures: Measures, i: int) -> str:
    if measures.nucleus_area_um2[i] == 0:
        return "no nucleus was outlined"
    ratio, fraction = measures.nc_ratio[i], measures.nucleus_fraction[i]
    rim = ", scant rim of cytoplasm" if fraction > SCANT else ", abundant cytoplasm" if fraction < ABUNDANT else ""
    if np.isnan(ratio):
        return "the nucleus fills the cell; no cytoplasm was outlined"
    return f"nucleus/cytoplasm area ratio {ratio:.2f} (nucleus {100 * fraction:.0f} % of the cell){rim}"
