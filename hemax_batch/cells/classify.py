"""Classification of each cell: final class, confidence and reasons for review.

A cell of low confidence becomes `unidentified`, and so does a cell unlike those that the network
knows. Unidentified cells are not counted. A sure attribute that contradicts the class
(`CONTRADICTIONS`) marks the cell for review; its class stays. Decisions are made for all cells at
once, as arrays. Sentences are composed for a few thousand cells at a time, when they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..records import Cells
from ..vocabulary import (
    ATTRIBUTES,
    CLASS_NAMES,
    CLASSES,
    NEUTROPHIL_NAMES,
    UNIDENTIFIED,
    attribute_slices,
)
from .explain import class_phrase, explanation_sentences, with_article
from .measure import CellMeasures
from .morphology import (
    ANY_NUCLEUS_FRACTION,
    CONTRADICTIONS,
    NUCLEUS_FRACTION,
    SIZE_UM,
    SURE_ATTRIBUTE,
    WITHOUT_MORPHOLOGY,
)

#: Names of `CellCalls.class_index`.
CALL_NAMES = (*CLASS_NAMES, UNIDENTIFIED)
_UNIDENTIFIED = len(CLASS_NAMES)
_BASOPHIL = CLASS_NAMES.index("basophil")
_IS_BROKEN = np.isin(CALL_NAMES, WITHOUT_MORPHOLOGY)
_IS_NEUTROPHIL = np.isin(CLASS_NAMES, NEUTROPHIL_NAMES)
#: Per attribute, whether a state contradicts a class: bool [classes, states].
_CONTRADICTING_STATES = {
    a.name: np.array(
        [[s in CONTRADICTIONS.get(c, {}).get(a.name, ()) for s in a.states] for c in CLASS_NAMES]
    )
    for a in ATTRIBUTES
}
#: Plausible nucleus fraction of each call: float64 [classes + 1, 2].
_FRACTIONS = np.array([NUCLEUS_FRACTION.get(name, ANY_NUCLEUS_FRACTION) for name in CALL_NAMES])


@dataclass(frozen=True)
class CellCall:
    """Final class of one cell with its reasons for review.

    Attributes
    ----------
    class_name : str
    confidence : float
        Probability of the likeliest class, also if the cell is unidentified.
    reasons : tuple of str
        Why a person should review the cell; empty for no particular reason.
    explanation : str
    """

    class_name: str
    confidence: float
    reasons: tuple[str, ...]
    explanation: str

    @property
    def review(self) -> bool:
        """Whether a person should review the cell."""
        return bool(self.reasons)


@dataclass(frozen=True)
class CellCalls:
    """Final classes of N cells, as arrays.

    Attributes
    ----------
    ranked : ndarray of int64 [N, 2]
        The likeliest class and the next.
    confidences : ndarray of float64 [N, 2]
        Their probabilities.
    class_index : ndarray of int64 [N]
        Final class, an index into `CALL_NAMES`.
    neutrophil_stage_unsure : ndarray of bool [N]
        Surely a neutrophil, but band or segmented is unsure. The cell keeps its class.
    no_nucleus : ndarray of bool [N]
        Unidentified because hardly any nucleus was outlined.
    contradicting_attributes : ndarray of bool [N, A]
        Attributes that contradict the class.
    out_of_distribution : ndarray of bool [N]
        Unidentified because unlike the cells that the network was calibrated on.
    cut : ndarray of bool [N]
        Cut by the edge of the slide.
    """

    cells: Cells
    measures: CellMeasures
    min_confidence: float
    ranked: np.ndarray
    confidences: np.ndarray
    class_index: np.ndarray
    neutrophil_stage_unsure: np.ndarray
    no_nucleus: np.ndarray
    contradicting_attributes: np.ndarray
    out_of_distribution: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.class_index)

    @cached_property
    def names(self) -> list[str]:
        """Final class of each cell."""
        return [CALL_NAMES[k] for k in self.class_index.tolist()]

    @cached_property
    def low_confidence(self) -> np.ndarray:
        """Cells that are unidentified because no class is sure enough: bool [N]."""
        unsure = self.confidences[:, 0] < self.min_confidence
        low: np.ndarray = (self.class_index == _UNIDENTIFIED) & ~self.no_nucleus & unsure
        return low

    @property
    def broken(self) -> np.ndarray:
        """Smudge cells, whose parts are not described: bool [N]."""
        broken: np.ndarray = _IS_BROKEN[self.class_index]
        return broken

    @property
    def unusual_size(self) -> np.ndarray:
        """Cells of unusual diameter or without an outline: bool [N]."""
        diameter = self.measures.diameter_um
        usual = (diameter >= SIZE_UM[0]) & (diameter <= SIZE_UM[1])
        unusual: np.ndarray = ~(usual | self.broken)
        return unusual

    @property
    def unusual_nucleus_fraction(self) -> np.ndarray:
        """Cells without a nucleus, or with one of unusual size for the class: bool [N]."""
        fraction, (low, high) = self.measures.nucleus_fraction, _FRACTIONS[self.class_index].T
        usual = (fraction >= low) & (fraction <= high)
        unusual: np.ndarray = ~(usual | self.broken)
        return unusual

    @cached_property
    def review(self) -> np.ndarray:
        """Cells that a person should review: bool [N]."""
        doubtful: np.ndarray = (
            self.neutrophil_stage_unsure
            | self.low_confidence
            | self.contradicting_attributes.any(1)
            | self.out_of_distribution
            | self.cut
        )
        doubtful |= self.unusual_size | self.unusual_nucleus_fraction
        return doubtful

    def __iter__(self) -> Iterator[CellCall]:
        """Iterate over the calls, cell by cell."""
        explanations, reasons = self.explain(slice(None))
        for name, confidence, reasons_of_cell, explanation in zip(
            self.names, self.confidences[:, 0].tolist(), reasons, explanations, strict=True
        ):
            yield CellCall(name, confidence, reasons_of_cell, explanation)

    def explain(self, rows: slice) -> tuple[list[str], list[tuple[str, ...]]]:
        """Compose explanations and reasons for review of some cells.

        Returns
        -------
        tuple
            The explanations, and per cell its reasons; () for no particular reason.
        """
        heads = [
            self._sentence_start(*one)
            for one in zip(
                self.ranked[rows].tolist(),
                self.confidences[rows].tolist(),
                self.class_index[rows].tolist(),
                self.no_nucleus[rows].tolist(),
                self.out_of_distribution[rows].tolist(),
                strict=True,
            )
        ]
        at = np.arange(len(self))[rows]
        reasons: list[tuple[str, ...]] = [()] * len(at)
        for k in np.flatnonzero(self.review[at]).tolist():
            reasons[k] = tuple(self._reasons(int(at[k])))
        hidden = self.class_index[rows] == _BASOPHIL
        sentences = explanation_sentences(
            heads, self.cells.attribute_probs[rows], self.measures, rows, hidden
        )
        for k in np.flatnonzero(self.broken[at]).tolist():
            sentences[k] = f"{heads[k]}: a broken cell; its parts are not described."
        return sentences, reasons

    def _sentence_start(
        self,
        ranked: list[int],
        confidences: list[float],
        class_index: int,
        no_nucleus: bool,
        out_of_distribution: bool,
    ) -> str:
        """Compose the start of the sentence on one cell."""
        (first, second), (confidence, next_best) = ranked, confidences
        if class_index != _UNIDENTIFIED:
            return class_phrase(first, second, confidence, next_best)
        one = f"{with_article(CLASSES[first].words)} ({confidence:.2f})"
        if no_nucleus:
            return f"Unidentified: looks most like {one}, but hardly any nucleus"
        if out_of_distribution:
            return f"Unidentified: looks most like {one}, but is unlike the cells that the network knows"
        other = f"{with_article(CLASSES[second].words)} ({next_best:.2f})"
        return f"Unidentified: most like {one} or {other}, below the {self.min_confidence:.2f} asked for"

    def _reasons(self, i: int) -> list[str]:
        """List the reasons for review of cell i."""
        first, second = (CLASSES[k].words for k in self.ranked[i])
        confidence, next_best = self.confidences[i].tolist()
        reasons = []
        if self.neutrophil_stage_unsure[i]:
            reasons.append(
                f"band or segmented neutrophil ({confidence:.2f} for {first}, {next_best:.2f})"
            )
        elif self.low_confidence[i]:
            reasons.append(
                f"low confidence ({confidence:.2f} for {first}, {next_best:.2f} for {second})"
            )
        if self.contradicting_attributes[i].any():
            reasons += _contradictions(
                self.cells.attribute_probs[i], first, self.contradicting_attributes[i]
            )
        if self.out_of_distribution[i]:
            times = f"{self.cells.ood_score[i]:.1f} times the distance that 99 in 100 of those keep within"
            reasons.append(f"unlike the cells that the network knows ({times})")
        if self.cut[i]:
            reasons.append("cut by the edge of the slide")
        return reasons + self._unusual_measures(i)

    def _unusual_measures(self, i: int) -> list[str]:
        """List the unusual measures of cell i."""
        reasons, k = [], int(self.class_index[i])
        diameter, fraction = self.measures.diameter_um[i], self.measures.nucleus_fraction[i]
        if _IS_BROKEN[k]:
            return []
        if not SIZE_UM[0] <= diameter <= SIZE_UM[1]:
            reasons.append(
                f"unusual size ({diameter:.1f} µm across; usual is {SIZE_UM[0]:g} to {SIZE_UM[1]:g})"
            )
        low, high = _FRACTIONS[k].tolist()
        if np.isnan(fraction):
            reasons.append("no nucleus found")
        elif not low <= fraction <= high:
            words = "nucleated cell" if k == _UNIDENTIFIED else CLASSES[k].words
            usual = f"for {with_article(words)} {100 * low:.0f} to {100 * high:.0f} %"
            reasons.append(f"unusual N:C (nucleus {100 * fraction:.0f} % of the cell; {usual})")
        return reasons


def classify_cells(
    cells: Cells, measures: CellMeasures, slide_size: tuple[int, int], min_confidence: float
) -> CellCalls:
    """Classify all cells of a slide.

    Steps: take the two likeliest classes; check confidence, familiarity and nucleus; decide the final class;
    find reasons for review.

    Parameters
    ----------
    cells, measures
        The cells and their measures.
    slide_size
        Width and height in level-0 pixels.
    min_confidence
        Below this probability a cell is unidentified.
    """
    ranked = np.argsort(-cells.class_probs, axis=1, kind="stable")[:, :2]
    confidences = np.take_along_axis(cells.class_probs, ranked, 1).astype(np.float64)
    unsure, unfamiliar = confidences[:, 0] < min_confidence, cells.ood_score > 1
    # Total neutrophils must not lose such a cell. Experts disagree on band or segmented too.
    neutrophil_stage_unsure = (
        unsure
        & ~unfamiliar
        & _IS_NEUTROPHIL[ranked].all(1)
        & (confidences.sum(1) >= min_confidence)
    )
    # Every counted cell is nucleated. Without a nucleus (or NaN) it is a platelet, dirt or a bad outline.
    no_nucleus = (~unsure | neutrophil_stage_unsure) & ~(
        measures.nucleus_fraction >= ANY_NUCLEUS_FRACTION[0]
    )
    no_nucleus &= ~_IS_BROKEN[ranked[:, 0]]  # The outline of a broken cell says nothing.
    neutrophil_stage_unsure &= ~no_nucleus
    is_named = neutrophil_stage_unsure | ~(unsure | no_nucleus | unfamiliar)
    x0, y0, x1, y1 = cells.boxes_xyxy.T
    return CellCalls(
        cells,
        measures,
        min_confidence,
        ranked,
        confidences,
        np.where(is_named, ranked[:, 0], _UNIDENTIFIED),
        neutrophil_stage_unsure,
        no_nucleus,
        _contradicting_attributes(cells.attribute_probs, ranked[:, 0]) & is_named[:, None],
        unfamiliar,
        (x0 <= 0) | (y0 <= 0) | (x1 >= slide_size[0]) | (y1 >= slide_size[1]),
    )


def _contradicting_attributes(attribute_probs: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Find attributes that surely contradict the class.

    Parameters
    ----------
    attribute_probs : ndarray [N, states]
    class_index : ndarray of int [N]

    Returns
    -------
    ndarray of bool [N, A]
    """
    contradicting = np.zeros((len(class_index), len(ATTRIBUTES)), bool)
    for k, (name, part) in enumerate(attribute_slices().items()):
        probs = attribute_probs[:, part]
        contradicts = _CONTRADICTING_STATES[name][class_index, probs.argmax(1)]
        contradicting[:, k] = (probs.max(1) >= SURE_ATTRIBUTE) & contradicts
    return contradicting


def _contradictions(
    attribute_probs: np.ndarray, class_words: str, contradicting_attributes: np.ndarray
) -> list[str]:
    """List the contradictions of one cell, one for each contradicting attribute.

    Parameters
    ----------
    attribute_probs : ndarray [states]
    class_words : str
    contradicting_attributes : ndarray of bool [A]
    """
    states = [
        a.words[int(attribute_probs[part].argmax())]
        for a, part in zip(ATTRIBUTES, attribute_slices().values(), strict=True)
    ]
    return [
        f"explanation contradicts class: {state} in {with_article(class_words)}"
        for state, contradicts in zip(states, contradicting_attributes, strict=True)
        if contradicts
    ]


def explanation_contradicts_class(attribute_probs: np.ndarray, class_name: str) -> bool:
    """Return whether the attributes of one cell, float [states], contradict its class."""
    return bool(
        _contradicting_attributes(
            attribute_probs[None], np.array([CLASS_NAMES.index(class_name)])
        ).any()
    )
