"""Explanation sentences, in a morphologist's words. They mention trained attributes only.

    Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, pale or
    light blue cytoplasm; large, 14.4 µm across, 2.0 times a red cell; nucleus/cytoplasm area ratio
    0.52 (nucleus 34 % of the cell), abundant cytoplasm.

The words for an attribute depend on its two likeliest states and on one of five certainty steps.
All phrases are therefore tabulated once and looked up for each cell.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from ..vocabulary import ATTRIBUTES, CLASSES, Attribute, attribute_slices
from .measure import CellMeasures

#: Below this probability the sentence says "probably", or "X or Y".
PLAIN_ATTRIBUTE = 0.6
#: Below this probability the sentence says "unclear".
UNCLEAR_ATTRIBUTE = 0.4
#: A second state of at least this probability is named beside an unsure first one.
RIVAL_ATTRIBUTE = 0.3
#: Below this probability the sentence names the second class too.
SURE_CLASS = 0.8
#: Nucleus/cell area above which cytoplasm is scant, and below which it is abundant.
SCANT, ABUNDANT = 0.70, 0.40

#: Diameter, in red-cell diameters, that best separates small from large cells as WBCAtt's
#: pathologists label them: 13.9 µm, 1.9 red cells of 7.3 µm. It was fitted to 400 training cells of
#: the PBC data set. 0.85 of 399 other cells agree (network: 0.87).
LARGE_FROM_RBC_DIAMETERS = 1.9

_UNCLEAR = {
    "granularity": "unclear granulation",
    "cytoplasm_colour": "cytoplasm of unclear colour",
    "nucleus_shape": "nucleus of unclear shape",
}
#: Number of certainty steps, see `_phrase`.
_CERTAINTY_STEPS = 5


def with_article(words: str) -> str:
    """Prefix words with their article: "an eosinophil", "a blast"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def class_phrase(first: int, second: int, confidence: float, next_best: float) -> str:
    """Phrase the class: "Monocyte (confidence 0.62; otherwise lymphocyte, 0.30)"."""
    words = CLASSES[first].words
    otherwise = (
        f"; otherwise {CLASSES[second].words}, {next_best:.2f}" if confidence < SURE_CLASS else ""
    )
    return f"{words[0].upper()}{words[1:]} (confidence {confidence:.2f}{otherwise})"


def explanation_sentences(
    heads: list[str],
    attribute_probs: np.ndarray,
    measures: CellMeasures,
    rows: slice,
    hidden: np.ndarray,
) -> list[str]:
    """Compose the sentences on n cells.

    Parameters
    ----------
    heads
        Start of each sentence.
    attribute_probs : ndarray [n, states]
        Attribute probabilities of these cells.
    measures
        Measures of all cells.
    rows
        Rows of these cells in `measures`.
    hidden : ndarray of bool [n]
        Whether granules may hide the nucleus's border, as in basophils; N:C is doubtful then.
    """
    parts = attribute_slices()
    phrases = {a.name: _phrases(attribute_probs[:, parts[a.name]], a) for a in ATTRIBUTES}
    sizes, ratios = (
        _size_phrases(measures, rows, phrases["size_vs_rbc"]),
        _nc_phrases(measures, rows, hidden),
    )
    return [
        f"{head}: {shape}, {granules}, {colour}; {size}; {ratio}."
        for head, shape, granules, colour, size, ratio in zip(
            heads,
            phrases["nucleus_shape"],
            phrases["granularity"],
            phrases["cytoplasm_colour"],
            sizes,
            ratios,
            strict=True,
        )
    ]


def _phrases(probs: np.ndarray, attribute: Attribute) -> list[str]:
    """Phrase one attribute of N cells from its probabilities [N, states]."""
    ranked = np.argsort(-probs, axis=1, kind="stable")[:, :2]
    best, rival = np.take_along_axis(probs, ranked, 1).T
    # 0: sure. With a rival: 1, or 2 if unclear. Without a rival: 3, or 4 if unclear.
    step = np.where(
        best >= PLAIN_ATTRIBUTE, 0, 3 - 2 * (rival >= RIVAL_ATTRIBUTE) + (best < UNCLEAR_ATTRIBUTE)
    )
    table, states = _phrase_table(attribute), len(attribute.states)
    return [
        table[k]
        for k in ((ranked[:, 0] * states + ranked[:, 1]) * _CERTAINTY_STEPS + step).tolist()
    ]


@cache
def _phrase_table(attribute: Attribute) -> list[str]:
    """Tabulate all phrases of an attribute, by likeliest state, second state and certainty step."""
    words = attribute.words
    return [
        _phrase(attribute, best, rival, step)
        for best in words
        for rival in words
        for step in range(_CERTAINTY_STEPS)
    ]


def _phrase(attribute: Attribute, best: str, rival: str, step: int) -> str:
    """Phrase one attribute: the state, "X or Y", "unclear", or "probably X"."""
    if step == 0:
        return best
    if attribute.name not in _UNCLEAR:
        return ""  # Neither size is likely; the measured diameter follows in the sentence.
    if step <= 2 and " or " not in best + rival:
        return _either(best, rival) if best != rival else ""
    if step in (2, 4):
        return _UNCLEAR[attribute.name]
    return f"probably {with_article(best) if best.endswith('nucleus') else best}"


def _either(one: str, other: str) -> str:
    """Join two noun phrases with the same noun.

    >>> _either("round nucleus", "bilobed nucleus"), _either("no granules", "fine granules")
    ('round or bilobed nucleus', 'no granules or fine ones')
    """
    (adjective, _), (other_adjective, _) = one.rsplit(" ", 1), other.rsplit(" ", 1)
    if adjective == "no":
        return f"{one} or {other_adjective} ones"
    return f"{one} or none" if other_adjective == "no" else f"{adjective} or {other}"


def _size_phrases(measures: CellMeasures, rows: slice, categories: list[str]) -> list[str]:
    """Phrase the size: category, diameter and ratio to a red cell."""
    reference = ""
    if measures.rbc_is_assumed:
        reference = f" of normal size ({measures.rbc_diameter_um:.1f} µm: too few were measured)"
    phrases = []
    for category, diameter, times in zip(
        categories,
        measures.diameter_um[rows].tolist(),
        measures.diameter_vs_rbc[rows].tolist(),
        strict=True,
    ):
        # A category that contradicts the measured diameter is left out.
        shown = (
            f"{category}, "
            if category and (category == "large") == (times >= LARGE_FROM_RBC_DIAMETERS)
            else ""
        )
        words = f"{shown}{diameter:.1f} µm across, {times:.1f} times a red cell{reference}"
        phrases.append("no outline was found" if math.isnan(diameter) else words)
    return phrases


def _nc_phrases(measures: CellMeasures, rows: slice, hidden: np.ndarray) -> list[str]:
    """Phrase the N:C by both definitions."""
    phrases = []
    for ratio, fraction, doubtful in zip(
        measures.nc_ratio[rows].tolist(),
        measures.nucleus_fraction[rows].tolist(),
        hidden.tolist(),
        strict=True,
    ):
        rim = (
            ", scant rim of cytoplasm"
            if fraction > SCANT
            else ", abundant cytoplasm"
            if fraction < ABUNDANT
            else ""
        )
        rim = "; granules may hide the nucleus's border" if doubtful else rim
        words = f"nucleus/cytoplasm area ratio {ratio:.2f} (nucleus {100 * fraction:.0f} % of the cell){rim}"
        if math.isnan(ratio):
            words = "the nucleus fills the cell; no cytoplasm was outlined"
        phrases.append("no nucleus was outlined" if math.isnan(fraction) else words)
    return phrases
