"""Classes, attributes, their states and their words: the one source of truth.

Head sizes, table columns, label colours and sentences all derive from this module, and a checkpoint
carries `fingerprint()` so that weights of another vocabulary are refused (`errors.WeightsError`).

Clinical order of the classes: CLSI H20 / ICSH reporting order, immature to mature granulocytes first.
Attribute states are those of WBCAtt (Tsutsui et al., NeurIPS 2023), in haematologists' words.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

CLAIM = "pre-classification, for review by a qualified morphologist; research use only"


@dataclass(frozen=True)
class CellClass:
    """One class: its table name, its words, the colour it is drawn in, and whether it is a white cell."""

    name: str
    words: str
    colour: str  # sRGB hex, drawn from Paul Tol's colour-blind-safe palettes
    white: bool = True  # counted in the differential's denominator


CLASSES: tuple[CellClass, ...] = (
    CellClass("blast", "blast", "#882255"),
    CellClass("promyelocyte", "promyelocyte", "#AA4499"),
    CellClass("myelocyte", "myelocyte", "#CC6677"),
    CellClass("metamyelocyte", "metamyelocyte", "#EE8866"),
    CellClass("band_neutrophil", "band neutrophil", "#DDCC77"),
    CellClass("segmented_neutrophil", "segmented neutrophil", "#BBCC33"),
    CellClass("eosinophil", "eosinophil", "#FE6A3C"),
    CellClass("basophil", "basophil", "#332288"),
    CellClass("monocyte", "monocyte", "#117733"),
    CellClass("lymphocyte", "lymphocyte", "#44AA99"),
    CellClass("variant_lymphocyte", "variant lymphocyte", "#66CCBB"),
    CellClass("plasma_cell", "plasma cell", "#4477AA"),
    CellClass("erythroblast", "nucleated red cell", "#88CCEE", white=False),
    CellClass("smudge", "smudge cell", "#A0A0C8", white=False),
    CellClass("platelet", "platelet", "#999933", white=False),
)
CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)
WHITE_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES if c.white)

#: What analysers count as one, and people tell apart badly.
NEUTROPHIL_NAMES: tuple[str, ...] = ("band_neutrophil", "segmented_neutrophil")

#: What normal blood holds.
MATURE_NAMES: tuple[str, ...] = (
    *NEUTROPHIL_NAMES,
    "eosinophil",
    "basophil",
    "monocyte",
    "lymphocyte",
)


def tells_type(allowed: tuple[str, ...]) -> bool:
    """Whether a label that allows these classes says more than "some white cell", or some mature one."""
    return allowed not in (WHITE_NAMES, MATURE_NAMES)


#: Not a class of the network: what a cell becomes when the network is unsure of it.
UNIDENTIFIED = "unidentified"
UNIDENTIFIED_COLOUR = "#BBBBBB"

#: What a reviewer may call a cell besides the above. The network knows none of these, so they are no part of
#: `fingerprint()`, and "not assessed" stands until a person has looked.
REVIEW_CLASSES: tuple[CellClass, ...] = (
    CellClass("other", "other white cell", "#777777"),
    CellClass("artefact", "artefact", "#555555", white=False),
)
REVIEW_NAMES: tuple[str, ...] = tuple(c.name for c in REVIEW_CLASSES)


@dataclass(frozen=True)
class Attribute:
    """One explained attribute: `states[i]` is its table value, `words[i]` how a morphologist says it."""

    name: str
    states: tuple[str, ...]
    words: tuple[str, ...]


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "granularity",
        ("agranular", "fine", "coarse"),
        ("no granules", "fine granules", "coarse granules"),
    ),
    Attribute(
        "cytoplasm_colour",
        ("light_blue", "blue", "purple_blue"),
        ("pale or light blue cytoplasm", "blue (basophilic) cytoplasm", "blue-purple cytoplasm"),
    ),
    Attribute(
        "nucleus_shape",
        ("round", "indented", "band", "bilobed", "multilobed", "irregular"),
        (
            "round nucleus",
            "indented (kidney-shaped) nucleus",
            "band (horseshoe) nucleus",
            "bilobed nucleus",
            "multilobed (segmented) nucleus",
            "irregular nucleus",
        ),
    ),
    Attribute("size_vs_rbc", ("small", "large"), ("small", "large")),
)
ATTRIBUTE_NAMES: tuple[str, ...] = tuple(a.name for a in ATTRIBUTES)


def attribute_slices() -> dict[str, slice]:
    """Where each attribute lies in a concatenated [N, A] array of attribute probabilities.

    >>> attribute_slices()["cytoplasm_colour"]
    slice(3, 6, None)
    """
    out, start = {}, 0
    for a in ATTRIBUTES:
        out[a.name] = slice(start, start + len(a.states))
        start += len(a.states)
    return out


N_CLASSES = len(CLASSES)
N_ATTRIBUTE_STATES = sum(len(a.states) for a in ATTRIBUTES)


#: Where on a smear a place lies (slides.zones), from none to too many red cells.
ZONES = ("blank", "feathered", "monolayer", "thick")


def fingerprint() -> str:
    """SHA-256 (hex) of class and attribute names in order: what a checkpoint must match."""
    text = json.dumps([CLASS_NAMES, [(a.name, a.states) for a in ATTRIBUTES]])
    return hashlib.sha256(text.encode()).hexdigest()
