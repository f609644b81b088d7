"""The model card, written from a checkpoint's own metadata only."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...model.checkpoint import WeightsCard, labels_were_shuffled
from ...model.hemax import ARCHITECTURES
from ...vocabulary import CLAIM
from .metrics import flatten_report

SOURCES = {
    "PBC": "PBC, Acevedo et al. 2020 (CC BY 4.0); boxes, White Blood Cell Detection Dataset (CC BY 4.0); "
    "attributes, WBCAtt, Tsutsui et al. 2023 (MIT)",
    "marrow": "Bone-marrow cytomorphology, Matek et al. 2021, TCIA AXH3-T579 (CC BY 4.0)",
    "Raabin-WBC": "TXL-PBC v2 (MIT), its Raabin-WBC pictures",
    "BCCD": "TXL-PBC v2 (MIT), its BCCD pictures; cell types from BCCD (MIT)",
    "BCDD": "TXL-PBC v2 (MIT), its BCDD pictures",
    "zheng1": "Zheng et al. 2018, set 1, with expert masks (its repository is GPL-3)",
    "zheng2": "Zheng et al. 2018, set 2, with expert masks (its repository is GPL-3)",
    "chula": "Chula RBC-12 (MIT), fields of red cells only: nothing to be found there",
    "apl": "Blood of patients with acute leukaemia, Sidhom et al. 2021 (© 2020 The Johns Hopkins University; published "
    "with the paper for others to work with, no licence text)",
    "synthetic": "synthetic fields drawn by hemax_batch.synthetic (not real)",
}

#: Sources without a licence that allows any use. The card names them.
WITHOUT_LICENCE = ("apl",)

_CARD = """\
# Model card: {name}

**{claim}.** No clearance is held or implied.
{warning}
Architecture `{card.arch}`, {card.mpp} µm/px, patches of {card.patch_px} px. SHA-256 `{card.sha256}`.

## What it was taught

{commands}

{lengths}, on {trained[hardware]}. {averaged}{stain}{tint}
{notes}
{sources}
{licence}{apart}
Masks that nobody drew come from the half-trained network. They are kept where they agree with the
human box (IoU at least 0.85), or where place and size are a cell's. Kept: {pseudo}.
{teacher}
## What it reaches

Split `val`, which it never learnt. Each cell lies in the middle of a patch. A cell that is not found
counts as wrong. Intervals are 95 %: over patients for the rows "by patient", over cells elsewhere.
All figures are in `{figures_name}`.

| figure | value | 95 % interval | n | majority baseline |
| --- | --- | --- | --- | --- |
{figures}

## What it cannot do

- It decides nothing about a patient. A qualified morphologist reviews every result.
- Only `apl` knows its patients. All other sources are split by picture, so another laboratory does worse.
- Attributes are taught on mature cells and on synthetic ones. On immature cells they are extrapolation.
- Granules hide the nucleus of basophils. Only a low or high N:C was taught for them.
- Parasites, platelet clumps and red-cell shapes are not assessed.
- Cells that are unlike everything known can still get a confident class.
"""

#: Rows of the card: where each figure stands in the report, and its words.
_HEADLINES = (
    ("by patient / seven trusted classes, right", "by patient (leukaemia), seven classes, right"),
    ("by patient / seven trusted classes, balanced", "the same, balanced"),
    (
        "by patient / seven trusted classes, right of the surest 60 %",
        "the same, of the surest 60 %",
    ),
    ("by patient / classes with 15 cells or more, balanced", "by patient, all classes, balanced"),
    (
        "by patient / blast, equivalent or promyelocyte, sensitivity",
        "by patient, blast or promyelocyte, sensitivity",
    ),
    (
        "by patient / blast, equivalent or promyelocyte, specificity",
        "by patient, blast or promyelocyte, specificity",
    ),
    ("all / classes / accuracy", "all sources, class right"),
    ("all / classes / balanced accuracy", "all sources, class balanced"),
    ("all / five mature types / accuracy", "all sources, five mature types"),
    ("by source / PBC / classes / accuracy", "PBC, class right"),
    ("by source / marrow / classes / accuracy", "bone marrow, class right"),
    ("all / recall", "white cells found (IoU at least 0.5)"),
    ("all / jaccard", "Jaccard index of boxes"),
    ("all / masks / nucleus dice", "nucleus Dice"),
    ("all / masks / cell dice", "whole-cell Dice"),
    ("all / masks / nucleus/cell nmse", "N:C (nucleus/cell), NMSE"),
    ("all / attributes / granularity / accuracy", "granularity"),
    ("all / attributes / cytoplasm_colour / accuracy", "cytoplasm colour"),
    ("all / attributes / nucleus_shape / accuracy", "nucleus shape"),
    ("all / attributes / size_vs_rbc / accuracy", "size against red cells"),
)


_CYTOPLASM_COLOUR = """
Cytoplasm colour is read from the colours of the cell's nucleus, cytoplasm and surroundings alone, by a layer fitted after the last step."""

_TEACHER = """
In {stage} stage these masks, and the types of cells whose label leaves them open (where at least 0.8 of what the label
allows is one type), were those of earlier weights, SHA-256 `{sha256}…`: a network's labels, not people's.
"""

_SHUFFLED = """
**A control, not for use: its labels were shuffled in training, and its classes and attributes mean nothing.**
"""


def write_card(card: WeightsCard, path: Path) -> None:
    """Write the card as Markdown, and all metrics as JSON beside it."""
    trained = card.trained
    text = _CARD.format(
        name=Path(card.path).name,
        claim=f"{CLAIM[0].upper()}{CLAIM[1:]}",
        warning=_SHUFFLED if labels_were_shuffled(trained) else "",
        card=card,
        trained=trained,
        commands="\n".join(f"    {command}" for command in _commands(trained)),
        lengths="; ".join(_training_lengths(trained)),
        averaged=_averaged(trained),
        stain=_stain(trained),
        notes="".join(f"\n{note}\n" for note in _notes(trained)),
        tint=_CYTOPLASM_COLOUR if ARCHITECTURES[card.arch].cytoplasm_colour_head else "",
        sources="\n".join(
            f"- {n} images: {SOURCES.get(source, source)}"
            for source, n in trained["images"].items()
        ),
        apart=_exclusions_text(trained),
        pseudo=", ".join(f"{source} {share}" for source, share in trained["pseudo_masks"].items())
        or "none",
        teacher=_teacher(trained),
        licence=_licence_text(trained["images"]),
        figures_name=figures_path(path).name,
        figures="\n".join(_headline_rows(card.metrics)),
    )
    path.write_text(text, encoding="utf-8")
    figures_path(path).write_text(
        json.dumps(card.metrics, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


def figures_path(card_path: Path) -> Path:
    """Return the path of the JSON of all figures, beside the card."""
    return card_path.with_suffix(".metrics.json")


def _licence_text(sources: Iterable[str]) -> str:
    """Name the sources without a licence; "" if all have one."""
    named = [source for source in sources if source in WITHOUT_LICENCE]
    if not named:
        return ""
    options = " ".join(f"--leave-out {source}" for source in named)
    return (
        f"\nNo licence text came with: {', '.join(named)}. `hemax-batch train DATA {options}` makes "
        "weights without it.\n"
    )


def _headline_rows(metrics: dict[str, Any]) -> list[str]:
    """Return the card's table: the headline figures that the report has."""
    rows = {row[0]: row for row in flatten_report(metrics)}
    lines = []
    for name, words in _HEADLINES:
        if name in rows:
            _, value, low, high, n = rows[name]
            baseline = rows.get(name.rsplit(" / ", 1)[0] + " / majority baseline")
            shown = f"{baseline[1]:.3f}" if baseline and "recall" not in name else "–"
            limits = f"{low:.3f}–{high:.3f} | {n}" if n else "– | –"
            lines.append(f"| {words} | {value:.3f} | {limits} | {shown} |")
    return lines


def _training_lengths(trained: dict[str, Any]) -> list[str]:
    """Return seed, steps and minutes of all trainings."""
    before = _training_lengths(trained["before"]) if trained.get("before") else []
    return [
        *before,
        f"seed {trained['seed']}, {trained['steps']} steps of {trained['batch']} patches, {trained['minutes']} minutes",
    ]


def _notes(trained: dict[str, Any]) -> list[str]:
    """Return what departs from the commands, earliest training first."""
    before = _notes(trained["before"]) if trained.get("before") else []
    return [*before, *([trained["note"]] if trained.get("note") else [])]


def _commands(trained: dict[str, Any]) -> list[str]:
    """Return the commands that made the weights, in order."""
    before = _commands(trained["before"]) if trained.get("before") else []
    files = " ".join(entry["file"] for entry in trained.get("averaged", []))
    return [
        *before,
        trained["command"],
        *([f"hemax-batch models average {files} --out hemax-s.safetensors"] if files else []),
    ]


def _stain(trained: dict[str, Any]) -> str:
    """Explain commands without `--stain`, an option that came later; "" if all have it."""
    silent = any(
        " train " in command and "--stain" not in command for command in _commands(trained)
    )
    return "Commands without `--stain` varied stains as `--stain 1` does." if silent else ""


def _teacher(trained: dict[str, Any], stage: str = "the last") -> str:
    """Describe the teacher of the latest stage that had one; "" for none."""
    if sha256 := trained["recipe"].get("teacher"):
        return _TEACHER.format(stage=stage, sha256=sha256[:12])
    return _teacher(trained["before"], "an earlier") if trained.get("before") else ""


def _exclusions_text(trained: dict[str, Any]) -> str:
    """Describe the images left out of training, one paragraph each; "" for none."""
    paragraphs = []
    if left_out := trained.get("left_out"):
        each = [
            f"{source} ({n['images']} images, {n['copies']} copies of them elsewhere)"
            for source, n in left_out.items()
        ]
        paragraphs.append(f"Left out of training entirely: {', '.join(each)}.")
    if early := trained.get("early_stopping"):
        paragraphs.append(
            f"Kept out to check on, every {early['check_every']} steps: {early['checked_on']} images of split `train`. The "
            f"weights are the average of step {early['best_step']}, the best on them ({early['best']:.4f}: share of "
            "cells called right, each weighed by its box's IoU)."
        )
    return "".join(f"\n{paragraph}\n" for paragraph in paragraphs)


def _averaged(trained: dict[str, Any]) -> str:
    """List the averaged weights with the start of their SHA-256; "" for none."""
    names = [f"{entry['file']} ({entry['sha256'][:12]}…)" for entry in trained.get("averaged", [])]
    return f"Then the mean of {', '.join(names)}." if names else ""


def write_figures(report: dict[str, Any], path: Path) -> None:
    """Write all metrics as CSV: name, value, low, high, n."""
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["figure", "value", "low", "high", "n"])
        writer.writerows(flatten_report(report))
