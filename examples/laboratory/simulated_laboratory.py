"""A simulated laboratory: blood whose composition is known, a tool and two examiners whose errors
are known.

Nothing here is real. Results are written in the formats of a run, so that `verify` and `monitor`
read them as they read a laboratory's own. What they are to find is written to truth.json.

    python simulated_laboratory.py FOLDER              study and nights, small
    python simulated_laboratory.py FOLDER --nights 365 --per-night 200 --only-nights
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemax_batch import __version__
from hemax_batch.cells.cell_selection import SmearAreas
from hemax_batch.cells.differential import Differential, count_differential, not_assessed
from hemax_batch.cells.measure import CellMeasures
from hemax_batch.cells.rules import Rules
from hemax_batch.cells.screening_audit import estimate_missed
from hemax_batch.outputs.differential_json import write_differential
from hemax_batch.outputs.tables import (
    CELL_COLUMNS,
    DIFFERENTIAL_COLUMNS,
    differential_row,
    encode_table,
)
from hemax_batch.results.slide_record import ScanFigures, SlideRecord
from hemax_batch.review.apply_corrections import PublishedResult, SlideReview
from hemax_batch.review.corrections import Correction
from hemax_batch.review.load_results import result_sha256
from hemax_batch.review.review_record import review_record
from hemax_batch.settings import FORMAT_VERSION
from hemax_batch.vocabulary import WHITE_NAMES

Floats = NDArray[np.float64]
Random = np.random.Generator

#: Classes that the simulated tool does not know, as weights of earlier versions.
UNKNOWN = ("variant_lymphocyte", "plasma_cell", "smudge")
#: What blood holds here: the tool's white classes, and one that only a person names.
BLOOD = (*(name for name in WHITE_NAMES if name not in UNKNOWN), "variant_lymphocyte")
#: How many of a hundred patients are of each kind, and their mean composition in per cent.
PATIENTS: dict[str, tuple[float, dict[str, float]]] = {
    "healthy": (
        52,
        {
            "band_neutrophil": 3,
            "segmented_neutrophil": 56,
            "lymphocyte": 30,
            "monocyte": 6.5,
            "eosinophil": 3,
            "basophil": 0.8,
            "variant_lymphocyte": 0.7,
        },
    ),
    "bacterial infection": (
        16,
        {
            "myelocyte": 1,
            "metamyelocyte": 2,
            "band_neutrophil": 15,
            "segmented_neutrophil": 66,
            "lymphocyte": 10,
            "monocyte": 5.5,
            "eosinophil": 0.4,
            "basophil": 0.1,
        },
    ),
    "viral infection": (
        12,
        {
            "band_neutrophil": 2,
            "segmented_neutrophil": 30,
            "lymphocyte": 50,
            "monocyte": 8,
            "eosinophil": 2,
            "basophil": 0.5,
            "variant_lymphocyte": 7.5,
        },
    ),
    "allergy": (
        10,
        {
            "band_neutrophil": 2,
            "segmented_neutrophil": 46,
            "lymphocyte": 28,
            "monocyte": 7,
            "eosinophil": 15.5,
            "basophil": 1.5,
        },
    ),
    "acute leukaemia": (
        10,
        {
            "blast": 45,
            "promyelocyte": 2,
            "band_neutrophil": 2,
            "segmented_neutrophil": 16,
            "lymphocyte": 30,
            "monocyte": 4,
            "eosinophil": 0.7,
            "basophil": 0.3,
        },
    ),
}
#: Who calls what by another name: (true class, class given) -> share of such cells.
#: The rest is called right.
TOOL = {
    ("band_neutrophil", "segmented_neutrophil"): 0.30,
    ("segmented_neutrophil", "band_neutrophil"): 0.02,
    ("metamyelocyte", "band_neutrophil"): 0.25,
    ("myelocyte", "metamyelocyte"): 0.15,
    ("blast", "lymphocyte"): 0.05,
    ("lymphocyte", "blast"): 0.002,
    ("monocyte", "lymphocyte"): 0.08,
    ("basophil", "lymphocyte"): 0.05,
    ("variant_lymphocyte", "lymphocyte"): 0.88,
    ("variant_lymphocyte", "monocyte"): 0.10,
    ("variant_lymphocyte", "blast"): 0.02,
}
FIRST = {
    ("band_neutrophil", "segmented_neutrophil"): 0.20,
    ("metamyelocyte", "band_neutrophil"): 0.15,
    ("monocyte", "lymphocyte"): 0.03,
    ("variant_lymphocyte", "lymphocyte"): 0.30,
    ("blast", "lymphocyte"): 0.02,
}
SECOND = {
    ("segmented_neutrophil", "band_neutrophil"): 0.05,
    ("metamyelocyte", "band_neutrophil"): 0.20,
    ("lymphocyte", "variant_lymphocyte"): 0.02,
    ("variant_lymphocyte", "lymphocyte"): 0.20,
    ("blast", "lymphocyte"): 0.02,
}
UNIDENTIFIED_SHARE = 0.03
CELLS_BY_HAND = 200
#: The laboratory's own stain: optical density of red cells and glass, as its scanners see them.
OWN_STAIN = {"red_cell_od": (0.095, 0.150, 0.100), "glass": (238.0, 232.0, 226.0)}
PATH_PATTERN = r"(?P<scanner>scanner [A-Z])/(?P<date>\d{4}-\d{2}-\d{2})/"
FIRST_NIGHT = date(2026, 1, 5)
BASELINE_NIGHTS, DRIFT_NIGHT, DRIFT_FACTOR = (
    35,
    60,
    1.05,
)  # from that night on scanner B's red cells are 5 % larger


@dataclass(frozen=True)
class Sizes:
    """How much is simulated."""

    slides: int = 60
    scanned_twice: int = 20
    reviewed: int = 12
    nights: int = 90
    per_night: int = 16  # over both scanners
    seed: int = 24


def confusion(errors: dict[tuple[str, str], float]) -> Floats:
    """The matrix of class given by true class, rows summing to 1."""
    matrix = np.eye(len(BLOOD))
    for (true, given), share in errors.items():
        i, j = BLOOD.index(true), BLOOD.index(given)
        matrix[i, j] += share
        matrix[i, i] -= share
    return np.maximum(matrix, 0.0)


def draw_patient(rng: Random) -> Floats:
    """The true composition of a patient's blood, as fractions of `BLOOD`."""
    weights = np.array([share for share, _ in PATIENTS.values()])
    _, mean = list(PATIENTS.values())[rng.choice(len(weights), p=weights / weights.sum())]
    centre = np.array([mean.get(name, 0.0) for name in BLOOD]) / 100
    drawn: Floats = rng.gamma(np.maximum(centre * 60, 1e-12))
    return np.asarray(drawn / drawn.sum())


def simulate_study(folder: Path, sizes: Sizes) -> dict[str, object]:
    """Manual counts, results, repeated scans and reviews of a verification; what `verify` is to
    find is returned.
    """
    rng = np.random.default_rng(sizes.seed)
    blood = np.array([draw_patient(rng) for _ in range(sizes.slides)])
    tool, first, second = (blood @ confusion(errors) for errors in (TOOL, FIRST, SECOND))
    slides, results = [f"S{i + 1:03}" for i in range(sizes.slides)], folder / "results"
    scans = [(slide, slide) for slide in slides] + [
        (s, f"{s}-again") for s in slides[: sizes.scanned_twice]
    ]
    for slide, result in scans:
        cells = int(rng.integers(250, 500))
        names = draw_cells(rng, tool[slides.index(slide)], cells)
        write_slide(results, result, f"/scans/scanner A/2026-01-02/{slide}.svs", names, rng)
    for i in range(sizes.reviewed):
        review_slide(results, slides[i], blood[i], rng)
    _write_rows(folder / "scans.csv", ("slide", "result"), scans)
    rows = []
    for slide, one, two in zip(slides, first, second, strict=True):
        for who, shares in (("examiner 1", one), ("examiner 2", two)):
            rows.append(
                (slide, who, CELLS_BY_HAND, *rng.multinomial(CELLS_BY_HAND, shares).tolist(), 0)
            )
    _write_rows(folder / "manual.csv", ("slide", "examiner", "cells", *BLOOD, "nrbc"), rows)
    return _study_truth(tool, first, second)


def _study_truth(tool: Floats, first: Floats, second: Floats) -> dict[str, object]:
    """The true mean difference of each class, tool - examiners and second - first, percentage
    points.
    """
    found: dict[str, object] = {"unidentified_share": UNIDENTIFIED_SHARE}
    for key, a, b in (("bias", (first + second) / 2, tool), ("examiners", first, second)):
        differences = dict(zip(BLOOD, (100 * (b - a).mean(axis=0)).tolist(), strict=True))
        sums = {
            "neutrophils": ("band_neutrophil", "segmented_neutrophil"),
            "lymphocytes": ("lymphocyte", "variant_lymphocyte"),
            "immature_granulocytes": ("promyelocyte", "myelocyte", "metamyelocyte"),
        }
        found[key] = differences | {
            name: sum(differences[m] for m in members) for name, members in sums.items()
        }
    return found


def draw_cells(rng: Random, shares: Floats, cells: int) -> list[str]:
    """So many cells as the tool calls them; a few are unidentified."""
    known = int(rng.binomial(cells, 1 - UNIDENTIFIED_SHARE))
    counts = rng.multinomial(known, shares)
    names = [name for name, k in zip(BLOOD, counts, strict=True) for _ in range(k)]
    return [*names, *["unidentified"] * (cells - known)]


def review_slide(root: Path, slide: str, blood: Floats, rng: Random) -> None:
    """A reviewer decides on every cell of a slide; what he says is drawn from what such a cell can
    truly be.
    """
    with open(root / slide / "cells.csv", newline="", encoding="utf-8") as file:
        before = {int(row["cell_id"]): row["class"] for row in csv.DictReader(file)}
    joint = blood[:, None] * confusion(TOOL)  # true class by class given
    after = {}
    for cell, name in before.items():
        odds = blood if name == "unidentified" else joint[:, BLOOD.index(name)]
        after[cell] = BLOOD[rng.choice(len(BLOOD), p=odds / odds.sum())]
    sha, now = result_sha256(root / slide), "2026-01-05T09:00:00+00:00"
    decisions = tuple(
        Correction(
            slide,
            sha,
            cell,
            name,
            after[cell],
            "approve" if after[cell] == name else "reclassify",
            "reviewer 1",
            now,
            1,
        )
        for cell, name in before.items()
    )
    published = PublishedResult(sha, before, frozenset(), 200, None, Rules(), {}, (), ())
    review = SlideReview(
        slide,
        "reviewer 1",
        decisions,
        published,
        after,
        published.count(before),
        published.count(after),
    )
    target = root / "reviews" / slide / sha[:16]
    target.mkdir(parents=True)
    rows = [[slide, str(i), before[i], after[i], "true"] for i in before]
    columns = ("slide", "cell_id", "class_before", "class_after", "reviewed")
    (target / "reviewer_1.cells.csv").write_bytes(encode_table(columns, rows))
    (target / "reviewer_1.json").write_text(json.dumps(review_record(review, now)), "utf-8")
    line = {
        "time": now,
        "reviewer": "reviewer 1",
        "decided": len(before),
        "reclassified": review.reclassified,
    }
    (root / "reviews" / slide / "trail.jsonl").write_text(json.dumps(line) + "\n", "utf-8")


def simulate_nights(root: Path, sizes: Sizes) -> dict[str, object]:
    """Nights of two scanners, each with a control slide; from one night on scanner B's red cells
    measure larger.
    """
    rng = np.random.default_rng([sizes.seed, 1])
    matrix, control = confusion(TOOL), draw_patient(rng)
    rows = []
    for k in range(sizes.nights):
        night = FIRST_NIGHT + timedelta(days=k)
        for scanner in "AB":
            drift = DRIFT_FACTOR if scanner == "B" and k >= DRIFT_NIGHT else 1.0
            shift = rng.normal(0, 0.004)  # this night's stain
            for i in range(-1, sizes.per_night // 2):
                slide = f"QC-{scanner}-{night}" if i < 0 else f"{night}-{scanner}{i:03}"
                blood = control if i < 0 else draw_patient(rng)
                diameter = (7.2 + rng.normal(0, 0.03 if i < 0 else 0.22)) * drift
                names = draw_cells(rng, blood @ matrix, 220)
                path = f"/scans/scanner {scanner}/{night}/{slide}.svs"
                rows.append(
                    write_slide(root, slide, path, names, rng, diameter, shift, with_cells=False)
                )
    (root / "differential.csv").write_bytes(encode_table(DIFFERENTIAL_COLUMNS, rows))
    baseline = [str(FIRST_NIGHT), str(FIRST_NIGHT + timedelta(days=BASELINE_NIGHTS - 1))]
    drift_from = str(FIRST_NIGHT + timedelta(days=DRIFT_NIGHT))
    return {
        "baseline": baseline,
        "drift": {"measure": "red_cell_diameter", "scanner": "scanner B", "from": drift_from},
    }


def write_slide(
    root: Path,
    slide: str,
    path: str,
    names: Sequence[str],
    rng: Random,
    diameter_um: float = 7.2,
    shift: float = 0.0,
    with_cells: bool = True,
) -> list[str]:
    """A slide's results, without its pictures and outlines; returns its row of
    `differential.csv`.
    """
    called = ["lymphocyte" if name == "variant_lymphocyte" else name for name in names]
    folder = root / slide
    folder.mkdir(parents=True)
    smear, audit = (
        _smear(rng, len(called), shift),
        estimate_missed(int(rng.poisson(0.05)), 0.1, 10.0),
    )
    figures = ScanFigures(10.0, 1.0, len(called) + 20, len(called) + 40, 0, 30, 0.1, audit.found)
    record = SlideRecord(
        FORMAT_VERSION,
        slide,
        path,
        50_000,
        40_000,
        0.25,
        "0" * 64,
        "0" * 64,
        "simulated",
        __version__,
        len(called),
        60,
        (),
        0.0,
        (),
        0,
        round(diameter_um, 4),
        400,
        figures,
        smear,
        audit,
    )
    (folder / "result.json").write_text(json.dumps(asdict(record), indent=1), "utf-8")
    differential = count_differential(called)
    row = differential_row(slide, path, differential, 0, ())
    if with_cells:
        _write_cells(folder, slide, path, called, differential, record, row)
    return row


def _write_cells(
    folder: Path,
    slide: str,
    path: str,
    called: Sequence[str],
    d: Differential,
    record: SlideRecord,
    row: list[str],
) -> None:
    """What `verify` and a review read besides: the differential, and a row for each cell that names
    its class.
    """
    empty = np.zeros(0)
    measures = CellMeasures(
        empty, empty, empty, empty, empty, empty, record.rbc_diameter_um, record.rbc_measured
    )
    write_differential(
        folder / "differential.json",
        slide,
        path,
        d,
        measures,
        0,
        (),
        record.smear,
        record.screen_audit,
        not_assessed(UNKNOWN),
    )
    (folder / "differential.csv").write_bytes(encode_table(DIFFERENTIAL_COLUMNS, [row]))
    (folder / "cells.csv").write_bytes(encode_table(CELL_COLUMNS, _cell_rows(slide, called)))


def _cell_rows(slide: str, called: Sequence[str]) -> Iterator[list[str]]:
    for i, name in enumerate(called, start=1):
        row = dict.fromkeys(CELL_COLUMNS, "") | {"slide": slide, "cell_id": str(i), "class": name}
        yield list(row.values())


def _smear(rng: Random, cells: int, shift: float) -> SmearAreas:
    """How a slide looks: the laboratory's own stain, this night's shift, and the slide's own
    variation.
    """
    red_cell = np.array(OWN_STAIN["red_cell_od"]) * np.exp(rng.normal(0, 0.03)) + shift
    glass = np.array(OWN_STAIN["glass"]) + rng.normal(0, 1.5) + rng.normal(0, 0.4, 3)
    colours = ("red", "green", "blue")
    stain = {f"background_{c}": round(float(v), 2) for c, v in zip(colours, glass, strict=True)}
    stain |= {
        f"red_cell_od_{c}": round(float(v), 4) for c, v in zip(colours, red_cell, strict=True)
    }
    return SmearAreas(
        "monolayer",
        "simulated",
        0,
        0,
        10.0,
        7.0,
        1.5,
        1.5,
        1.0,
        0.0,
        7.0,
        3.0,
        round(float(rng.normal(0.30, 0.03)), 4),
        int(rng.binomial(60, 0.01)),
        round(float(red_cell[1]), 4),
        round(float(rng.normal(0.8, 0.04) + 2 * shift), 4),
        **stain,
        unfamiliar_cells=int(rng.binomial(cells, 0.02)),
    )


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.write_bytes(encode_table(columns, [[str(value) for value in row] for row in rows]))


def simulate(folder: Path, sizes: Sizes, only_nights: bool = False) -> None:
    """All of it into a new folder, with truth.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, object] = {"simulated": True}
    if not only_nights:
        truth["study"] = simulate_study(folder, sizes)
    truth["nights"] = simulate_nights(folder / "nights", sizes)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", "utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nights", type=int, default=Sizes.nights)
    parser.add_argument("--per-night", type=int, default=Sizes.per_night)
    parser.add_argument("--seed", type=int, default=Sizes.seed)
    parser.add_argument("--only-nights", action="store_true")
    given = parser.parse_args()
    sizes = Sizes(nights=given.nights, per_night=given.per_night, seed=given.seed)
    simulate(given.folder, sizes, given.only_nights)


if __name__ == "__main__":
    main()
