"""The model card, written from a checkpoint's own metadata so that it cannot say anything else."""

from __future__ import annotations

import csv
from pathlib import Path

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
    "synthetic": "synthetic fields drawn by hemax_batch.synthetic (not real)",
}

_CARD = """\
# Model card: {name}

**{claim}.** No clearance is held or implied.
{warning}
Architecture `{card.arch}`, {card.mpp} µm/px, patches of {card.patch_px} px. SHA-256 `{card.sha256}`.

## How it was trained

{commands}

{lengths}, on {trained[hardware]}. {averaged}{stain}{tint}

## On what

{sources}
{apart}
Masks where nobody drew any: the half-trained network's own, kept where their extent agrees with the human box (IoU at
least 0.85), or, without a box, where place and size are a cell's; where somebody judged the nuclear:cytoplasmic ratio, on
the side judged. Kept: {pseudo}.
{teacher}
## What it reached

On images that it was not trained on (split `val`), each cell in a patch centred on it; a cell not found counts as
wrong. Intervals: 95 %, bootstrap over cells. The split is by image, not by patient: another laboratory's stain will
do worse.

| figure | value | 95 % interval | n |
| --- | --- | --- | --- |
{figures}

## What it is not for

- Any decision about a patient without review by a qualified morphologist.
- Blasts were taught from bone marrow only: blasts in blood, and how far the stain gives them away, are untested.
- Attributes were taught on mature cells (and synthetic ones); on immature cells they are extrapolation.
- Nuclei that granules hide, as basophils' are: of their size only low or high ratios, as people judged them, were taught.
- Smudge cells, variant lymphocytes, plasma cells, parasites, platelet clumps: not taught, not assessed.
"""


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
    """Markdown: what it is, how it was trained, on what, what it reached, what it is not for."""
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
        tint=_CYTOPLASM_COLOUR if ARCHITECTURES[card.arch].cytoplasm_colour_head else "",
        sources="\n".join(
            f"- {n} images: {SOURCES.get(source, source)}"
            for source, n in trained["images"].items()
        ),
        apart=_exclusions_text(trained),
        pseudo=", ".join(f"{source} {share}" for source, share in trained["pseudo_masks"].items())
        or "none",
        teacher=_teacher(trained),
        figures="\n".join(_figure_row(*row) for row in flatten_report(card.metrics)),
    )
    path.write_text(text, encoding="utf-8")


def _training_lengths(trained: dict) -> list[str]:
    before = _training_lengths(trained["before"]) if trained.get("before") else []
    return [
        *before,
        f"seed {trained['seed']}, {trained['steps']} steps of {trained['batch']} patches, {trained['minutes']} minutes",
    ]


def _commands(trained: dict) -> list[str]:
    """The commands that made the weights, in their order."""
    before = _commands(trained["before"]) if trained.get("before") else []
    files = " ".join(entry["file"] for entry in trained.get("averaged", []))
    return [
        *before,
        trained["command"],
        *([f"hemax-batch models average {files} --out hemax-s.safetensors"] if files else []),
    ]


def _stain(trained: dict) -> str:
    """How widely trainings that do not say so varied stains: `--stain` came later; "" where all say it."""
    silent = any(
        " train " in command and "--stain" not in command for command in _commands(trained)
    )
    return "Commands without `--stain` varied stains as `--stain 1` does." if silent else ""


def _teacher(trained: dict, stage: str = "the last") -> str:
    """Whose masks and types the latest stage with a teacher learnt; "" where none had one."""
    if sha256 := trained["recipe"].get("teacher"):
        return _TEACHER.format(stage=stage, sha256=sha256[:12])
    return _teacher(trained["before"], "an earlier") if trained.get("before") else ""


def _exclusions_text(trained: dict) -> str:
    """What was kept out of the lessons, a paragraph each; "" where nothing was."""
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


def _averaged(trained: dict) -> str:
    """Which weights were averaged, by the start of their SHA-256; "" where none were."""
    names = [f"{entry['file']} ({entry['sha256'][:12]}…)" for entry in trained.get("averaged", [])]
    return f"Then the mean of {', '.join(names)}." if names else ""


def _figure_row(name: str, value: float, low: float, high: float, n: int) -> str:
    limits = f"{low:.4f}–{high:.4f} | {n}" if n else "– | –"
    return f"| {name} | {value:.4f} | {limits} |"


def write_figures(report: dict, path: Path) -> None:
    """All figures as CSV: name, value, low, high, n."""
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["figure", "value", "low", "high", "n"])
        writer.writerows(flatten_report(report))
