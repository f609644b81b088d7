"""`hemax-batch verify`: manual counts against the tool's, as one page, JSON and tables.

    DIR/verification.html   for a person, offline
    DIR/verification.json   all figures, the limits, what was compared with what
    DIR/classes.csv         a row for each class and each pair of counters
    DIR/slides.csv          a row for each slide and class: the per cents that were compared
    DIR/flags.csv           a row for each flag

Everything is computed before anything is written. Each file is written aside and renamed; verification.json is last.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..outputs.tables import as_table, safe_text
from ..results.durable import write_bytes
from ..vocabulary import CLAIM
from .comparison import Comparison
from .counts import QUANTITIES
from .flags import WORDS, FlagAgreement
from .manual_counts import read_manual_counts
from .pages import render
from .rules import read_rules
from .statistics import Estimate
from .tool_counts import read_scans
from .verification import Verification, verify_counts
from .verification_figures import difference_figure, forest_figure, regression_figure

PAGE, RECORD = "verification.html", "verification.json"
NOT_PROVEN = (
    "It says how the tool and these examiners agree on these slides. It does not say that either is right. "
    "It does not speak of diseases, ages, stains or scanners that the slides do not hold."
)
METHODS = (
    "Per cents are of white cells. Variant lymphocytes are lymphocytes here, because the network was not taught them apart.",
    "Binomial limits: Clopper and Pearson 1934; Rümke's table is these limits, rounded outward.",
    "Bias and limits of agreement: Bland and Altman 1986 and 1999, with intervals by t.",
    "Passing-Bablok regression: Passing and Bablok 1983. Orthogonal regression: Deming with equal errors, intervals by jackknife (Linnet 1993).",
    "Correlation: Pearson with Fisher's interval; Spearman with that of Bonett and Wright 2000. A correlation rises with the range of the slides and is no proof of agreement.",
    "Tool against examiners: the interchangeability index of Obuchowski, Subhas and Schoenhagen 2014, with a bootstrap over slides. The tool counts more cells than an examiner where its slide holds them, which alone brings it closer.",
    "Kappa: Cohen 1960; its error: Fleiss, Cohen and Everitt 1969.",
    "Layout of the study after CLSI H20 and the ICSH recommendations on digital morphology.",
)
CLASS_COLUMNS = (
    "comparison", "class", "slides", "mean_x", "mean_y", "bias", "bias_low95", "bias_high95", "sd", "counting_sd",
    "lower_limit", "upper_limit", "within", "within_low95", "within_high95", "within_by_chance",
    *(f"{line}_{what}{end}" for line in ("passing_bablok", "orthogonal") for what in ("slope", "intercept")
      for end in ("", "_low95", "_high95")),
    *(f"{name}{end}" for name in ("pearson", "spearman") for end in ("", "_low95", "_high95")), "claim",
)  # fmt: skip
SLIDE_COLUMNS = ("slide", "class", "examiners_cells", "examiners_percent", "tool_cells", "tool_percent", "difference", "claim")
FLAG_COLUMNS = (
    "comparison", "flag", "both", "reference_only", "method_only", "neither",
    *(f"{name}{end}" for name in ("sensitivity", "specificity", "efficiency") for end in ("", "_low95", "_high95")),
    "claim",
)  # fmt: skip
TOOL_VERSUS, EXAMINERS_VERSUS = "tool - examiners", "second examiner - first"


@dataclass(frozen=True)
class Study:
    """What `verify` is asked: the files that it reads and where it writes. `counts` is one of verification.COUNTS."""

    manual: Path
    results: Path
    out: Path
    rules: Path | None = None
    scans: Path | None = None
    counts: str = "preclassified"


def verify(study: Study) -> Verification:
    """Read, compare, write. UsageError or ResultsError before anything is written; OutputError where it cannot be."""
    rules, scans = read_rules(study.rules), read_scans(study.scans)
    found = verify_counts(read_manual_counts(study.manual), study.results, scans, study.counts, rules)
    page = render_page(found)
    write_bytes(study.out / "classes.csv", as_table(CLASS_COLUMNS, class_rows(found)))
    write_bytes(study.out / "slides.csv", as_table(SLIDE_COLUMNS, slide_rows(found)))
    write_bytes(study.out / "flags.csv", as_table(FLAG_COLUMNS, flag_rows(found)))
    write_bytes(study.out / PAGE, page)
    write_bytes(study.out / RECORD, as_json(record_of(found, study)))
    return found


def as_json(record: dict[str, object]) -> bytes:
    """Indented UTF-8; a figure that does not exist is null."""
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def render_page(v: Verification) -> bytes:
    """`verification.html`."""
    shown = [c for c in v.comparisons if c.is_seen]
    plots = [(c, regression_figure(c, "examiners", "tool"), difference_figure(c, "examiners", "tool")) for c in shown]
    return render(
        "verification.html.j2", v=v, shown=shown, plots=plots, forest=forest_figure(shown),
        unseen=[c.quantity.words for c in v.comparisons if not c.is_seen],
        examiners=sorted({count.counter for slide in v.slides for count in slide.manual}),
        cells_manual=sum(count.cells for slide in v.slides for count in slide.manual),
        cells_tool=sum(slide.scans[0].cells for slide in v.slides), flag_words=WORDS,
        words={q.name: q.words for q in QUANTITIES} | {"nrbc": "nucleated red cells"}, methods=METHODS, version=__version__,
    )  # fmt: skip


def record_of(v: Verification, study: Study) -> dict[str, object]:
    """`verification.json`."""
    return {
        "claim": CLAIM,
        "does_not_prove": NOT_PROVEN,
        "version": __version__,
        "counts": v.counts,
        "manual": {"file": study.manual.name, "sha256": hashlib.sha256(study.manual.read_bytes()).hexdigest()},
        "rules": {"file": v.rules.source, "sha256": v.rules.sha256, "set_by": v.rules.set_by, "set_on": v.rules.set_on},
        "slides": len(v.slides),
        "left_out": [{"slide": slide, "reason": why} for slide, why in v.left_out],
        "acceptance": [
            {"criterion": x.limit.criterion, "of": x.limit.subject, "low": figure(x.limit.low), "high": figure(x.limit.high),
             "measured": estimate(x.measured), "passed": x.passed, "certain": x.certain}
            for x in v.verdicts
        ],
        "classes": {c.quantity.name: _comparison(c) for c in v.comparisons},
        "between_examiners": {c.quantity.name: _comparison(c) for c in v.between_examiners},
        "yardstick": {
            y.quantity.name: {"slides": y.n, "rms_tool": figure(y.tool), "rms_examiners": figure(y.examiners),
                              "excess": estimate(y.excess), "verdict": y.verdict}
            for y in v.yardsticks
        },
        "flags": {f.flag: _flag(f) for f in v.flags},
        "examiner_flags": {f.flag: _flag(f) for f in v.examiner_flags},
        "repeatability": {
            name: {"slides": r.slides, "scans": r.scans, "sd": estimate(r.sd.scaled(100)),
                   "counting_sd": figure(100 * r.counting_sd), "ratio": estimate(r.ratio)}
            for name, r in v.repeats.items()
        },
        "review": v.confusion and {
            "cells": v.confusion.cells, "kappa": estimate(v.confusion.kappa), "classes": list(v.confusion.names),
            "table": [list(row) for row in v.confusion.table],
        },
    }  # fmt: skip


def figure(value: float) -> float | None:
    """A number of JSON: six decimals, null where there is none."""
    return round(float(value), 6) if math.isfinite(value) else None


def estimate(e: Estimate) -> dict[str, float | None]:
    """An estimate as JSON."""
    return {"value": figure(e.value), "low95": figure(e.low), "high95": figure(e.high)}


def _comparison(c: Comparison) -> dict[str, object]:
    ba = c.difference
    return {
        "slides": c.n, "mean_x": figure(c.x.mean()), "mean_y": figure(c.y.mean()), "bias": estimate(ba.bias),
        "sd": figure(ba.sd), "counting_sd": figure(c.counting_sd), "lower_limit": estimate(ba.lower),
        "upper_limit": estimate(ba.upper), "within": estimate(c.within), "within_by_chance": figure(c.chance_within),
        "passing_bablok": {"slope": estimate(c.passing_bablok.slope), "intercept": estimate(c.passing_bablok.intercept)},
        "orthogonal": {"slope": estimate(c.deming.slope), "intercept": estimate(c.deming.intercept)},
        "pearson": estimate(c.pearson), "spearman": estimate(c.spearman),
    }  # fmt: skip


def _flag(f: FlagAgreement) -> dict[str, object]:
    return {
        "assessed": f.assessed, "both": f.true_positive, "reference_only": f.false_negative,
        "method_only": f.false_positive, "neither": f.true_negative, "sensitivity": estimate(f.sensitivity),
        "specificity": estimate(f.specificity), "efficiency": estimate(f.efficiency),
    }  # fmt: skip


def class_rows(v: Verification) -> Iterator[list[str]]:
    """The rows of `classes.csv`."""
    for versus, comparisons in ((TOOL_VERSUS, v.comparisons), (EXAMINERS_VERSUS, v.between_examiners)):
        for c in comparisons:
            ba = c.difference
            numbers = [c.x.mean(), c.y.mean(), *_three(ba.bias), ba.sd, c.counting_sd, ba.lower.value, ba.upper.value,
                       *_three(c.within), c.chance_within]  # fmt: skip
            for line in (c.passing_bablok, c.deming):
                numbers += [*_three(line.slope), *_three(line.intercept)]
            numbers += [*_three(c.pearson), *_three(c.spearman)]
            yield [versus, c.quantity.name, str(c.n), *_texts(numbers), CLAIM]


def slide_rows(v: Verification) -> Iterator[list[str]]:
    """The rows of `slides.csv`."""
    for c in v.comparisons:
        for i, slide in enumerate(c.slides):
            numbers = _texts([c.x[i], c.y[i], c.y[i] - c.x[i]])
            cells = (f"{c.cells_x[i]:.0f}", f"{c.cells_y[i]:.0f}")
            yield [safe_text(slide), c.quantity.name, cells[0], numbers[0], cells[1], *numbers[1:], CLAIM]


def flag_rows(v: Verification) -> Iterator[list[str]]:
    """The rows of `flags.csv`. A flag that one of the two cannot tell has no row."""
    for versus, flags in ((TOOL_VERSUS, v.flags), (EXAMINERS_VERSUS, v.examiner_flags)):
        for f in (f for f in flags if f.assessed):
            counts = [f.true_positive, f.false_negative, f.false_positive, f.true_negative]
            numbers = [v for e in (f.sensitivity, f.specificity, f.efficiency) for v in _three(e)]
            yield [versus, f.flag, *map(str, counts), *_texts(numbers), CLAIM]


def _three(e: Estimate) -> tuple[float, float, float]:
    return e.value, e.low, e.high


def _texts(numbers: Sequence[float]) -> list[str]:
    """Four decimals; "" where there is no figure."""
    return [f"{value:.4f}" if math.isfinite(value) else "" for value in numbers]
