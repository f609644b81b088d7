"""A differential as counts, whoever made it, and the quantities that two differentials are compared
by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..vocabulary import CLASSES, REVIEW_CLASSES, WHITE_NAMES

NEUTROPHILS = "neutrophils"
NRBC = "nrbc"
#: White cells that only a person names; the network was not taught them.
BY_EYE = tuple(c.name for c in REVIEW_CLASSES if c.white)
_WORDS = {c.name: c.words for c in (*CLASSES, *REVIEW_CLASSES)}


@dataclass(frozen=True)
class Quantity:
    """What is compared: one class, or several together. `members` are the classes that it sums."""

    name: str
    words: str
    members: tuple[str, ...]


def _of_class(name: str) -> Quantity:
    return Quantity(name, _WORDS[name], (name,))


_SPLIT = tuple(_of_class(name) for name in ("band_neutrophil", "segmented_neutrophil"))
#: In the order of a report: total neutrophils first, their split after them, immature cells last.
QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        NEUTROPHILS, "neutrophils, total", (NEUTROPHILS, "band_neutrophil", "segmented_neutrophil")
    ),
    *_SPLIT,
    Quantity("lymphocytes", "lymphocytes with variant forms", ("lymphocyte", "variant_lymphocyte")),
    *(_of_class(name) for name in ("monocyte", "eosinophil", "basophil")),
    Quantity(
        "immature_granulocytes",
        "immature granulocytes",
        ("promyelocyte", "myelocyte", "metamyelocyte"),
    ),
    *(
        _of_class(name)
        for name in ("promyelocyte", "myelocyte", "metamyelocyte", "blast", "variant_lymphocyte")
    ),
    Quantity(NRBC, "nucleated red cells per 100 white", ()),
)
QUANTITY = {q.name: q for q in QUANTITIES}


@dataclass(frozen=True)
class Count:
    """One count of one slide. `classes` sum to `cells`, the white cells.

    slide     the slide's name in the manual counts
    counter   who counted: an examiner, or the tool
    nrbc      nucleated red cells, outside `cells`; None where nobody counted them
    """

    slide: str
    counter: str
    cells: int
    classes: dict[str, int]
    nrbc: int | None = None

    def of(self, quantity: Quantity) -> int:
        """The cells of a quantity."""
        if quantity.name == NRBC:
            return self.nrbc or 0
        return sum(self.classes.get(name, 0) for name in quantity.members)

    def share(self, quantity: Quantity) -> float:
        """The quantity as a fraction of the white cells. There must be some."""
        return self.of(quantity) / self.cells

    def tells(self, quantity: Quantity) -> bool:
        """Whether this count can tell the quantity: neutrophils that were not split tell no
        bands.
        """
        if quantity.name == NRBC:
            return self.nrbc is not None
        if quantity in _SPLIT:
            return quantity.name in self.classes and not self.classes.get(NEUTROPHILS, 0)
        return any(name in self.classes for name in quantity.members)


def pooled(counts: Iterable[Count], counter: str) -> Count:
    """Several counts of a slide as one: the mean of their per cents, weighted by their cells."""
    counts = list(counts)
    names = dict.fromkeys(name for count in counts for name in count.classes)
    classes = {name: sum(count.classes.get(name, 0) for count in counts) for name in names}
    seen = [count.nrbc for count in counts]
    nrbc = None if any(k is None for k in seen) else sum(k for k in seen if k is not None)
    return Count(counts[0].slide, counter, sum(count.cells for count in counts), classes, nrbc)


#: The white classes that a manual count may hold, in clinical order.
MANUAL_CLASSES: tuple[str, ...] = (*WHITE_NAMES, *BY_EYE)
