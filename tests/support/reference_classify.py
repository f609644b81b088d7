"""The reading of cells one after the other, as it was before it was done with arrays: a slow oracle for cells.classify."""

from __future__ import annotations

import numpy as np

from hemax_batch.cells.classify import CellCall
from hemax_batch.cells.explain import (
    _UNCLEAR,
    ABUNDANT,
    LARGE_FROM_RBC_DIAMETERS,
    PLAIN_ATTRIBUTE,
    RIVAL_ATTRIBUTE,
    SCANT,
    SURE_CLASS,
    UNCLEAR_ATTRIBUTE,
    _either,
    with_article,
)
from hemax_batch.cells.measure import CellMeasures
from hemax_batch.cells.morphology import (
    ANY_NUCLEUS_FRACTION,
    CONTRADICTIONS,
    NUCLEUS_FRACTION,
    SIZE_UM,
    SURE_ATTRIBUTE,
    WITHOUT_MORPHOLOGY,
)
from hemax_batch.records import Cells
from hemax_batch.vocabulary import (
    ATTRIBUTES,
    CLASS_NAMES,
    CLASSES,
    NEUTROPHIL_NAMES,
    UNIDENTIFIED,
    Attribute,
    attribute_slices,
)


def read_cells(
    cells: Cells, measures: CellMeasures, slide_size: tuple[int, int], min_confidence: float
) -> list[CellCall]:
    """A reading of each cell. `slide_size` is (width, height) in level-0 pixels."""
    return [_read(cells, measures, i, slide_size, min_confidence) for i in range(len(cells))]


def _read(
    cells: Cells, measures: CellMeasures, i: int, slide_size: tuple[int, int], min_confidence: float
) -> CellCall:
    """Steps: the likeliest class; reasons to doubt it; the final class; the sentence."""
    first, second = np.argsort(-cells.class_probs[i], kind="stable")[:2].tolist()
    confidence, next_best = float(cells.class_probs[i, first]), float(cells.class_probs[i, second])
    name = CLASS_NAMES[first]
    unsure, strange = confidence < min_confidence, cells.ood_score[i] > 1
    # surely a neutrophil: total neutrophils must not lose it to a split that people disagree on too
    split = (
        unsure
        and not strange
        and {name, CLASS_NAMES[second]} == set(NEUTROPHIL_NAMES)
        and confidence + next_best >= min_confidence
    )
    broken = name in WITHOUT_MORPHOLOGY
    if (split or not unsure) and not broken and _without_nucleus(measures, i):
        # every cell that is counted here is nucleated: what shows none is a platelet, dirt, or wrongly outlined
        name, reasons = UNIDENTIFIED, []
        head = f"Unidentified: looks most like {with_article(CLASSES[first].words)} ({confidence:.2f}), but hardly any nucleus"
    elif strange:
        name = UNIDENTIFIED
        reasons = [
            f"low confidence ({confidence:.2f} for {CLASSES[first].words}, {next_best:.2f} for {CLASSES[second].words})"
        ] * unsure
        head = (
            f"Unidentified: looks most like {with_article(CLASSES[first].words)} ({confidence:.2f}), "
            "but is unlike the cells that the network knows"
        )
    elif split:
        reasons = [
            f"band or segmented neutrophil ({confidence:.2f} for {CLASSES[first].words}, {next_best:.2f})"
        ]
        reasons += _contradictions(cells.attribute_probs[i], name)
        head = _named(first, second, confidence, next_best)
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
    reasons += _odd_looks(cells.ood_score[i])
    reasons += _odd_place(cells.boxes_xyxy[i], slide_size)
    if name in WITHOUT_MORPHOLOGY:
        text = f"{head}: a broken cell; its parts are not described."
        return CellCall(name, confidence, tuple(reasons), text)
    reasons += _odd_measures(measures, i, name)
    return CellCall(
        name,
        confidence,
        tuple(reasons),
        sentence(head, cells.attribute_probs[i], measures, i, name),
    )


def _contradictions(attribute_probs: np.ndarray, class_name: str) -> list[str]:
    """Reasons, one for each sure attribute that speaks against the class."""
    found = []
    for a in ATTRIBUTES:
        probs = attribute_probs[attribute_slices()[a.name]]
        state = int(probs.argmax())
        if probs[state] >= SURE_ATTRIBUTE and a.states[state] in CONTRADICTIONS.get(
            class_name, {}
        ).get(a.name, ()):
            words = with_article(CLASSES[CLASS_NAMES.index(class_name)].words)
            found.append(f"explanation contradicts class: {a.words[state]} in {words}")
    return found


def _without_nucleus(measures: CellMeasures, i: int) -> bool:
    """Whether no nucleus was outlined, or less of one than any nucleated cell shows."""
    return not measures.nucleus_fraction[i] >= ANY_NUCLEUS_FRACTION[0]  # NaN: none


def _odd_looks(ood_score: float) -> list[str]:
    """Whether the network can have learnt of anything that looks like this; its confidence says nothing of that."""
    if ood_score <= 1:
        return []
    return [
        f"unlike the cells that the network knows ({ood_score:.1f} times the distance that 99 in 100 of those keep within)"
    ]


def _odd_place(box_xyxy: np.ndarray, slide_size: tuple[int, int]) -> list[str]:
    x0, y0, x1, y1 = box_xyxy
    cut = x0 <= 0 or y0 <= 0 or x1 >= slide_size[0] or y1 >= slide_size[1]
    return ["cut by the edge of the slide"] if cut else []


def _odd_measures(measures: CellMeasures, i: int, class_name: str) -> list[str]:
    found = []
    diameter, fraction = measures.diameter_um[i], measures.nucleus_fraction[i]
    if not SIZE_UM[0] <= diameter <= SIZE_UM[1]:
        found.append(
            f"unusual size ({diameter:.1f} µm across; usual is {SIZE_UM[0]:g} to {SIZE_UM[1]:g})"
        )
    low, high = NUCLEUS_FRACTION.get(class_name, ANY_NUCLEUS_FRACTION)
    if np.isnan(fraction):
        found.append("no nucleus found")
    elif not low <= fraction <= high:
        words = (
            "nucleated cell"
            if class_name == UNIDENTIFIED
            else CLASSES[CLASS_NAMES.index(class_name)].words
        )
        usual = f"for {with_article(words)} {100 * low:.0f} to {100 * high:.0f} %"
        found.append(f"unusual N:C (nucleus {100 * fraction:.0f} % of the cell; {usual})")
    return found


def _named(first: int, second: int, confidence: float, next_best: float) -> str:
    """ "Monocyte (confidence 0.62; otherwise lymphocyte, 0.30)"."""
    words = CLASSES[first].words
    otherwise = (
        f"; otherwise {CLASSES[second].words}, {next_best:.2f}" if confidence < SURE_CLASS else ""
    )
    return f"{words[0].upper()}{words[1:]} (confidence {confidence:.2f}{otherwise})"


def sentence(
    head: str, attribute_probs: np.ndarray, measures: CellMeasures, i: int, name: str
) -> str:
    """ "Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, pale or light blue
    cytoplasm; large, 14.4 µm across, 2.0 times a red cell; nucleus/cytoplasm area ratio 0.52 (nucleus 34 % of the
    cell), abundant cytoplasm."."""
    said = {
        a.name: _attribute_words(attribute_probs[attribute_slices()[a.name]], a) for a in ATTRIBUTES
    }
    looks = ", ".join(said[name] for name in ("nucleus_shape", "granularity", "cytoplasm_colour"))
    return f"{head}: {looks}; {_size_words(measures, i, said['size_vs_rbc'])}; {_nc_words(measures, i, name)}."


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


def _size_words(measures: CellMeasures, i: int, category: str) -> str:
    if np.isnan(measures.diameter_um[i]):
        return "no outline was found"
    against = f"{measures.diameter_vs_rbc[i]:.1f} times a red cell"
    if measures.rbc_is_assumed:
        against += f" of normal size ({measures.rbc_diameter_um:.1f} µm: too few were measured)"
    if category and (category == "large") != (
        measures.diameter_vs_rbc[i] >= LARGE_FROM_RBC_DIAMETERS
    ):
        category = ""  # the network sees it otherwise than the ruler: the figures say it better
    return f"{category}{', ' if category else ''}{measures.diameter_um[i]:.1f} µm across, {against}"


def _nc_words(measures: CellMeasures, i: int, name: str) -> str:
    ratio, fraction = measures.nc_ratio[i], measures.nucleus_fraction[i]
    if np.isnan(fraction):
        return "no nucleus was outlined"
    if np.isnan(ratio):
        return "the nucleus fills the cell; no cytoplasm was outlined"
    rim = (
        ", scant rim of cytoplasm"
        if fraction > SCANT
        else ", abundant cytoplasm"
        if fraction < ABUNDANT
        else ""
    )
    if name == "basophil":
        rim = "; granules may hide the nucleus's border"
    return f"nucleus/cytoplasm area ratio {ratio:.2f} (nucleus {100 * fraction:.0f} % of the cell){rim}"
