"""The records of a review: the JSON record, the differential side by side, and the agreement of two reviewers."""

from __future__ import annotations

import math
from typing import Any

from ..cells.differential import Differential, Share
from ..cells.own_classes import OwnClass
from ..cells.rules import NEUTROPHILS
from ..outputs.differential_json import count_record
from ..outputs.tables import safe_text
from ..vocabulary import CLAIM, CLASSES, REVIEW_CLASSES, CellClass
from .agreement import Agreement, Difference
from .apply_corrections import SlideReview

#: One row per class. A class outside the white cells has a count and no per cent.
SIDE_BY_SIDE_COLUMNS = (
    "slide", "class",
    *(f"{what}_{when}" for when in ("before", "after") for what in ("count", "percent", "low95", "high95")),
    "reviewer", "result_sha256", "claim",
)  # fmt: skip

#: What a reviewer can count if the weights do not know it, in the words of `not_assessed`.
_COUNTED_BY_EYE = {
    "smudge cells": "smudge",
    "variant lymphocytes": "variant_lymphocyte",
    "plasma cells": "plasma_cell",
}


def review_record(review: SlideReview, now: str) -> dict[str, Any]:
    """Return the record of one review: reviewer, time, results, extent, and the differential before and after."""
    cells, decided = len(review.before), len(review.decided)
    return {
        "claim": CLAIM,
        "slide": review.slide_id,
        "reviewer": review.reviewer,
        "tallied": now,
        "result_sha256": review.sha256,
        "cells": cells,
        "cells_reviewed": decided,
        "cells_not_reviewed": cells - decided,
        "share_reviewed": round(decided / cells, 4),
        "cells_reclassified": review.reclassified,
        "complete": decided == cells,
        "unidentified_not_looked_at": review.unidentified_not_reviewed,
        "every_unidentified_decided": review.unidentified_not_reviewed == 0,
        **review.notes.record(),
        "before": count_record(review.count_before),
        "after": count_record(review.count_after),
        **_assessed(review),
    }


def _assessed(review: SlideReview) -> dict[str, Any]:
    """Return what nobody assessed, and what the reviewer counted although the network cannot see it.

    This holds the classes that the reviewer used. After a complete review it also holds the classes that
    the weights do not know: none of them is among the cells.
    """
    own, told = review.published.rules.classes, review.published.not_assessed
    by_eye = {name for what, name in _COUNTED_BY_EYE.items() if what in told}
    known: tuple[CellClass | OwnClass, ...] = (*CLASSES, *REVIEW_CLASSES, *own)
    words = {c.name: c.words for c in known if c not in CLASSES or c.name in by_eye}
    used = {c.class_after for c in review.corrections}
    counted = used.intersection(words)
    if len(review.decided) == len(review.before):
        counted = counted.union(by_eye)
    return {
        "not_assessed": [what for what in told if _COUNTED_BY_EYE.get(what) not in counted],
        "counted_by_the_reviewer_only": sorted(words[name] for name in counted),
    }


def side_by_side_rows(review: SlideReview) -> list[list[str]]:
    """Return total neutrophils, the classes in clinical order, then the cells outside the white cells."""
    before, after = review.count_before, review.count_after
    rows = [
        ["white_cells", str(before.n_white), "", "", "", str(after.n_white), "", "", ""],
        *(
            [name, *_share(before, name), *_share(after, name)]
            for name in (NEUTROPHILS, *dict.fromkeys((*before.shares, *after.shares)))
        ),
        ["nucleated_red_cells", str(before.nrbc), "", "", "", str(after.nrbc), "", "", ""],
        ["unidentified", str(before.unidentified), "", "", "", str(after.unidentified), "", "", ""],
        *(
            [
                name,
                str(before.outside.get(name, 0)),
                "",
                "",
                "",
                str(after.outside.get(name, 0)),
                "",
                "",
                "",
            ]
            for name in dict.fromkeys((*before.outside, *after.outside))
        ),
    ]
    slide, reviewer = safe_text(review.slide_id), safe_text(review.reviewer)
    return [[slide, *row, reviewer, review.sha256, CLAIM] for row in rows]


def _share(d: Differential, name: str) -> list[str]:
    share = (
        d.share(name)
        if name == NEUTROPHILS or name in d.shares
        else Share(0, math.nan, math.nan, math.nan)
    )
    figures = (share.percent, share.low, share.high)
    return [str(share.count), *("" if math.isnan(value) else f"{value:.2f}" for value in figures)]


def agreement_record(a: Agreement, corrections_sha256: list[str], now: str) -> dict[str, Any]:
    """Return the record of two reviewers of the same results: their agreement and the merged result."""
    first, second = a.first, a.second
    both = len(a.seen_by_both)
    return {
        "claim": CLAIM,
        "slide": first.slide_id,
        "reviewers": [first.reviewer, second.reviewer],
        "tallied": now,
        "result_sha256": first.sha256,
        "corrections_sha256": corrections_sha256,
        "cells_reviewed_by_both": both,
        "agreed": both - len(a.disputed),
        "agreed_percent": round(100 * (both - len(a.disputed)) / both, 2) if both else None,
        "kappa": None if math.isnan(a.kappa) else round(a.kappa, 4),
        "interval": "95 %, of second - first: Newcombe's method 10 with Clopper-Pearson limits",
        "mean": "of the two per cents, as CLSI H20 takes it of two examiners",
        "white_cells": [first.count_after.n_white, second.count_after.n_white],
        "differences": [_difference_record(d) for d in a.differences],
        "disputed": [
            {
                "cell_id": i,
                "before": first.before[i],
                "first": first.after[i],
                "second": second.after[i],
            }
            for i in a.disputed
        ],
        "merged": {
            "rule": "where both looked and agree, their class; where they differ, unidentified, for a third look; "
            "where one looked, that one's; else as it was",
            **count_record(a.merged_count),
        },
    }


def _difference_record(d: Difference) -> dict[str, Any]:
    def figure(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 2)

    return {
        "class": d.class_name,
        "first_percent": figure(d.first),
        "second_percent": figure(d.second),
        "mean_percent": figure(d.mean),
        "difference": figure(d.difference),
        "low95": figure(d.low),
        "high95": figure(d.high),
        "beyond_chance": d.beyond_chance,
        "each_within_the_others_limits": d.within,
    }
