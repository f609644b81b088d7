"""The state of a slide's review, read back from RESULTS/reviews, for the report and the index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bounded_files import read_json
from ..errors import ResultsError
from .load_results import result_sha256

FOLDER = "reviews"


@dataclass(frozen=True)
class ReviewState:
    """One reviewer's tallied review. `signed_off` is the time of the sign-off, "" without one."""

    reviewer: str
    tallied: str
    cells: int
    reviewed: int
    reclassified: int
    signed_off: str
    slide_comment: str
    white_cells: int
    rows: tuple[
        tuple[str, int, int, float | None], ...
    ]  # (words, count before, after, per cent after)

    @property
    def complete(self) -> bool:
        """Whether every cell was decided on."""
        return self.reviewed == self.cells

    @property
    def words(self) -> str:
        """The state in a few words."""
        if self.signed_off:
            return "signed off"
        return "reviewed" if self.complete else "in review"


def review_states(folder: Path) -> tuple[ReviewState, ...]:
    """The reviews of a slide's present results, the latest last. `folder` is the slide's results folder.

    Reviews of earlier results of the slide are left out. A record that cannot be read is left out too.
    """
    reviews = folder.parent / FOLDER / folder.name
    if not reviews.is_dir():
        return ()
    try:
        target = reviews / result_sha256(folder)[:16]
    except ResultsError:
        return ()
    states = (
        _state(path)
        for path in sorted(target.glob("*.json"))
        if not path.name.endswith(".agreement.json")
    )
    return tuple(sorted((s for s in states if s), key=lambda s: (s.tallied, s.reviewer)))


def _state(path: Path) -> ReviewState | None:
    try:
        record = read_json(path)
        before = {entry["class"]: int(entry["count"]) for entry in record["before"]["classes"]}
        rows = tuple(
            (str(e["words"]), before.get(e["class"], 0), int(e["count"]), e["percent"])
            for e in record["after"]["classes"]
            if e["count"] or before.get(e["class"])
        )
        return ReviewState(
            str(record["reviewer"]),
            str(record["tallied"]),
            int(record["cells"]),
            int(record["cells_reviewed"]),
            int(record["cells_reclassified"]),
            str(record.get("signed_off") or ""),
            str(record.get("slide_comment", "")),
            int(record["after"]["white_cells"]),
            rows,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
