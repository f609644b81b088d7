"""The sentence on each cell, as a morphologist would say it. Only what the network was taught is ever spoken of.

    Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, pale or light blue cytoplasm;
    large, 14.4 µm across, 2.0 times a red cell; nucleus/cytoplasm area ratio 0.52 (nucleus 34 % of the cell), abundant
    cytoplasm.

The words for an attribute depend on its two likeliest states and on how sure they are in five steps: so all that can
be said of it is a table, made once, and what is said of a million cells is looked up.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..vocabulary import ATTRIBUTES, CLASSES, Attribute, attribute_slices
from .measure import CellMeasures

PLAIN_ATTRIBUTE = 0.6  # below it the sentence says "probably", or "X or Y"
UNCLEAR_ATTRIBUTE = 0.4  # below it, that it is unclear
RIVAL_ATTRIBUTE = 0.3  # a second state this likely is named beside an unsure first
SURE_CLASS = 0.8  # below it the sentence names the next class too
SCANT, ABUNDANT = 0.70, 0.40  # nucleus/cell area: above, a scant rim; below, abundant cytoplasm

#: Where measuring parts small cells from large ones as WBCAtt's pathologists do: 13.9 µm, 1.9 red cells of 7.3 µm (400
#: training cells of the PBC; 0.85 of 399 others agree, and 0.87 with the network). "large, 13 µm" would confuse.
LARGE_FROM_RBC_DIAMETERS = 1.9

_UNCLEAR = {
    "granularity": "unclear granulation",
    "cytoplasm_colour": "cytoplasm of unclear colour",
    "nucleus_shape": "nucleus of unclear shape",
}
_CERTAINTY_STEPS = 5  # how sure: see `_phrase`


def with_article(words: str) -> str:
    """ "an eosinophil", "a blast"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def class_phrase(first: int, second: int, confidence: float, next_best: float) -> str:
    """ "Monocyte (confidence 0.62; otherwise lymphocyte, 0.30)"."""
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
    """The sentences on the n cells of `rows`, which begin with `heads`.

    attribute_probs  float [n, states], of those cells; `measures` are of all
    hidden           bool [n], whether granules may hide the nucleus's border, as in basophils: N:C is doubtful then
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
    """The likeliest states of one attribute in words, of N cells: float [N, states]."""
    ranked = np.argsort(-probs, axis=1, kind="stable")[:, :2]
    best, rival = np.take_along_axis(probs, ranked, 1).T
    # 0 plain; with a rival 1 or, where the best is very unsure, 2; without one 3, or 4
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
    """All that can be said of an attribute: by likeliest state, then the next, then how sure."""
    words = attribute.words
    return [
        _phrase(attribute, best, rival, step)
        for best in words
        for rival in words
        for step in range(_CERTAINTY_STEPS)
    ]


def _phrase(attribute: Attribute, best: str, rival: str, step: int) -> str:
    """Plain where it is sure, "X or Y", "unclear", or "probably X" where it is not."""
    if step == 0:
        return best
    if attribute.name not in _UNCLEAR:
        return ""  # of two sizes neither is likely: the figures that follow say it better
    if step <= 2 and " or " not in best + rival:
        return _either(best, rival) if best != rival else ""
    if step in (2, 4):
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


def _size_phrases(measures: CellMeasures, rows: slice, categories: list[str]) -> list[str]:
    """Of some cells the category that the network saw, where the ruler agrees, the diameter, and against what."""
    reference = ""
    if measures.rbc_is_assumed:
        reference = f" of normal size ({measures.rbc_diameter_um:.1f} µm: too few were measured)"
    found = []
    for category, diameter, times in zip(
        categories,
        measures.diameter_um[rows].tolist(),
        measures.diameter_vs_rbc[rows].tolist(),
        strict=True,
    ):
        # where the network sees it otherwise than the ruler, the figures say it better
        seen = (
            f"{category}, "
            if category and (category == "large") == (times >= LARGE_FROM_RBC_DIAMETERS)
            else ""
        )
        words = f"{seen}{diameter:.1f} µm across, {times:.1f} times a red cell{reference}"
        found.append(words if diameter == diameter else "no outline was found")  # NaN is not itself
    return found


def _nc_phrases(measures: CellMeasures, rows: slice, hidden: np.ndarray) -> list[str]:
    """Of some cells the N:C by both of its definitions."""
    found = []
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
        if ratio != ratio:  # NaN
            words = "the nucleus fills the cell; no cytoplasm was outlined"
        found.append(words if fraction == fraction else "no nucleus was outlined")
    return found
