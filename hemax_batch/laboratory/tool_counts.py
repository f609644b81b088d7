"""The tool's counts of slides, as published or as reviewed, and what reviewers made of its
cells.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ..bounded_files import read_json
from ..errors import ResultsError, UsageError
from ..review.load_results import result_sha256
from ..vocabulary import CLASSES, WHITE_NAMES
from .counts import BY_EYE, Count
from .tables import Problems, read_rows, shown, told_unknown

TOOL = "hemax-batch"
REVIEWS = "reviews"
_REMEDY = "run `hemax-batch run` on the slide again (with --overwrite)"


def read_scans(path: Path | None) -> dict[str, list[str]]:
    """The results of each slide of the manual counts, from a table of the columns `slide` and
    `result`.

    A slide that was scanned repeatedly has several rows, in the order of its scans. Without a table
    a slide's result has the slide's name. UsageError lists what is wrong, by row.
    """
    if path is None:
        return {}
    problems = Problems(path)
    scans: dict[str, list[str]] = {}
    rows_of: dict[str, int] = {}
    for row in read_rows(path, ("slide", "result")):
        slide, result = row.text["slide"], row.text["result"]
        if not slide or not result:
            problems.add(row.number, "no slide" if not slide else "no result")
        elif (earlier := rows_of.setdefault(result, row.number)) != row.number:
            problems.add(row.number, f"result {shown(result)} is in row {earlier} already")
        else:
            scans.setdefault(slide, []).append(result)
    problems.refuse()
    return scans


def known_results(root: Path) -> list[str]:
    """The slides that a results folder holds. UsageError where it holds none."""
    known = sorted(path.parent.name for path in root.glob("*/result.json"))
    if not known:
        raise UsageError(
            f"{root}: no results of hemax-batch; name the folder that `run --out` was given"
        )
    return known


def why_absent(result: str, known: list[str]) -> str:
    """Why a result that a slide names cannot be compared."""
    return (
        told_unknown("result", result, known)
        if len(known) < 20
        else told_unknown("result", result, known)[:200]
    )


def read_published(root: Path, slide: str, result: str) -> Count:
    """What the run counted: its pre-classification. ResultsError where it cannot be read."""
    path = root / result / "differential.json"
    return _count(path, _read_json(path), slide, WHITE_NAMES)


def read_reviewed(root: Path, slide: str, result: str) -> Count | None:
    """What the latest review of the present result counted; None where there is none."""
    latest = max(
        _reviews(root, result), key=lambda pair: str(pair[1].get("tallied", "")), default=None
    )
    if latest is None:
        return None
    path, record = latest
    return _count(path, record["after"], slide, (*WHITE_NAMES, *BY_EYE))


def _reviews(root: Path, result: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """The records of the reviews of the present result, not those of two reviewers' agreement."""
    folder = _review_folder(root, result)
    for path in sorted(folder.glob("*.json")) if folder else ():
        record = _read_json(path)
        if "after" in record:
            yield path, record


def _review_folder(root: Path, result: str) -> Path | None:
    """Where the reviews of the present result lie; None where nobody reviewed the slide."""
    if not (root / REVIEWS / result).is_dir():
        return None
    return root / REVIEWS / result / result_sha256(root / result)[:16]


def reviewed_cells(root: Path, result: str) -> Iterator[tuple[str, str]]:
    """The class before and after of each cell that a reviewer looked at, over all reviews of the
    present result.
    """
    folder = _review_folder(root, result)
    for path in sorted(folder.glob("*.cells.csv")) if folder else ():
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    if row["reviewed"] == "true":
                        yield row["class_before"], row["class_after"]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise ResultsError(f"{path}: cannot be read as a review's cells ({error!r})") from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = read_json(path)
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read: {error.strerror or error}; {_REMEDY}"
        ) from error
    except ValueError as error:
        raise ResultsError(f"{path}: is damaged ({error}); {_REMEDY}") from error
    if not isinstance(found, dict):
        raise ResultsError(f"{path}: holds no record; {_REMEDY}")
    return found


def _not_known(record: dict[str, object]) -> set[str]:
    """The classes that the weights did not know, as `not_assessed` of a differential names them."""
    told = record.get("not_assessed", [])
    return {c.name for c in CLASSES if isinstance(told, list) and f"{c.words}s" in told}


def _count(path: Path, record: object, slide: str, classes: tuple[str, ...]) -> Count:
    """The counts of a differential's record. Classes of `classes` that it does not name were not
    seen.
    """
    try:
        if not isinstance(record, dict):
            raise TypeError("no record")
        unknown = _not_known(record)
        counts = {
            str(entry["class"]): int(entry["count"]) for entry in record["classes"][1:]
        }  # [0]: total neutrophils
        seen = {
            name: counts.get(name, 0)
            for name in dict.fromkeys((*classes, *counts))
            if counts.get(name) or name not in unknown
        }
        cells, nrbc = int(record["white_cells"]), int(record["nucleated_red_cells"]["count"])
        if sum(seen.values()) != cells:
            raise ValueError(f"the classes sum to {sum(seen.values())}, white_cells is {cells}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(
            f"{path}: cannot be read as a differential ({error!r}); {_REMEDY}"
        ) from error
    return Count(slide, TOOL, cells, seen, nrbc)
