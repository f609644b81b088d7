"""Check a reviewer's decisions against the results, and apply them. Nothing is written here."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..cells.differential import (
    NOT_ASSESSED,
    SCALE_FLAG,
    Differential,
    Flag,
    count_differential,
)
from ..cells.false_calls import FalseCalls
from ..cells.rules import Rules
from ..errors import ResultsError, UsageError
from ..outputs.differential_json import false_calls_from_record, rules_from_record
from ..results.folder import SLIDE_ID, ResultsFolder
from ..slides.slide_ids import slug
from ..vocabulary import UNIDENTIFIED
from .corrections import (
    GIVEN_CLASSES,
    Correction,
    corrections_text,
    raise_problems,
    read_corrections,
)
from .load_results import REMEDY, load_cells, load_differential, load_record, result_sha256
from .notes import Notes, read_notes

_MAX_NAME_CHARS = 100
_NO_NAME = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of surrogates, ends of lines


@dataclass(frozen=True)
class PublishedResult:
    """The published results that a review refers to: their cells, and how they were counted.

    `left_out` holds the cells in areas that the run did not count. No class makes them count.
    """

    sha256: str
    classes: dict[int, str]  # by cell id
    left_out: frozenset[int]
    target_cells: int
    wbc: float | None  # 10⁹/l
    rules: Rules
    false_calls: dict[str, FalseCalls] = field(default_factory=dict)
    not_reportable: tuple[str, ...] = ()
    not_assessed: tuple[str, ...] = NOT_ASSESSED
    slide_flags: tuple[Flag, ...] = ()  # which no review changes

    def count(self, classes: dict[int, str]) -> Differential:
        """Count the same cells with these classes.

        Calls expected by error belong to the network's classes; None once a reviewer changed any.
        """
        names = (name for cell_id, name in classes.items() if cell_id not in self.left_out)
        return count_differential(
            names,
            self.target_cells,
            self.wbc,
            self.rules,
            self.false_calls if classes == self.classes else None,
            self.not_reportable,
            self.slide_flags,
        )


@dataclass(frozen=True)
class SlideReview:
    """A slide's classes and count after one reviewer. `published` holds those before."""

    slide_id: str
    reviewer: str
    corrections: tuple[Correction, ...]
    published: PublishedResult
    after: dict[int, str]
    count_before: Differential
    count_after: Differential
    notes: Notes = field(default_factory=Notes)

    @property
    def sha256(self) -> str:
        """Of the results that were reviewed (`load_results.result_sha256`)."""
        return self.published.sha256

    @property
    def before(self) -> dict[int, str]:
        """Return the published classes, by cell id."""
        return self.published.classes

    @property
    def decided(self) -> set[int]:
        """Return the cells that were approved or reclassified."""
        return {c.cell_id for c in self.corrections}

    @property
    def reclassified(self) -> int:
        """Count the cells whose class changed."""
        return sum(c.class_before != c.class_after for c in self.corrections)

    @property
    def unidentified_not_reviewed(self) -> int:
        """Count the unidentified cells without a decision."""
        return sum(
            name == UNIDENTIFIED and i not in self.decided for i, name in self.before.items()
        )

    @property
    def file_name(self) -> str:
        """Return the reviewer as a file name. Names that a file name cannot distinguish (Müller, Muller) get a hash."""
        plain = slug(self.reviewer)
        if plain == self.reviewer.replace(" ", "_") and "_" not in self.reviewer:
            return plain
        return f"{plain}-{hashlib.sha256(self.reviewer.encode()).hexdigest()[:8]}"


def apply_corrections(
    results: ResultsFolder, path: Path, reviewer: str, wbc: float | None
) -> list[SlideReview]:
    """All decisions of a file, slide by slide. `reviewer`: who signs; "": as the file says.

    UsageError listing what does not hold, ResultsError where the results cannot be read back.
    """
    corrections = read_corrections(path, own_classes=True)
    text = corrections_text(path)
    signed = _reviewer(path, corrections, reviewer.strip())
    by_slide: dict[str, list[Correction]] = {}
    for correction in corrections:
        by_slide.setdefault(correction.slide_id, []).append(correction)
    problems, reviews = [], []
    for slide_id, decisions in by_slide.items():
        folder = results.slide(slide_id)
        if not SLIDE_ID.fullmatch(slide_id) or not folder.is_dir():
            problems.append(_unknown_slide(results, decisions[0]))
            continue
        published = _published(folder, wbc)
        wrong = _problems(folder, decisions, published)
        problems += wrong
        if not wrong:
            after = published.classes | {c.cell_id: c.class_after for c in decisions}
            before_count, after_count = _counted(folder, published, published.classes, after)
            notes = read_notes(text, slide_id, published.sha256)
            reviews.append(
                SlideReview(
                    slide_id,
                    signed,
                    tuple(decisions),
                    published,
                    after,
                    before_count,
                    after_count,
                    notes,
                )
            )
    raise_problems(path, problems)
    return reviews


def _reviewer(path: Path, corrections: list[Correction], given: str) -> str:
    """Who signs: as asked, or as the file says; UsageError where the two differ, or nobody is named."""
    named = sorted({c.reviewer for c in corrections} - {""})
    if len(named) > 1:
        raise UsageError(
            f"{path}: of several reviewers ({', '.join(repr(n[:40]) for n in named[:4])}); a file has one"
        )
    if given and named and named != [given]:
        raise UsageError(f"{path}: reviewed by {named[0][:40]!r}, but --reviewer says {given!r}")
    signed = given or "".join(named)
    if not signed:
        raise UsageError(f"{path}: names no reviewer; say who it was with --reviewer NAME")
    if len(signed) > _MAX_NAME_CHARS or any(unicodedata.category(c) in _NO_NAME for c in signed):
        raise UsageError(
            f"{path}: reviewer {signed[:40]!r}: expected a name on one line of at most {_MAX_NAME_CHARS} characters, none of "
            "them a control character"
        )
    return signed


def _unknown_slide(results: ResultsFolder, c: Correction) -> str:
    known = [record.slide_id for record in results.records()]
    there = ", ".join(known[:8]) + (" …" if len(known) > 8 else "") if known else "none"
    return f"row {c.row}: no results of slide {c.slide_id[:100]!r} in {results.root}; there are: {there}"


def _published(folder: Path, wbc: float | None) -> PublishedResult:
    """Read and check a slide's results. `wbc` replaces the white count of the run."""
    cells = load_cells(folder, load_record(folder))
    record = load_differential(folder)
    kept_wbc = record["nucleated_red_cells"]["wbc"]
    try:
        rules = rules_from_record(record)
        false_calls = false_calls_from_record(record)
        json.dumps([asdict(rules), kept_wbc], allow_nan=False)  # NaN and infinity are no thresholds
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(folder, error) from error
    return PublishedResult(
        result_sha256(folder),
        {cell.cell_id: cell.class_name for cell in cells},
        frozenset(cell.cell_id for cell in cells if cell.left_out),
        record["target_cells"],
        kept_wbc if wbc is None else wbc,
        rules,
        false_calls,
        tuple(record["not_reportable"]),
        tuple(record["not_assessed"]),
        tuple(Flag(f["rule"], f["words"]) for f in record["flags"] if f["rule"] == SCALE_FLAG),
    )


def _counted(
    folder: Path, published: PublishedResult, *classes: dict[int, str]
) -> list[Differential]:
    try:
        return [published.count(one) for one in classes]
    except (TypeError, ValueError, ArithmeticError) as error:  # a threshold that is no number
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: Exception) -> ResultsError:
    return ResultsError(
        f"{folder / 'differential.json'}: cannot be read as a differential ({error!r}); {REMEDY}"
    )


def _problems(folder: Path, decisions: list[Correction], published: PublishedResult) -> list[str]:
    """List what is wrong with a slide's decisions. Decisions on other results are reported once, not by row."""
    other = [c for c in decisions if c.result_sha256 != published.sha256]
    if other:
        return [
            f"row {other[0].row}: made for other results of {other[0].slide_id!r} ({other[0].result_sha256[:12]!r}…) "
            f"than those in {folder} ({published.sha256[:12]}…): the slide was done again since; review it again in its "
            "new report.html"
        ]
    return [problem for c in decisions if (problem := _problem(c, published))]


def _problem(c: Correction, published: PublishedResult) -> str:
    before, own = published.classes, [own.name for own in published.rules.classes]
    if c.class_after not in (*GIVEN_CLASSES, *own):
        known = ", ".join((*GIVEN_CLASSES, *own))
        return f"row {c.row}: unknown class {c.class_after[:40]!r}; known: {known}"
    if c.cell_id not in before:
        return f"row {c.row}: {c.slide_id!r} has no cell {c.cell_id} ({len(before)} cells)"
    if c.class_before != before[c.cell_id]:
        return f"row {c.row}: cell {c.cell_id} is {before[c.cell_id]} in the results, not {c.class_before[:40]!r}"
    return ""
