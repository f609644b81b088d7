"""A verification: manual counts and the tool's results put side by side, and everything that is
computed of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ResultsError, UsageError
from .acceptance import Verdict, judge
from .comparison import Comparison, Yardstick, compare, yardsticks
from .counts import NRBC, QUANTITIES, Count, pooled
from .flags import FlagAgreement, flag_agreements
from .rules import LaboratoryRules
from .statistics import Estimate, Repeatability, cohen_kappa, repeatability
from .tool_counts import (
    TOOL,
    known_results,
    read_published,
    read_reviewed,
    reviewed_cells,
    why_absent,
)

EXAMINERS = "examiners"
COUNTS = ("preclassified", "reviewed")


@dataclass(frozen=True)
class Slide:
    """One slide of the study: its manual counts by examiner, and the tool's counts of its scans,
    the first first.
    """

    name: str
    manual: tuple[Count, ...]
    scans: tuple[Count, ...]

    @property
    def reference(self) -> Count:
        """The examiners' counts as one."""
        return pooled(self.manual, EXAMINERS)


@dataclass(frozen=True)
class Confusion:
    """Cells that reviewers looked at: the tool's class by the reviewer's. `names` orders both sides
    of `table`.
    """

    names: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    kappa: Estimate

    @property
    def cells(self) -> int:
        """The cells looked at; one that two reviewers looked at counts twice."""
        return sum(map(sum, self.table))


@dataclass(frozen=True)
class Verification:
    """All that `verify` computes. `left_out` holds slides that could not be compared, with the
    reason.
    """

    slides: tuple[Slide, ...]
    left_out: tuple[tuple[str, str], ...]
    counts: str
    rules: LaboratoryRules
    comparisons: tuple[Comparison, ...]
    between_examiners: tuple[Comparison, ...]
    yardsticks: tuple[Yardstick, ...]
    flags: tuple[FlagAgreement, ...]
    examiner_flags: tuple[FlagAgreement, ...]
    repeats: dict[str, Repeatability]
    confusion: Confusion | None
    verdicts: tuple[Verdict, ...]

    @property
    def failed(self) -> int:
        """Limits that do not hold, or that nothing was measured for."""
        return sum(verdict.passed is not True for verdict in self.verdicts)


def verify_counts(
    manual: Sequence[Count],
    root: Path,
    scans: dict[str, list[str]],
    counts: str,
    rules: LaboratoryRules,
) -> Verification:
    """Compare.

    Steps: find the results of each slide; compare with the examiners; compare the examiners; flag
    slides; compare repeated scans; tabulate reviewed cells; judge. UsageError where no slide can be
    compared.
    """
    slides, left_out = _slides(manual, root, scans, counts)
    if not slides:
        told = "; ".join(f"{name}: {why}" for name, why in left_out[:3])
        raise UsageError(f"no slide of the manual counts can be compared: {told}")
    reference, tool = [s.reference for s in slides], [s.scans[0] for s in slides]
    twice = [s for s in slides if len(s.manual) == 2]
    first, second = ([s.manual[i] for s in twice] for i in (0, 1))
    comparisons, flags = compare(reference, tool), flag_agreements(reference, tool, rules)
    repeats = _repeats(slides)
    return Verification(
        tuple(slides),
        tuple(left_out),
        counts,
        rules,
        tuple(comparisons),
        tuple(compare(first, second)),
        tuple(yardsticks(first, second, [s.scans[0] for s in twice])),
        tuple(flags),
        tuple(flag_agreements(first, second, rules)) if twice else (),
        repeats,
        _confusion(root, [r for s in slides for r in scans.get(s.name, [s.name])]),
        tuple(judge(rules, len(slides), comparisons, flags, repeats)),
    )


def _slides(
    manual: Sequence[Count], root: Path, scans: dict[str, list[str]], counts: str
) -> tuple[list[Slide], list[tuple[str, str]]]:
    """The slides that have both, and those that have not, with the reason."""
    known = known_results(root)
    by_slide: dict[str, list[Count]] = {}
    for count in manual:
        by_slide.setdefault(count.slide, []).append(count)
    slides, left_out = [], []
    for name, examiners in by_slide.items():
        try:
            found = [
                _tool_count(root, name, result, known, counts) for result in scans.get(name, [name])
            ]
        except ResultsError as error:
            left_out.append((name, str(error)))
            continue
        slides.append(Slide(name, tuple(sorted(examiners, key=lambda c: c.counter)), tuple(found)))
    return slides, left_out


def _tool_count(root: Path, slide: str, result: str, known: list[str], counts: str) -> Count:
    """The tool's count of a scan. ResultsError says why there is none to compare."""
    if result not in known:
        raise ResultsError(why_absent(result, known))
    count = (
        read_published(root, slide, result)
        if counts == "preclassified"
        else read_reviewed(root, slide, result)
    )
    if count is None:
        raise ResultsError(
            f"{result}: nobody reviewed it; review it in its report.html, "
            "then `hemax-batch retally`"
        )
    if not count.cells:
        raise ResultsError(f"{result}: {TOOL} found no white cell")
    return count


def _repeats(slides: Sequence[Slide]) -> dict[str, Repeatability]:
    """The repeatability of each quantity, of the slides that were scanned more than once."""
    again = [slide.scans for slide in slides if len(slide.scans) > 1]
    found = {}
    for quantity in QUANTITIES:
        told = [scans for scans in again if all(count.tells(quantity) for count in scans)]
        if told and quantity.name != NRBC:
            counts = [[count.of(quantity) for count in scans] for scans in told]
            found[quantity.name] = repeatability(
                counts, [[count.cells for count in scans] for scans in told]
            )
    return found


def _confusion(root: Path, results: Sequence[str]) -> Confusion | None:
    """The table of reviewed cells of these results; None where nobody reviewed any."""
    pairs = Counter(pair for result in results for pair in reviewed_cells(root, result))
    if not pairs:
        return None
    names = tuple(dict.fromkeys(name for pair in sorted(pairs, key=_in_order) for name in pair))
    names = tuple(sorted(names, key=lambda name: _in_order((name, name))))
    table = np.array([[pairs[(a, b)] for b in names] for a in names])
    return Confusion(names, tuple(tuple(int(v) for v in row) for row in table), cohen_kappa(table))


def _in_order(pair: tuple[str, str]) -> tuple[int, str]:
    from ..vocabulary import CLASS_NAMES, REVIEW_NAMES

    order = (*CLASS_NAMES, *REVIEW_NAMES)
    return (order.index(pair[0]) if pair[0] in order else len(order), pair[0])
