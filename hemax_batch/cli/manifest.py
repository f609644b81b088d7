"""Read a manifest: a table of slides with what holds for each of them."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from ..cells.rules import Rules
from ..errors import UsageError
from ..laboratory.tables import Problems, Row, read_rows, shown
from ..settings import RunSettings
from ..slides.discovery import find_slides

_OPTIONAL = ("sample_id", "mpp", "wbc", "age_group")
_MAX_SAMPLE_ID_CHARS = 200


def read_manifest(path: Path, settings: RunSettings, rules: Path | None) -> dict[str, RunSettings]:
    """Return the settings of each slide of a manifest, by absolute path, in the manifest's order.

    An empty entry means: as for the whole run. A relative path is relative to the manifest. UsageError
    lists every wrong row by its number.
    """
    problems = Problems(path)
    found: dict[str, RunSettings] = {}
    row_of: dict[str, int] = {}
    for row in read_rows(path, ("path",), _OPTIONAL):
        try:
            slide = _slide_path(path, row)
            if slide in row_of:
                raise UsageError(
                    f"the slide {shown(row.text['path'])} is in row {row_of[slide]} already"
                )
            row_of[slide] = row.number
            found[slide] = _settings(row, settings, rules)
        except UsageError as error:
            problems.add(row.number, str(error))
    problems.refuse()
    if not found:
        raise UsageError(f"{path}: holds no slide; give one slide a row")
    return found


def _slide_path(manifest: Path, row: Row) -> str:
    given = row.text["path"].strip('"')
    if not given:
        raise UsageError("no path")
    slide = os.path.join(os.path.dirname(os.path.abspath(manifest)), given)
    if not os.path.isfile(slide):
        raise UsageError(
            f"{given}: no such slide; check the path, and whether its share is mounted"
        )
    [file] = find_slides([slide])  # of a DICOM series the file that stands for it
    return str(file.path)


def _settings(row: Row, settings: RunSettings, rules: Path | None) -> RunSettings:
    given = {name: row.text.get(name, "") for name in _OPTIONAL}
    changed = replace(
        settings,
        sample_id=given["sample_id"][:_MAX_SAMPLE_ID_CHARS],
        mpp=_number("mpp", given["mpp"]) if given["mpp"] else settings.mpp,
        wbc=_number("wbc", given["wbc"]) if given["wbc"] else settings.wbc,
    )
    if given["age_group"]:
        if rules is None:
            raise UsageError(
                f"age_group {shown(given['age_group'])}: selects a table of --rules, which is not given"
            )
        changed = replace(changed, rules=Rules.from_toml(rules, given["age_group"]))
    return changed


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} {shown(text)}: is no number")
    return value
