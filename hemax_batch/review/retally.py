"""`hemax-batch retally`: a person's decisions onto the results, the differential counted again, and a trail of who did
what when.

    results/reviews/<slide_id>/trail.jsonl                    a line a review, only ever added to
    results/reviews/<slide_id>/<hash of the results>/
        <reviewer>.corrections.csv   the decisions as applied
        <reviewer>.cells.csv         every cell: its class before and after, and whether it was looked at
        <reviewer>.json              the differential before and after, side by side
        agreement.json               with two reviewers: kappa, differences of their counts, the merged result

A review lies outside the slide's own folder, which a later run replaces as a whole; masks and tables there are never
touched. Everything is checked before anything is written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..cells.differential import NOT_ASSESSED, Differential, count
from ..errors import ResultsError, UsageError
from ..outputs.clinical import as_json, count_record, rules_of
from ..outputs.tables import read_table, safe_text
from ..results.durable import write_bytes
from ..results.folder import ResultsFolder
from ..results.lock import OutputLock
from ..slides.naming import slug
from ..vocabulary import CLAIM, REVIEW_CLASSES, UNIDENTIFIED
from .agreement import cohen_kappa, differences
from .corrections import COLUMNS, Correction, correction_rows, read_corrections, refuse
from .loaded import REMEDY, result_sha256

FOLDER = "reviews"
_SAFE_ID = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # never a path that leads out of the results
#: What a reviewer can count though the network cannot see it, as `NOT_ASSESSED` words it.
_COUNTED_BY_EYE = {"smudge cells": "smudge", "variant lymphocytes": "variant_lymphocyte", "plasma cells": "plasma_cell"}


@dataclass(frozen=True)
class Reviewed:
    """A slide's classes before and after one reviewer, by cell id; `decided` are the cells that he looked at.

    `left_out`: cells that lie where the run did not count (thick or feathered areas); no class makes them count.
    """

    slide_id: str
    sha256: str
    reviewer: str
    corrections: tuple[Correction, ...]
    before: dict[int, str]
    after: dict[int, str]
    left_out: frozenset[int]
    count_before: Differential
    count_after: Differential

    @property
    def decided(self) -> set[int]:
        """Cells approved or reclassified."""
        return {c.cell_id for c in self.corrections}


def retally(
    root: Path, files: list[Path], reviewers: list[str], wbc: float | None = None, wait_lock_s: float = 0.0
) -> list[Reviewed]:
    """Check the decisions of one or two files against the results in `root`, count again, and write the reviews.

    `reviewers`: who signs each file; none: as the files say. Raises UsageError or ResultsError before anything is
    written; LockedError where a run holds the folder; OutputError where it cannot be written.
    """
    if not 1 <= len(files) <= 2:
        raise UsageError(f"{len(files)} files of corrections; one or two (of two reviewers) can be tallied at a time")
    results = ResultsFolder(root)
    if not results.state.is_dir():
        raise UsageError(f"{root}: no results of hemax-batch; name the folder that `run --out` was given")
    with OutputLock(results.state, wait_lock_s):
        reviews = []
        for i, path in enumerate(files):
            corrections = read_corrections(path)
            reviewer = _reviewer(path, corrections, reviewers[i] if reviewers else "")
            reviews += [_applied(results, path, one, reviewer, wbc) for one in _by_slide(corrections).values()]
        _refuse_one_reviewer_twice(reviews)
        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        for review in reviews:
            _write(results.root / FOLDER / review.slide_id, review, now)
        for first, second in _pairs(reviews):
            _write_agreement(results.root / FOLDER / first.slide_id / first.sha256[:16], first, second, now)
    return reviews


def _by_slide(corrections: list[Correction]) -> dict[str, list[Correction]]:
    found: dict[str, list[Correction]] = {}
    for correction in corrections:
        found.setdefault(correction.slide_id, []).append(correction)
    return found


def _reviewer(path: Path, corrections: list[Correction], given: str) -> str:
    """Who signs: as asked, or as the file says; UsageError where the two differ, or nobody is named."""
    named = sorted({c.reviewer for c in corrections} - {""})
    if given and named and named != [given]:
        raise UsageError(f"{path}: reviewed by {', '.join(map(repr, named))}, but --reviewer says {given!r}")
    if len(named) > 1:
        raise UsageError(f"{path}: of several reviewers ({', '.join(map(repr, named))}); a file has one")
    if not given and not named:
        raise UsageError(f"{path}: names no reviewer; say who it was with --reviewer NAME")
    return given or named[0]


def _applied(
    results: ResultsFolder, path: Path, corrections: list[Correction], reviewer: str, wbc: float | None
) -> Reviewed:
    """One slide's decisions checked against its results and applied. UsageError, ResultsError."""
    slide_id = corrections[0].slide_id
    folder = results.slide(slide_id)
    if not _SAFE_ID.fullmatch(slide_id) or results.record(slide_id) is None:
        known = ", ".join(record.slide_id for record in results.records()[:8]) or "none"
        raise UsageError(f"{path}: row {corrections[0].row}: no results of slide {slide_id!r} in {results.root} ({known})")
    sha256 = result_sha256(folder)
    for c in corrections:
        if c.result_sha256 != sha256:
            raise UsageError(
                f"{path}: row {c.row}: made for other results of {slide_id!r} ({c.result_sha256[:12]!r}…) than those in "
                f"{folder} ({sha256[:12]}…): the slide was done again since; review it again in its new report.html"
            )
    before, left_out = _classes(folder / "cells.csv")
    refuse(path, [problem for c in corrections if (problem := _problem(c, before))])
    after = before | {c.cell_id: c.class_after for c in corrections}
    counts = [_counted(folder / "differential.json", c, left_out, wbc) for c in (before, after)]
    return Reviewed(slide_id, sha256, reviewer, tuple(corrections), before, after, left_out, *counts)


def _problem(c: Correction, before: dict[int, str]) -> str:
    if c.cell_id not in before:
        return f"row {c.row}: {c.slide_id!r} has no cell {c.cell_id} ({len(before)} cells)"
    if c.class_before != before[c.cell_id]:
        return f"row {c.row}: cell {c.cell_id} is {before[c.cell_id]} in the results, not {c.class_before!r}"
    return ""


def _classes(path: Path) -> tuple[dict[int, str], frozenset[int]]:
    """The class of each cell, and the cells that lie where the run did not count."""
    try:
        rows = list(read_table(path))
        left_out = frozenset(int(row["cell_id"]) for row in rows if row["left_out"])
        return {int(row["cell_id"]): row["class"] for row in rows}, left_out
    except (OSError, KeyError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read as a table of cells ({error}); {REMEDY}") from error


def _counted(path: Path, classes: dict[int, str], left_out: frozenset[int], wbc: float | None) -> Differential:
    """By the target, rules and white count of the run (or the white count given now)."""
    try:
        record = json.loads(path.read_text("utf-8"))
        rules, target = rules_of(record), int(record["target_cells"])
        known_wbc = record["nucleated_red_cells"]["wbc"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: cannot be read as a differential ({error!r}); {REMEDY}") from error
    return count(_without(classes, left_out), target, known_wbc if wbc is None else wbc, rules)


def _without(classes: dict[int, str], left_out: frozenset[int]) -> list[str]:
    return [name for cell_id, name in classes.items() if cell_id not in left_out]


def _refuse_one_reviewer_twice(reviews: list[Reviewed]) -> None:
    seen = set()
    for review in reviews:
        if (key := (review.slide_id, slug(review.reviewer))) in seen:
            raise UsageError(f"two files of reviewer {review.reviewer!r} on slide {review.slide_id!r}; one each")
        seen.add(key)


def _pairs(reviews: list[Reviewed]) -> list[tuple[Reviewed, Reviewed]]:
    first: dict[str, Reviewed] = {}
    return [(first[r.slide_id], r) for r in reviews if first.setdefault(r.slide_id, r) is not r]


def _write(folder: Path, review: Reviewed, now: str) -> None:
    """Decisions, cells, differential; then the line in the trail."""
    name, target = slug(review.reviewer), folder / review.sha256[:16]
    write_bytes(target / f"{name}.corrections.csv", _table(COLUMNS, correction_rows(list(review.corrections))))
    looked_at = review.decided
    rows = [
        [safe_text(review.slide_id), str(i), review.before[i], review.after[i], "true" if i in looked_at else "false"]
        for i in sorted(review.before)
    ]
    write_bytes(
        target / f"{name}.cells.csv", _table(("slide", "cell_id", "class_before", "class_after", "reviewed"), rows)
    )
    write_bytes(target / f"{name}.json", as_json(review_record(review, now)))
    line = {
        "time": now, "reviewer": review.reviewer, "result_sha256": review.sha256, "decided": len(looked_at),
        "reclassified": sum(c.class_before != c.class_after for c in review.corrections),
        "white_cells_before": review.count_before.n_white, "white_cells_after": review.count_after.n_white,
    }  # fmt: skip
    trail = folder / "trail.jsonl"
    earlier = trail.read_bytes() if trail.exists() else b""
    write_bytes(trail, earlier + (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def review_record(review: Reviewed, now: str) -> dict:
    """What one review says: who, when, of which results, how much of it, and the differential before and after."""
    undecided = [i for i, name in review.after.items() if name == UNIDENTIFIED and i not in review.decided]
    return {
        "claim": CLAIM,
        "slide": review.slide_id,
        "reviewer": review.reviewer,
        "tallied": now,
        "result_sha256": review.sha256,
        "cells": len(review.before),
        "cells_reviewed": len(review.decided),
        "cells_reclassified": sum(c.class_before != c.class_after for c in review.corrections),
        "complete": len(review.decided) == len(review.before),
        "unidentified_not_looked_at": len(undecided),
        "before": count_record(review.count_before),
        "after": count_record(review.count_after),
        **_assessed(review),
    }


def _assessed(review: Reviewed) -> dict:
    """What nobody assessed, and what the reviewer counted by eye though the network cannot see it."""
    used = {c.class_after for c in review.corrections}
    by_eye = [words for words, name in _COUNTED_BY_EYE.items() if name in used]
    words = {c.name: c.words for c in REVIEW_CLASSES}
    return {
        "not_assessed": [w for w in NOT_ASSESSED if w not in by_eye],
        "counted_by_the_reviewer_only": sorted(words[name] for name in used if name in words),
    }


def _write_agreement(folder: Path, first: Reviewed, second: Reviewed, now: str) -> None:
    """How two reviewers of the same results agree, and what both together say."""
    both = sorted(first.decided & second.decided)
    ours, theirs = [first.after[i] for i in both], [second.after[i] for i in both]
    disputed = [i for i in both if first.after[i] != second.after[i]]
    merged = {
        i: UNIDENTIFIED if i in set(disputed) else (first if i in first.decided else second).after[i]
        for i in first.before
    }
    rules, target, wbc = first.count_before.rules, first.count_before.target_cells, first.count_after.wbc
    kappa = cohen_kappa(ours, theirs)
    record = {
        "claim": CLAIM,
        "slide": first.slide_id,
        "reviewers": [first.reviewer, second.reviewer],
        "tallied": now,
        "result_sha256": first.sha256,
        "cells_reviewed_by_both": len(both),
        "agreed": len(both) - len(disputed),
        "kappa": None if math.isnan(kappa) else round(kappa, 4),
        "differences": [_difference_record(d) for d in differences(first.count_after, second.count_after)],
        "disputed": [
            {"cell_id": i, "before": first.before[i], "first": first.after[i], "second": second.after[i]}
            for i in disputed
        ],
        "merged": {
            "rule": "where both looked and agree, their class; where they differ, unidentified, for a third look; "
            "where one looked, that one's; else as it was",
            **count_record(count(_without(merged, first.left_out), target, wbc, rules)),
        },
    }
    write_bytes(folder / "agreement.json", as_json(record))


def _difference_record(d) -> dict:
    def figure(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 2)

    return {
        "class": d.class_name, "first_percent": figure(d.first), "second_percent": figure(d.second),
        "difference": figure(d.difference), "low95": figure(d.low), "high95": figure(d.high),
        "each_within_the_others_limits": d.within,
    }  # fmt: skip
