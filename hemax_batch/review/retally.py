"""`hemax-batch retally`: apply a reviewer's decisions, count again, and keep a trail of who did what and when.

    results/reviews/<slide_id>/trail.jsonl                    a line a review, only ever added to
    results/reviews/<slide_id>/<hash of the results>/
        <reviewer>.corrections.csv   the decisions as applied
        <reviewer>.cells.csv         every cell: its class before and after, and whether it was looked at
        <reviewer>.differential.csv  the differential before and after, side by side
        <reviewer>.json              the same with limits, flags and rules: the record of the review
        <reviewer>+<reviewer>.agreement.json   of two reviewers: kappa, differences of their counts, the merged result

A review lies outside the slide's folder, because a later run replaces that folder. The masks and tables there never
change. Everything is checked before anything is written.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import OutputError, ResultsError, UsageError
from ..outputs.differential_json import encode_json
from ..outputs.tables import encode_table, safe_text
from ..results.atomic_files import write_file
from ..results.contained_files import refuse_links
from ..results.folder import ResultsFolder
from ..results.lock import OutputLock
from .agreement import Agreement, compare_reviews
from .apply_corrections import SlideReview, apply_corrections
from .corrections import COLUMNS, correction_rows
from .index import write_index
from .report import REPORT_NAME, write_report
from .review_record import SIDE_BY_SIDE_COLUMNS, agreement_record, review_record, side_by_side_rows
from .review_state import FOLDER

_MAX_WBC = 10_000.0  # 10⁹/l, as `run --wbc` takes


@dataclass(frozen=True)
class RetallyResult:
    """The result of `retally`: one review per file and slide, and the agreement per slide with two reviewers."""

    reviews: tuple[SlideReview, ...]
    agreements: tuple[Agreement, ...]


def retally(
    root: Path,
    files: list[Path],
    reviewers: list[str],
    wbc: float | None = None,
    wait_lock_s: float = 0.0,
) -> RetallyResult:
    """Check the decisions of one or two files, count again, and write the reviews to `root`.

    `reviewers`: who signs each file; none: as the files say. `wbc` (10⁹/l): in the place of the run's, before and
    after. Raises UsageError or ResultsError before anything is written; LockedError where a run holds the folder;
    OutputError where it cannot be written.
    """
    if not 1 <= len(files) <= 2:
        raise UsageError(
            f"{len(files)} files of corrections; one or two (of two reviewers) can be tallied at a time"
        )
    if wbc is not None and not 0 < wbc <= _MAX_WBC:
        raise UsageError(f"--wbc {wbc:g}: must be above 0 and at most {_MAX_WBC:g} (10^9/l)")
    results = ResultsFolder(root)
    results.require_existing()
    with OutputLock(results.state, wait_lock_s):
        reviews = []
        for i, path in enumerate(files):
            reviews += apply_corrections(results, path, reviewers[i] if reviewers else "", wbc)
        _refuse_one_reviewer_twice(reviews)
        agreements = [compare_reviews(*pair) for pair in _pairs(reviews)]
        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        refuse_links(
            results.root, *(results.root / FOLDER / r.slide_id / r.sha256[:16] for r in reviews)
        )
        for review in reviews:
            _write(results.root / FOLDER / review.slide_id, review, now)
        for agreement in agreements:
            _write_agreement(results.root / FOLDER, agreement, now)
        show_state(results, [review.slide_id for review in reviews])
    return RetallyResult(tuple(reviews), tuple(agreements))


def show_state(results: ResultsFolder, slide_ids: list[str]) -> None:
    """Make the pages again that show the state of review. A page that cannot be made costs no review."""
    for slide_id in dict.fromkeys(slide_ids):
        if (results.slide(slide_id) / REPORT_NAME).is_file():
            with suppress(ResultsError):
                write_report(results.slide(slide_id))
    write_index(results)


def _refuse_one_reviewer_twice(reviews: list[SlideReview]) -> None:
    seen = set()
    for review in reviews:
        if (key := (review.slide_id, review.file_name.casefold())) in seen:
            raise UsageError(
                f"two files of reviewer {review.reviewer!r} on slide {review.slide_id!r}; one each"
            )
        seen.add(key)


def _pairs(reviews: list[SlideReview]) -> list[tuple[SlideReview, SlideReview]]:
    first: dict[str, SlideReview] = {}
    return [(first[r.slide_id], r) for r in reviews if first.setdefault(r.slide_id, r) is not r]


def _write(folder: Path, review: SlideReview, now: str) -> None:
    """Write decisions, cells and differential; then the line of the trail."""
    name, target, reviewed = review.file_name, folder / review.sha256[:16], review.decided
    decisions = _decisions(review)
    cells = [
        [
            safe_text(review.slide_id),
            str(i),
            review.before[i],
            review.after[i],
            "true" if i in reviewed else "false",
        ]
        for i in sorted(review.before)
    ]
    columns = ("slide", "cell_id", "class_before", "class_after", "reviewed")
    write_file(target / f"{name}.corrections.csv", decisions)
    write_file(target / f"{name}.cells.csv", encode_table(columns, cells))
    write_file(
        target / f"{name}.differential.csv",
        encode_table(SIDE_BY_SIDE_COLUMNS, side_by_side_rows(review)),
    )
    write_file(target / f"{name}.json", encode_json(review_record(review, now)))
    line = {
        "time": now,
        "reviewer": review.reviewer,
        "result_sha256": review.sha256,
        "corrections_sha256": hashlib.sha256(decisions).hexdigest(),
        "decided": len(reviewed),
        "reclassified": review.reclassified,
        "white_cells_before": review.count_before.n_white,
        "white_cells_after": review.count_after.n_white,
    }
    _append_line(folder / "trail.jsonl", json.dumps(line, ensure_ascii=False))


def _append_line(path: Path, line: str) -> None:
    """Append a line by writing a new file. A half-written line would break the trail."""
    try:
        earlier = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read to add to it: {error.strerror}; check permissions"
        ) from error
    if earlier and not earlier.endswith(b"\n"):
        earlier += b"\n"
    write_file(path, earlier + line.encode("utf-8", "backslashreplace") + b"\n")


def _write_agreement(folder: Path, agreement: Agreement, now: str) -> None:
    first, second = agreement.first, agreement.second
    sums = [hashlib.sha256(_decisions(review)).hexdigest() for review in (first, second)]
    name = "+".join(sorted((first.file_name, second.file_name)))
    target = folder / first.slide_id / first.sha256[:16]
    write_file(
        target / f"{name}.agreement.json", encode_json(agreement_record(agreement, sums, now))
    )


def _decisions(review: SlideReview) -> bytes:
    """Return the corrections as applied, with their reviewer."""
    return encode_table(COLUMNS, correction_rows(list(review.corrections), review.reviewer))
