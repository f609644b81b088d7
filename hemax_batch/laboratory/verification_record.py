"""A verification as JSON and as tables, for other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .. import __version__
from ..outputs.tables import safe_text
from ..vocabulary import CLAIM
from .acceptance import Verdict
from .comparison import Comparison, Yardstick
from .flags import FlagAgreement
from .json_record import estimate, figure
from .statistics import Estimate, Repeatability
from .verification import Confusion, Verification

NOT_PROVEN = (
    "It says how the tool and these examiners agree on these slides. "
    "It does not say that either is right. "
    "It does not speak of diseases, ages, stains or scanners that the slides do not hold."
)
CLASS_COLUMNS = (
    "comparison",
    "class",
    "slides",
    "mean_x",
    "mean_y",
    "bias",
    "bias_low95",
    "bias_high95",
    "sd",
    "counting_sd",
    "lower_limit",
    "upper_limit",
    "within",
    "within_low95",
    "within_high95",
    "within_by_chance",
    "within_difference",
    "within_difference_low95",
    "within_difference_high95",
    *(
        f"{line}_{what}{end}"
        for line in ("passing_bablok", "orthogonal")
        for what in ("slope", "intercept")
        for end in ("", "_low95", "_high95")
    ),
    *(f"{name}{end}" for name in ("pearson", "spearman") for end in ("", "_low95", "_high95")),
    "claim",
)
SLIDE_COLUMNS = (
    "slide",
    "class",
    "examiners_cells",
    "examiners_percent",
    "tool_cells",
    "tool_percent",
    "difference",
    "claim",
)
FLAG_COLUMNS = (
    "comparison",
    "flag",
    "both",
    "reference_only",
    "method_only",
    "neither",
    *(
        f"{name}{end}"
        for name in ("sensitivity", "specificity", "efficiency")
        for end in ("", "_low95", "_high95")
    ),
    "claim",
)
TOOL_VERSUS, EXAMINERS_VERSUS = "tool - examiners", "second examiner - first"


def record_of(v: Verification, manual: dict[str, str]) -> dict[str, object]:
    """`verification.json`. `manual` names the file of the manual counts and its hash."""
    rules = v.rules
    return {
        "claim": CLAIM,
        "does_not_prove": NOT_PROVEN,
        "version": __version__,
        "counts": v.counts,
        "manual": manual,
        "rules": {
            "file": rules.source,
            "sha256": rules.sha256,
            "set_by": rules.set_by,
            "set_on": rules.set_on,
        },
        "slides": len(v.slides),
        "left_out": [{"slide": slide, "reason": why} for slide, why in v.left_out],
        "acceptance": [_verdict(x) for x in v.verdicts],
        "classes": {c.quantity.name: _comparison(c) for c in v.comparisons},
        "between_examiners": {c.quantity.name: _comparison(c) for c in v.between_examiners},
        "yardstick": {y.quantity.name: _yardstick(y) for y in v.yardsticks},
        "flags": {f.flag: _flag(f) for f in v.flags},
        "examiner_flags": {f.flag: _flag(f) for f in v.examiner_flags},
        "repeatability": {name: _repeatability(r) for name, r in v.repeats.items()},
        "review": _confusion(v.confusion) if v.confusion else None,
    }


def _verdict(x: Verdict) -> dict[str, object]:
    return {
        "criterion": x.limit.criterion,
        "of": x.limit.subject,
        "low": figure(x.limit.low),
        "high": figure(x.limit.high),
        "measured": estimate(x.measured),
        "passed": x.passed,
        "certain": x.certain,
    }


def _yardstick(y: Yardstick) -> dict[str, object]:
    return {
        "slides": y.n,
        "rms_tool": figure(y.tool),
        "rms_examiners": figure(y.examiners),
        "excess": estimate(y.excess),
        "verdict": y.verdict,
    }


def _repeatability(r: Repeatability) -> dict[str, object]:
    return {
        "slides": r.slides,
        "scans": r.scans,
        "sd": estimate(r.sd.scaled(100)),
        "counting_sd": figure(100 * r.counting_sd),
        "ratio": estimate(r.ratio),
    }


def _confusion(c: Confusion) -> dict[str, object]:
    return {
        "cells": c.cells,
        "kappa": estimate(c.kappa),
        "classes": list(c.names),
        "table": [list(row) for row in c.table],
    }


def _comparison(c: Comparison) -> dict[str, object]:
    ba = c.difference
    return {
        "slides": c.n,
        "mean_x": figure(c.x.mean()),
        "mean_y": figure(c.y.mean()),
        "bias": estimate(ba.bias),
        "sd": figure(ba.sd),
        "counting_sd": figure(c.counting_sd),
        "lower_limit": estimate(ba.lower),
        "upper_limit": estimate(ba.upper),
        "within": estimate(c.within),
        "within_by_chance": figure(c.chance_within),
        "within_difference": estimate(c.within_difference),
        "passing_bablok": {
            "slope": estimate(c.passing_bablok.slope),
            "intercept": estimate(c.passing_bablok.intercept),
        },
        "orthogonal": {
            "slope": estimate(c.deming.slope),
            "intercept": estimate(c.deming.intercept),
        },
        "pearson": estimate(c.pearson),
        "spearman": estimate(c.spearman),
    }


def _flag(f: FlagAgreement) -> dict[str, object]:
    return {
        "assessed": f.assessed,
        "both": f.true_positive,
        "reference_only": f.false_negative,
        "method_only": f.false_positive,
        "neither": f.true_negative,
        "sensitivity": estimate(f.sensitivity),
        "specificity": estimate(f.specificity),
        "efficiency": estimate(f.efficiency),
    }


def class_rows(v: Verification) -> Iterator[list[str]]:
    """The rows of `classes.csv`."""
    for versus, comparisons in (
        (TOOL_VERSUS, v.comparisons),
        (EXAMINERS_VERSUS, v.between_examiners),
    ):
        for c in comparisons:
            ba = c.difference
            numbers = [
                c.x.mean(),
                c.y.mean(),
                *_three(ba.bias),
                ba.sd,
                c.counting_sd,
                ba.lower.value,
                ba.upper.value,
                *_three(c.within),
                c.chance_within,
                *_three(c.within_difference),
            ]
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
            yield [
                safe_text(slide),
                c.quantity.name,
                cells[0],
                numbers[0],
                cells[1],
                *numbers[1:],
                CLAIM,
            ]


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
