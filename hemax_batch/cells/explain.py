"""What a morphologist would say of each cell, how sure the network is, and when a person must look.

An explanation is checked against its class: a sure attribute that the class does not allow (`CONTRADICTIONS`) sends the
cell to review, with the class kept. A cell that the network is unsure of becomes `unidentified`. Only what the network
was taught is ever spoken of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import Cells
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, CLASSES, NEUTROPHIL_NAMES, UNIDENTIFIED, Attribute, attribute_slices
from .measure import Measures

SURE_ATTRIBUTE = 0.7  # an attribute contradicts a class only when it is at least this sure
PLAIN_ATTRIBUTE = 0.6  # below it the sentence says "probably", or "X or Y"
UNCLEAR_ATTRIBUTE = 0.4  # below it, that it is unclear
RIVAL_ATTRIBUTE = 0.3  # a second state this likely is named beside an unsure first
SURE_CLASS = 0.8  # below it the sentence names the next class too
SIZE_UM = (5.0, 30.0)  # a nucleated cell outside this is an artefact or two cells (haematology texts: 7-21 µm)
SCANT, ABUNDANT = 0.70, 0.40  # nucleus/cell area: above, a scant rim; below, abundant cytoplasm

#: Where measuring parts small cells from large ones as WBCAtt's pathologists do: 13.9 µm, 1.9 red cells of 7.3 µm (400
#: training cells of the PBC; 0.85 of 399 others agree, and 0.87 with the network). "large, 13 µm" would confuse.
SIZE_BORDER_RBC = 1.9

_LOBED = ("bilobed", "multilobed")

#: class -> attribute -> states that a typical cell of it does not show. From the usual descriptions (blast: round or
#: oval nucleus, no granules; eosinophil: large granules; lymphocyte: round, few or no granules …). Where WBCAtt labels a
#: class (mature white cells of the PBC), experts gave each state listed here to at most 1.5 % of its cells; a band
#: nucleus in a segmented neutrophil (41 %) is therefore not listed, nor any colour, which follows the stain.
CONTRADICTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "blast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "promyelocyte": {"granularity": ("agranular",), "nucleus_shape": ("band", *_LOBED)},
    "myelocyte": {"nucleus_shape": ("band", *_LOBED)},
    "metamyelocyte": {"nucleus_shape": ("round", "multilobed")},
    "band_neutrophil": {"granularity": ("agranular", "coarse"), "nucleus_shape": ("round", "multilobed")},
    "segmented_neutrophil": {"granularity": ("agranular", "coarse"), "nucleus_shape": ("round", "indented")},
    "eosinophil": {"granularity": ("agranular", "fine"), "nucleus_shape": ("round",)},
    "basophil": {"granularity": ("agranular", "fine")},
    "monocyte": {"granularity": ("coarse",), "nucleus_shape": ("multilobed",)},
    "lymphocyte": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "erythroblast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
}

#: Nucleus/cell area that is plausible for a class. Mature classes: the 1st to 99th percentile of Zheng's expert masks,
#: widened by 0.1 or more; immature ones: the usual N:C by volume (blast 4:1-6:1, promyelocyte 2:1-4:1, myelocyte
#: 1:1-2:1) as areas (volume fraction to the power 2/3), widened likewise.
NUCLEUS_FRACTION: dict[str, tuple[float, float]] = {
    "blast": (0.40, 0.98),
    "promyelocyte": (0.35, 0.95),
    "myelocyte": (0.30, 0.90),
    "metamyelocyte": (0.20, 0.85),
    "band_neutrophil": (0.15, 0.75),
    "segmented_neutrophil": (0.15, 0.70),
    "eosinophil": (0.12, 0.70),
    "basophil": (0.15, 0.85),
    "monocyte": (0.18, 0.80),
    "lymphocyte": (0.25, 0.95),
    "erythroblast": (0.15, 0.90),
}

ANY_NUCLEUS_FRACTION = (0.12, 0.98)  # of an unidentified cell: the widest of the above

MANY_UNFAMILIAR = 0.1  # this tool's own: one known cell in a hundred is expected to be

_UNCLEAR = {
    "granularity": "unclear granulation",
    "cytoplasm_colour": "cytoplasm of unclear colour",
    "nucleus_shape": "nucleus of unclear shape",
}


@dataclass(frozen=True)
class Reading:
    """How one cell is read: its final class, and why a person should look (empty = no particular reason)."""

    class_name: str
    confidence: float  # of the likeliest class, also where the cell is unidentified
    reasons: tuple[str, ...]
    explanation: str

    @property
    def review(self) -> bool:
        """Whether a person should look."""
        return bool(self.reasons)


def read_cells(cells: Cells, measures: Measures, slide_size: tuple[int, int], min_confidence: float) -> list[Reading]:
    """A reading of each cell. `slide_size` is (width, height) in level-0 pixels."""
    return [_read(cells, measures, i, slide_size, min_confidence) for i in range(len(cells))]


def _read(cells: Cells, measures: Measures, i: int, slide_size: tuple[int, int], min_confidence: float) -> Reading:
    """Steps: the likeliest class; reasons to doubt it; the final class; the sentence."""
    first, second = np.argsort(-cells.class_probs[i], kind="stable")[:2].tolist()
    confidence, next_best = float(cells.class_probs[i, first]), float(cells.class_probs[i, second])
    name = CLASS_NAMES[first]
    unsure = confidence < min_confidence
    if unsure and {name, CLASS_NAMES[second]} == set(NEUTROPHIL_NAMES) and confidence + next_best >= min_confidence:
        # surely a neutrophil: total neutrophils must not lose it to a split that people disagree on too
        reasons = [f"band or segmented neutrophil ({confidence:.2f} for {CLASSES[first].words}, {next_best:.2f})"]
        reasons += _contradictions(cells.attribute_probs[i], name)
        head = _named(first, second, confidence, next_best)
    elif not unsure and _without_nucleus(measures, i):
        # every cell that is counted here is nucleated: what shows none is a platelet, dirt, or wrongly outlined
        name, reasons = UNIDENTIFIED, []
        head = f"Unidentified: looks most like {with_article(CLASSES[first].words)} ({confidence:.2f}), but hardly any nucleus"
    elif unsure:
        name = UNIDENTIFIED
        reasons = [
            f"low confidence ({confidence:.2f} for {CLASSES[first].words}, {next_best:.2f} for {CLASSES[second].words})"
        ]
        head = (
            f"Unidentified: most like {with_article(CLASSES[first].words)} ({confidence:.2f}) or "
            f"{with_article(CLASSES[second].words)} ({next_best:.2f}), below the {min_confidence:.2f} asked for"
        )
    else:
        reasons = _contradictions(cells.attribute_probs[i], name)
        head = _named(first, second, confidence, next_best)
    reasons += _odd_looks(cells.unfamiliar[i])
    reasons += _odd_place(cells.boxes_xyxy[i], slide_size) + _odd_measures(measures, i, name)
    return Reading(name, confidence, tuple(reasons), sentence(head, cells.attribute_probs[i], measures, i))


def _contradictions(attribute_probs: np.ndarray, class_name: str) -> list[str]:
    """Reasons, one for each sure attribute that speaks against the class."""
    found = []
    for a in ATTRIBUTES:
        probs = attribute_probs[attribute_slices()[a.name]]
        state = int(probs.argmax())
        if probs[state] >= SURE_ATTRIBUTE and a.states[state] in CONTRADICTIONS.get(class_name, {}).get(a.name, ()):
            words = with_article(CLASSES[CLASS_NAMES.index(class_name)].words)
            found.append(f"explanation contradicts class: {a.words[state]} in {words}")
    return found


def contradicts(attribute_probs: np.ndarray, class_name: str) -> bool:
    """Whether the explanation of one cell, float [A], speaks against its class."""
    return bool(_contradictions(attribute_probs, class_name))


def _without_nucleus(measures: Measures, i: int) -> bool:
    """Whether no nucleus was outlined, or less of one than any nucleated cell shows."""
    return not measures.nucleus_fraction[i] >= ANY_NUCLEUS_FRACTION[0]  # NaN: none


def _odd_looks(unfamiliar: float) -> list[str]:
    """Whether the network can have learnt of anything that looks like this; its confidence says nothing of that."""
    if unfamiliar <= 1:
        return []
    return [f"unlike the cells that the network knows ({unfamiliar:.1f} times the distance that 99 in 100 of those keep within)"]


def words_on_unfamiliar(cells: Cells) -> str:
    """The sentence on a slide of which many cells are unlike what the network knows; "" where they are few.

    Then it is not the cells that are odd: confidences and thresholds were fitted to other pictures than these.
    """
    odd = int((cells.unfamiliar > 1).sum())
    if odd <= MANY_UNFAMILIAR * len(cells):
        return ""
    return (
        f"{odd} of {len(cells)} cells look unlike those that the network knows: another stain, scanner or focus? It is "
        "surer of them than it should be; `hemax-batch calibrate` fits it to labelled images of your own"
    )


def _odd_place(box_xyxy: np.ndarray, slide_size: tuple[int, int]) -> list[str]:
    x0, y0, x1, y1 = box_xyxy
    cut = x0 <= 0 or y0 <= 0 or x1 >= slide_size[0] or y1 >= slide_size[1]
    return ["cut by the edge of the slide"] if cut else []


def _odd_measures(measures: Measures, i: int, class_name: str) -> list[str]:
    found = []
    diameter, fraction = measures.diameter_um[i], measures.nucleus_fraction[i]
    if not SIZE_UM[0] <= diameter <= SIZE_UM[1]:
        found.append(f"unusual size ({diameter:.1f} µm across; usual is {SIZE_UM[0]:g} to {SIZE_UM[1]:g})")
    low, high = NUCLEUS_FRACTION.get(class_name, ANY_NUCLEUS_FRACTION)
    if np.isnan(fraction):
        found.append("no nucleus found")
    elif not low <= fraction <= high:
        words = "nucleated cell" if class_name == UNIDENTIFIED else CLASSES[CLASS_NAMES.index(class_name)].words
        usual = f"for {with_article(words)} {100 * low:.0f} to {100 * high:.0f} %"
        found.append(f"unusual N:C (nucleus {100 * fraction:.0f} % of the cell; {usual})")
    return found


def with_article(words: str) -> str:
    """ "an eosinophil", "a blast"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _named(first: int, second: int, confidence: float, next_best: float) -> str:
    """ "Monocyte (confidence 0.62; otherwise lymphocyte, 0.30)"."""
    words = CLASSES[first].words
    otherwise = f"; otherwise {CLASSES[second].words}, {next_best:.2f}" if confidence < SURE_CLASS else ""
    return f"{words[0].upper()}{words[1:]} (confidence {confidence:.2f}{otherwise})"


def sentence(head: str, attribute_probs: np.ndarray, measures: Measures, i: int) -> str:
    """ "Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, pale or light blue
    cytoplasm; large, 14.4 µm across, 2.0 times a red cell; nucleus/cytoplasm area ratio 0.52 (nucleus 34 % of the
    cell), abundant cytoplasm."."""
    said = {a.name: _attribute_words(attribute_probs[attribute_slices()[a.name]], a) for a in ATTRIBUTES}
    looks = ", ".join(said[name] for name in ("nucleus_shape", "granularity", "cytoplasm_colour"))
    return f"{head}: {looks}; {_size_words(measures, i, said['size_vs_rbc'])}; {_nc_words(measures, i)}."


def _attribute_words(probs: np.ndarray, attribute: Attribute) -> str:
    """The likeliest state in words: plain where it is sure, "X or Y" or "probably X" where it is not."""
    order = np.argsort(-probs, kind="stable")
    best, rival = (attribute.words[k] for k in order[:2])
    if probs[order[0]] >= PLAIN_ATTRIBUTE:
        return best
    if attribute.name not in _UNCLEAR:
        return ""  # of two sizes neither is likely: the figures that follow say it better
    if probs[order[1]] >= RIVAL_ATTRIBUTE and " or " not in best + rival:
        return _either(best, rival)
    if probs[order[0]] < UNCLEAR_ATTRIBUTE:
        return _UNCLEAR[attribute.name]
    return f"probably {with_article(best) if best.endswith('nucleus') else best}"


def _either(one: str, other: str) -> str:
    """Two noun phrases of one noun, joined.

    >>> _either("round nucleus", "bilobed nucleus"), _either("no granules", "fine granules")
    ('round or bilobed nucleus', 'no granules or fine ones')
    """
    (adjective, _), (other_adjective, _) = one.rsplit(" ", 1), other.rsplit(" ", 1)
    if adjective == "no":
        return f"{one} or {other_adjective} ones"
    return f"{one} or none" if other_adjective == "no" else f"{adjective} or {other}"


def _size_words(measures: Measures, i: int, category: str) -> str:
    if np.isnan(measures.diameter_um[i]):
        return "no outline was found"
    against = f"{measures.diameter_vs_rbc[i]:.1f} times a red cell"
    if measures.rbc_is_assumed:
        against += f" of normal size ({measures.rbc_diameter_um:.1f} µm: too few were measured)"
    if category and (category == "large") != (measures.diameter_vs_rbc[i] >= SIZE_BORDER_RBC):
        category = ""  # the network sees it otherwise than the ruler: the figures say it better
    return f"{category}{', ' if category else ''}{measures.diameter_um[i]:.1f} µm across, {against}"


def _nc_words(measures: Measures, i: int) -> str:
    ratio, fraction = measures.nc_ratio[i], measures.nucleus_fraction[i]
    if np.isnan(fraction):
        return "no nucleus was outlined"
    if np.isnan(ratio):
        return "the nucleus fills the cell; no cytoplasm was outlined"
    rim = ", scant rim of cytoplasm" if fraction > SCANT else ", abundant cytoplasm" if fraction < ABUNDANT else ""
    return f"nucleus/cytoplasm area ratio {ratio:.2f} (nucleus {100 * fraction:.0f} % of the cell){rim}"
