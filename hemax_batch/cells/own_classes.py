"""Classes that a laboratory defines in its rules file, for the review.

A reviewer gives them; the network does not predict them.

    [classes.hairy_cell]
    words = "hairy cell"
    white = true          # counted in the denominator; the default
    key = "1"             # optional: a digit
    colour = "#AA3377"    # optional
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from ..vocabulary import CLASS_NAMES, REVIEW_NAMES, UNIDENTIFIED

#: Each class needs a digit as its key.
MOST_CLASSES = 10
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
_TAKEN = (*CLASS_NAMES, *REVIEW_NAMES, UNIDENTIFIED, "neutrophils", "white")


@dataclass(frozen=True)
class OwnClass:
    """A laboratory's class: table name, words, whether it is a white cell, key and colour."""

    name: str
    words: str
    white: bool = True
    key: str = ""
    colour: str = "#555555"


def own_classes(tables: object) -> tuple[OwnClass, ...]:
    """Read the table [classes] of a rules file.

    >>> own_classes({"hairy_cell": {"words": "hairy cell"}})[0].key
    '1'

    Raises
    ------
    ValueError
        An entry is wrong. The message names the entry and what is expected.
    """
    if not isinstance(tables, dict) or not all(
        isinstance(table, dict) for table in tables.values()
    ):
        raise ValueError("expected tables [classes.NAME] with words, white, key and colour")
    if len(tables) > MOST_CLASSES:
        raise ValueError(f"{len(tables)} classes; expected at most {MOST_CLASSES}")
    found: list[OwnClass] = []
    for name, table in tables.items():
        given = {
            "words": name.replace("_", " "),
            "white": True,
            "key": "",
            "colour": "#555555",
        } | table
        _check(name, given, set(table), found)
        found.append(OwnClass(name, **given))
    return tuple(_with_keys(found))


def own_classes_record(classes: tuple[OwnClass, ...]) -> dict[str, dict[str, object]]:
    """Return the table that `own_classes` reads back."""
    records = {own.name: asdict(own) for own in classes}
    for record in records.values():
        del record["name"]
    return records


def _check(name: str, given: dict[str, Any], named: set[str], earlier: list[OwnClass]) -> None:
    """Check one class; `named` are the entries of its table."""
    where = f"[classes.{name}]"
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"{where}: expected a new name of a-z, 0-9 and _, such as hairy_cell")
    if unknown := named - {"words", "white", "key", "colour"}:
        raise ValueError(
            f"{where}: unknown {', '.join(sorted(unknown))}; known: words, white, key, colour"
        )
    words = given["words"]
    if not isinstance(words, str) or not words.isprintable() or not 0 < len(words.strip()) <= 40:
        raise ValueError(f"{where} words = {words!r}: expected 1 to 40 characters")
    if not isinstance(given["white"], bool):
        raise ValueError(f"{where} white = {given['white']!r}: expected true or false")
    if given["key"] != "" and (
        not isinstance(given["key"], str) or given["key"] not in [*"0123456789"]
    ):
        raise ValueError(f"{where} key = {given['key']!r}: expected a digit")
    if given["key"] and given["key"] in [own.key for own in earlier]:
        raise ValueError(f"{where} key = {given['key']!r}: another class has it")
    if not isinstance(given["colour"], str) or not _COLOUR.fullmatch(given["colour"]):
        raise ValueError(f"{where} colour = {given['colour']!r}: expected #RRGGBB")


def _with_keys(classes: list[OwnClass]) -> list[OwnClass]:
    """Give each class without a key the first free digit."""
    free = [digit for digit in "1234567890" if digit not in [own.key for own in classes]]
    return [
        own if own.key else OwnClass(own.name, own.words, own.white, free.pop(0), own.colour)
        for own in classes
    ]
