"""How each cell is read: its final class, how sure the network is, and when and why a person must look.

An explanation is checked against its class: a sure attribute that the class does not allow (`CONTRADICTIONS`) sends the
cell to review, with the class kept. A cell that the network is unsure of, or that is unlike all that it knows, becomes
`unidentified` and is not counted. Decisions are made for
all cells at once, as arrays; words are put together for a few thousand at a time, when they are written.
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

CALL_NAMES = (*CLASS_NAMES, UNIDENTIFIED)  # of `CellCalls.class_index`
_UNIDENTIFIED = len(CLASS_NAMES)
_BASOPHIL = CLASS_NAMES.index("basophil")
_IS_BROKEN = np.isin(CALL_NAMES, WITHOUT_MORPHOLOGY)
_IS_NEUTROPHIL = np.isin(CLASS_NAMES, NEUTROPHIL_NAMES)
#: Per attribute, bool [classes, states]: whether a state speaks against a class.
_CONTRADICTING_STATES = {
    a.name: np.array(
        [[s in CONTRADICTIONS.get(c, {}).get(a.name, ()) for s in a.states] for c in CLASS_NAMES]
    )
    for a in ATTRIBUTES
}
_FRACTIONS = np.array(
    [NUCLEUS_FRACTION.get(name, ANY_NUCLEUS_FRACTION) for name in CALL_NAMES]
)  # float64 [classes + 1, 2]


@dataclass(frozen=True)
class CellCall:
    """How one cell is read: its final class, and why a person should look (empty = no particular reason)."""

    class_name: str
    confidence: float  # of the likeliest class, also where the cell is unidentified
    reasons: tuple[str, ...]
    explanation: str

    @property
    def review(self) -> bool:
        """Whether a person should look."""
        return bool(self.reasons)


@dataclass(frozen=True)
class CellCalls:
    """How N cells are read, as arrays parallel to them.

    ranked       int64 [N, 2], the likeliest class and the next
    confidences  float64 [N, 2], theirs
    class_index  int64 [N], the final class: an index into NAMES
    neutrophil_stage_unsure   bool [N], surely a neutrophil, but band or segmented is unsure: it keeps its class
    no_nucleus   bool [N], unidentified because hardly any nucleus was outlined
    contradicting_attributes   bool [N, A], which attributes contradict the class
    out_of_distribution   bool [N], unidentified because it is unlike the cells that the network knows
    cut          bool [N], by the edge of the slide
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
        """The final class of each cell."""
        return [CALL_NAMES[k] for k in self.class_index.tolist()]

    @cached_property
    def low_confidence(self) -> np.ndarray:
        """bool [N], unidentified because no class is sure enough."""
        unsure = self.confidences[:, 0] < self.min_confidence
        found: np.ndarray = (self.class_index == _UNIDENTIFIED) & ~self.no_nucleus & unsure
        return found

    @property
    def broken(self) -> np.ndarray:
        """bool [N], smudge cells: nothing is said of their parts."""
        return _IS_BROKEN[self.class_index]

    @property
    def unusual_size(self) -> np.ndarray:
        """bool [N], smaller or larger than nucleated cells are, or without an outline."""
        return ~(
            (self.measures.diameter_um >= SIZE_UM[0]) & (self.measures.diameter_um <= SIZE_UM[1])
            | self.broken
        )

    @property
    def unusual_nucleus_fraction(self) -> np.ndarray:
        """bool [N], with no nucleus, or one that is too small or too large for the class."""
        fraction, (low, high) = self.measures.nucleus_fraction, _FRACTIONS[self.class_index].T
        return ~((fraction >= low) & (fraction <= high) | self.broken)

    @cached_property
    def review(self) -> np.ndarray:
        """bool [N], whether a person should look."""
        doubtful = (
            self.neutrophil_stage_unsure
            | self.low_confidence
            | self.contradicting_attributes.any(1)
            | self.out_of_distribution
            | self.cut
        )
        return doubtful | self.unusual_size | self.unusual_nucleus_fraction

    def __iter__(self) -> Iterator[CellCall]:
        explanations, reasons = self.explain(slice(None))
        for name, confidence, reasons_of_cell, explanation in zip(
            self.names, self.confidences[:, 0].tolist(), reasons, explanations, strict=True
        ):
            yield CellCall(name, confidence, reasons_of_cell, explanation)

    def explain(self, rows: slice) -> tuple[list[str], list[tuple[str, ...]]]:
        """The explanations of some cells, and why a person should look at each ((): no particular reason)."""
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
        first, second = (CLASSES[k].words for k in self.ranked[i])
        confidence, next_best = self.confidences[i].tolist()
        found = []
        if self.neutrophil_stage_unsure[i]:
            found.append(
                f"band or segmented neutrophil ({confidence:.2f} for {first}, {next_best:.2f})"
            )
        elif self.low_confidence[i]:
            found.append(
                f"low confidence ({confidence:.2f} for {first}, {next_best:.2f} for {second})"
            )
        if self.contradicting_attributes[i].any():
            found += _contradictions(
                self.cells.attribute_probs[i], first, self.contradicting_attributes[i]
            )
        if self.out_of_distribution[i]:
            times = f"{self.cells.ood_score[i]:.1f} times the distance that 99 in 100 of those keep within"
            found.append(f"unlike the cells that the network knows ({times})")
        if self.cut[i]:
            found.append("cut by the edge of the slide")
        return found + self._unusual_measures(i)

    def _unusual_measures(self, i: int) -> list[str]:
        found, k = [], int(self.class_index[i])
        diameter, fraction = self.measures.diameter_um[i], self.measures.nucleus_fraction[i]
        if _IS_BROKEN[k]:
            return []
        if not SIZE_UM[0] <= diameter <= SIZE_UM[1]:
            found.append(
                f"unusual size ({diameter:.1f} µm across; usual is {SIZE_UM[0]:g} to {SIZE_UM[1]:g})"
            )
        low, high = _FRACTIONS[k].tolist()
        if np.isnan(fraction):
            found.append("no nucleus found")
        elif not low <= fraction <= high:
            words = "nucleated cell" if k == _UNIDENTIFIED else CLASSES[k].words
            usual = f"for {with_article(words)} {100 * low:.0f} to {100 * high:.0f} %"
            found.append(f"unusual N:C (nucleus {100 * fraction:.0f} % of the cell; {usual})")
        return found


def classify_cells(
    cells: Cells, measures: CellMeasures, slide_size: tuple[int, int], min_confidence: float
) -> CellCalls:
    """How each cell is read. `slide_size` is (width, height) in level-0 pixels.

    Steps: the two likeliest classes; is the network sure, does it know such cells, and is there a nucleus; the final
    class; reasons to doubt it.
    """
    ranked = np.argsort(-cells.class_probs, axis=1, kind="stable")[:, :2]
    confidences = np.take_along_axis(cells.class_probs, ranked, 1).astype(np.float64)
    unsure, strange = confidences[:, 0] < min_confidence, cells.ood_score > 1
    # surely a neutrophil: total neutrophils must not lose it to a split that people disagree on too
    neutrophil_stage_unsure = (
        unsure & ~strange & _IS_NEUTROPHIL[ranked].all(1) & (confidences.sum(1) >= min_confidence)
    )
    # every cell that is counted here is nucleated: what shows none is a platelet, dirt, or wrongly outlined; of a
    # broken one the outline says nothing
    no_nucleus = (~unsure | neutrophil_stage_unsure) & ~(
        measures.nucleus_fraction >= ANY_NUCLEUS_FRACTION[0]
    )  # NaN: none
    no_nucleus &= ~_IS_BROKEN[ranked[:, 0]]
    neutrophil_stage_unsure &= ~no_nucleus
    is_named = neutrophil_stage_unsure | ~(unsure | no_nucleus | strange)
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
        strange,
        (x0 <= 0) | (y0 <= 0) | (x1 >= slide_size[0]) | (y1 >= slide_size[1]),
    )


def _contradicting_attributes(attribute_probs: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Which attributes of N cells, float [N, states], surely speak against their classes, int [N]: bool [N, A]."""
    found = np.zeros((len(class_index), len(ATTRIBUTES)), bool)
    for k, (name, part) in enumerate(attribute_slices().items()):
        probs = attribute_probs[:, part]
        found[:, k] = (probs.max(1) >= SURE_ATTRIBUTE) & _CONTRADICTING_STATES[name][
            class_index, probs.argmax(1)
        ]
    return found


def _contradictions(
    attribute_probs: np.ndarray, class_words: str, contradicting_attributes: np.ndarray
) -> list[str]:
    """Reasons, one for each attribute of one cell, float [states], that speaks `against` its class, bool [A]."""
    states = [
        a.words[int(attribute_probs[part].argmax())]
        for a, part in zip(ATTRIBUTES, attribute_slices().values(), strict=True)
    ]
    return [
        f"explanation contradicts class: {state} in {with_article(class_words)}"
        for state, speaks in zip(states, contradicting_attributes, strict=True)
        if speaks
    ]


def explanation_contradicts_class(attribute_probs: np.ndarray, class_name: str) -> bool:
    """Whether the explanation of one cell, float [A], speaks against its class."""
    return bool(
        _contradicting_attributes(
            attribute_probs[None], np.array([CLASS_NAMES.index(class_name)])
        ).any()
    )
