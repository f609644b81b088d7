"""The vocabulary: classes, attributes, their states and their words.

Head sizes, table columns, label colours and sentences derive from this module. A checkpoint carries
`fingerprint()`, so weights of another vocabulary are refused (`errors.WeightsError`).

The clinical order of the classes is the reporting order of CLSI H20 and ICSH: immature to mature
granulocytes first. The attribute states are those of WBCAtt (Tsutsui et al., NeurIPS 2023), in
haematologists' words.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

CLAIM = "pre-classification, for review by a qualified morphologist; research use only"


@dataclass(frozen=True)
class CellClass:
    """One class of cells.

    Attributes
    ----------
    name
        Name in tables.
    words
        Name in sentences.
    colour
        sRGB hex, from Paul Tol's palettes for colour-blind readers.
    white
        Whether it is a white cell, which the differential's denominator counts.
    """

    name: str
    words: str
    colour: str
    white: bool = True


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

#: Analysers count these as one class, and people often confuse them.
NEUTROPHIL_NAMES: tuple[str, ...] = ("band_neutrophil", "segmented_neutrophil")

#: Classes of normal blood.
MATURE_NAMES: tuple[str, ...] = (
    *NEUTROPHIL_NAMES,
    "eosinophil",
    "basophil",
    "monocyte",
    "lymphocyte",
)


def tells_type(allowed: tuple[str, ...]) -> bool:
    """Return whether a label that allows these classes is more specific than "white cell".

    A label that allows all white cells, or all mature ones, is not.
    """
    return allowed not in (WHITE_NAMES, MATURE_NAMES)


#: The name of a cell of which the network is unsure. It is no class of the network.
UNIDENTIFIED = "unidentified"
UNIDENTIFIED_COLOUR = "#BBBBBB"

#: Further names that a reviewer may give to a cell. The network knows none of them, so they are no
#: part of `fingerprint()`. A cell is "not assessed" until a person has looked at it.
REVIEW_CLASSES: tuple[CellClass, ...] = (
    CellClass("other", "other white cell", "#777777"),
    CellClass("artefact", "artefact", "#555555", white=False),
)
REVIEW_NAMES: tuple[str, ...] = tuple(c.name for c in REVIEW_CLASSES)


@dataclass(frozen=True)
class Attribute:
    """One explained attribute.

    `states[i]` is its name in tables, `words[i]` a morphologist's words for it.
    """

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
    """Return the place of each attribute in a concatenated [N, A] array of probabilities.

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


#: Zones of a smear (slides.zones), from no red cells to too many.
ZONES = ("blank", "feathered", "monolayer", "thick")


def fingerprint() -> str:
    """Return the SHA-256 (hex) of class and attribute names in order. A checkpoint must match it."""
    text = json.dumps([CLASS_NAMES, [(a.name, a.states) for a in ATTRIBUTES]])
    return hashlib.sha256(text.encode()).hexdigest()
