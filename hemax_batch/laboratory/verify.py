"""`hemax-batch verify`: manual counts against the tool's, as one page, JSON and tables.

    DIR/verification.html   for a person, offline
    DIR/verification.json   all figures, the limits, what was compared with what
    DIR/classes.csv         a row for each class and each pair of counters
    DIR/slides.csv          a row for each slide and class: the per cents that were compared
    DIR/flags.csv           a row for each flag

Everything is computed before anything is written. Each file is written aside and renamed;
verification.json is last.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..outputs.tables import encode_table
from ..results.atomic_files import write_file
from .counts import QUANTITIES
from .flags import WORDS
from .json_record import as_json
from .manual_counts import read_manual_counts
from .pages import render
from .rules import read_rules
from .tool_counts import read_scans
from .verification import Verification, verify_counts
from .verification_figures import difference_figure, forest_figure, regression_figure
from .verification_record import (
    CLASS_COLUMNS,
    FLAG_COLUMNS,
    SLIDE_COLUMNS,
    class_rows,
    flag_rows,
    record_of,
    slide_rows,
)

PAGE, RECORD = "verification.html", "verification.json"


@dataclass(frozen=True)
class Study:
    """What `verify` is asked: what it reads, and where it writes. `counts`: one of
    verification.COUNTS.
    """

    manual: Path
    results: Path
    out: Path
    rules: Path | None = None
    scans: Path | None = None
    counts: str = "preclassified"


def verify(study: Study) -> Verification:
    """Read, compare, write.

    UsageError or ResultsError before anything is written; OutputError where it cannot be written.
    """
    rules, scans = read_rules(study.rules), read_scans(study.scans)
    found = verify_counts(
        read_manual_counts(study.manual), study.results, scans, study.counts, rules
    )
    page = render_page(found)
    write_file(study.out / "classes.csv", encode_table(CLASS_COLUMNS, class_rows(found)))
    write_file(study.out / "slides.csv", encode_table(SLIDE_COLUMNS, slide_rows(found)))
    write_file(study.out / "flags.csv", encode_table(FLAG_COLUMNS, flag_rows(found)))
    write_file(study.out / PAGE, page)
    digest = hashlib.sha256(study.manual.read_bytes()).hexdigest()
    record = record_of(found, {"file": study.manual.name, "sha256": digest})
    write_file(study.out / RECORD, as_json(record))
    return found


def render_page(v: Verification) -> bytes:
    """`verification.html`."""
    shown = [c for c in v.comparisons if c.is_seen]
    plots = [
        (c, regression_figure(c, "examiners", "tool"), difference_figure(c, "examiners", "tool"))
        for c in shown
    ]
    return render(
        "verification.html.j2",
        v=v,
        shown=shown,
        plots=plots,
        forest=forest_figure(shown),
        unseen=[c.quantity.words for c in v.comparisons if not c.is_seen],
        examiners=sorted({count.counter for slide in v.slides for count in slide.manual}),
        cells_manual=sum(count.cells for slide in v.slides for count in slide.manual),
        cells_tool=sum(slide.scans[0].cells for slide in v.slides),
        flag_words=WORDS,
        words={q.name: q.words for q in QUANTITIES} | {"nrbc": "nucleated red cells"},
        version=__version__,
    )
