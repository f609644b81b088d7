"""The key, colour and shape of each class in the pages."""

from __future__ import annotations

from typing import Any

from ..cells.own_classes import OwnClass
from ..vocabulary import (
    CLASS_NAMES,
    CLASSES,
    NEUTROPHIL_NAMES,
    REVIEW_CLASSES,
    UNIDENTIFIED,
    UNIDENTIFIED_COLOUR,
    CellClass,
)

MARK_UNITS = 5.0  # half the size of a cell's mark in a drawing

#: The key that gives a cell this class. Taken by the page itself: D, J, O, Q, U, W, X, Z and "?"; digits are for a laboratory's own classes.
KEYS = {
    "blast": "B", "promyelocyte": "P", "myelocyte": "Y", "metamyelocyte": "T", "band_neutrophil": "N",
    "segmented_neutrophil": "S", "eosinophil": "E", "basophil": "A", "monocyte": "M", "lymphocyte": "L",
    "variant_lymphocyte": "V", "plasma_cell": "C", "other": "H", "erythroblast": "R", "platelet": "K", "smudge": "G",
    "artefact": "F", UNIDENTIFIED: "I",
}  # fmt: skip

#: The shape of each class. Colour alone never distinguishes two classes.
SHAPES = {
    **dict.fromkeys(("blast", "promyelocyte", "myelocyte", "metamyelocyte"), "triangle"),
    **dict.fromkeys(NEUTROPHIL_NAMES, "circle"),
    **dict.fromkeys(("eosinophil", "basophil"), "square"),
    **dict.fromkeys(("monocyte", "lymphocyte", "variant_lymphocyte", "plasma_cell", "other"), "diamond"),
    **dict.fromkeys(("erythroblast", "platelet", "smudge", "artefact", UNIDENTIFIED), "cross"),
}  # fmt: skip


def class_list(own: tuple[OwnClass, ...] = ()) -> list[dict[str, Any]]:
    """Return every class that a review may give, in clinical order: the network's, a person's, the laboratory's."""
    keys = KEYS | {c.name: c.key for c in own}
    shapes = SHAPES | {c.name: "square" if c.white else "cross" for c in own}
    known: tuple[CellClass | OwnClass, ...] = (*CLASSES, *REVIEW_CLASSES, *own)
    white = [c for c in known if c.white]
    outside = [c for c in known if not c.white]
    listed: list[dict[str, Any]] = [
        {
            "name": c.name,
            "words": c.words,
            "colour": c.colour,
            "white": c.white,
            "predicted": c.name in CLASS_NAMES,
        }
        for c in (*white, *outside)
    ]
    listed.append(
        {
            "name": UNIDENTIFIED,
            "words": UNIDENTIFIED,
            "colour": UNIDENTIFIED_COLOUR,
            "white": False,
            "predicted": True,
        }
    )
    return [
        {**entry, "key": keys[entry["name"]], "shape": shapes[entry["name"]]} for entry in listed
    ]


def colour_rules(own: tuple[OwnClass, ...] = ()) -> str:
    """Return CSS: `.c-NAME` holds the colour of a class in --c."""
    return "\n".join(f".c-{entry['name']}{{--c:{entry['colour']}}}" for entry in class_list(own))


def mark(class_name: str, x: float, y: float, r: float = MARK_UNITS) -> str:
    """Return an SVG path of a class's shape around x, y."""
    shape, x, y = SHAPES[class_name], round(x, 1), round(y, 1)
    if shape == "circle":
        return f"M{x - r:g} {y:g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0z"
    if shape == "square":
        return f"M{x - r:g} {y - r:g}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z"
    if shape == "triangle":
        return f"M{x:g} {y - r:g}l{r:g} {2 * r:g}h{-2 * r:g}z"
    if shape == "diamond":
        return f"M{x:g} {y - r:g}l{r:g} {r:g}l{-r:g} {r:g}l{-r:g} {-r:g}z"
    bar = r / 2
    return f"M{x - bar:g} {y - r:g}h{r:g}v{bar:g}h{bar:g}v{r:g}h{-bar:g}v{bar:g}h{-r:g}v{-bar:g}h{-bar:g}v{-r:g}h{bar:g}z"
