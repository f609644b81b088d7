"""The offline page `faithfulness.html`: the results of the tests in plain words.

It shows the user's own images, so it is not for publishing.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from ...model.checkpoint import WeightsCard
from ...model.predictor import Predictor
from ...records import PICTURE_UM
from ...vocabulary import ATTRIBUTES, CLAIM
from .concept_path import CLINICIANS
from .faithfulness import CONTROL, intervene_on_cell, signed_change
from .interventions import INTERVENTIONS, Intervention
from .metrics import flatten_report
from .occlusion import BASELINE, REGIONS
from .probe_cells import CellPrediction, ProbeCell

#: Cells shown for each intervention: the first suitable ones.
EXAMPLES = 3
#: Rate of right directions of an explanation that ignores the image.
BY_CHANCE = 0.5
#: Least share of other attributes that keep their state: of five, at most one may change.
MIN_OTHERS_STAY = 0.8
#: Below this number of cells there is no verdict.
MIN_CELLS = 20
#: Least agreement with the direct class of an explanation that holds what the decision needs.
MIN_AGREEMENT = 0.9
#: Size of the drawn curves.
PLOT_HEIGHT, LINE_HEIGHT = 220, 15


@dataclass(frozen=True)
class Verdict:
    """One line of the summary; `passed` is None if too few cells were suitable."""

    passed: bool | None
    words: str


@dataclass(frozen=True)
class PicturePair:
    """A cell before and after as data URIs, with both probabilities.

    `right` says whether the change is in the right direction.
    """

    before: str
    after: str
    said_before: str
    said_after: str
    right: bool


@dataclass(frozen=True)
class CurveLabel:
    """Name of a curve and its vertical position in the drawing."""

    name: str
    y: float


@dataclass(frozen=True)
class InterventionSection:
    """One intervention: metrics of the network and of its control, verdict and images."""

    intervention: Intervention
    asked: str
    found: dict[str, Any]
    control: dict[str, Any] | None
    verdict: Verdict
    pairs: tuple[PicturePair, ...]


def write_faithfulness_page(
    path: Path, predictor: Predictor, report: dict[str, Any], cells: list[ProbeCell]
) -> None:
    """Write the page of a report; `cells` are the tested cells, for the images."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("hemax_batch.learning.evaluation"), PackageLoader("hemax_batch.review")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [
        _intervention_section(predictor, report, cells, i)
        for i in INTERVENTIONS
        if i.name in report["interventions"]
    ]
    card: WeightsCard = predictor.card
    page = environment.get_template("faithfulness.html.j2").render(
        claim=CLAIM,
        card=card,
        weights=Path(card.path).name,
        cells=report["cells"],
        shown=shown,
        verdicts=verdicts(report),
        occlusion=[t for t in ("deletion", "insertion") if report.get(t)],
        report=report,
        ends={
            test: _curve_labels(report[test])
            for test in ("deletion", "insertion")
            if report.get(test)
        },
        concepts=report["concept path"],
        clinicians=CLINICIANS,
        words_of=_attribute_words,
        rows=flatten_report(report),
        by_chance=BY_CHANCE,
        least_stay=MIN_OTHERS_STAY,
    )
    path.write_text(page, encoding="utf-8")


def verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Return what passes and what fails, one sentence each."""
    controls = report[CONTROL]
    out = [_of_intervention(name, report["interventions"]) for name in report["interventions"]]
    lucky = [
        name
        for name, c in controls.items()
        if _moves(c) and _stays(c) and not _moves_regardless(name, controls)
    ]
    out.append(
        Verdict(
            not lucky,
            f"Control: heads of random weights pass {len(lucky)} of {len(controls)} interventions"
            f"{': ' + ', '.join(lucky) if lucky else ', as they must'}.",
        )
    )
    out += [
        v
        for test in ("deletion", "insertion")
        if (v := _of_occlusion(test, report.get(test) or {}))
    ]
    return out + _of_concepts(report["concept path"])


def _stays(found: dict[str, Any]) -> bool:
    """Return whether enough other attributes keep their state."""
    return bool(found["others stay"]["value"] >= MIN_OTHERS_STAY)


def _moves(found: dict[str, Any]) -> bool:
    """Return whether the attribute moves in the right direction more often than by chance."""
    return bool(found["moves the right way"]["low"] > BY_CHANCE)


def _moves_regardless(name: str, interventions: dict[str, Any]) -> bool:
    """Return whether the opposite change, on enough cells, does not move the attribute back.

    A network trained on shuffled labels may react to any change in the same direction. It is then
    right for one of two opposite changes.
    """
    opposite = [
        f
        for n, f in interventions.items()
        if n != name and f["attribute"] == interventions[name]["attribute"]
    ]
    return any(f["moves the right way"]["n"] >= MIN_CELLS and not _moves(f) for f in opposite)


def _of_intervention(name: str, interventions: dict[str, Any]) -> Verdict:
    """Return the verdict on an intervention."""
    found = interventions[name]
    right = found["moves the right way"]
    words = (
        f"{name[0].upper()}{name[1:]}: {_attribute_words(found['attribute'])} moves the right way in "
        f"{right['value']:.0%} of {right['n']} cells (95 % interval {right['low']:.0%} to {right['high']:.0%}), "
        f"{found['others stay']['value']:.0%} of the other attributes keep their state"
    )
    if right["n"] < MIN_CELLS:
        return Verdict(None, f"{words}; fewer than {MIN_CELLS} cells: too few to say.")
    if not _moves(found):
        return Verdict(False, f"{words}; no better than chance.")
    if _moves_regardless(name, interventions):
        return Verdict(False, f"{words}; but the opposite change does not move it back.")
    if not _stays(found):
        return Verdict(False, f"{words}; too many others change with it.")
    return Verdict(True, f"{words}.")


def _of_occlusion(test: str, found: dict[str, Any]) -> Verdict | None:
    """Return whether the nucleus counts for more than as many pixels anywhere."""
    more = found.get(f"nucleus, more than {BASELINE}")
    if more is None:
        return None
    what = "falls" if test == "deletion" else "rises"
    done = "taken away from" if test == "deletion" else "given back to"
    words = (
        f"{test.capitalize()}: with pixels {done} the nucleus the class's probability {what} by {more['value']:+.2f} "
        f"({more['low']:+.2f} to {more['high']:+.2f}) more than with as many anywhere ({more['n']} cells)"
    )
    if more["n"] < MIN_CELLS:
        return Verdict(None, f"{words}; too few cells to say.")
    return Verdict(more["low"] > 0, f"{words}.")


def _of_concepts(found: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on the concept path."""
    agree, ours, shuffled = (
        found[k]
        for k in ("agrees with the direct class", "accuracy", "accuracy, labels shuffled (control)")
    )
    out = [
        Verdict(
            agree["value"] >= MIN_AGREEMENT,
            f"The class predicted from the explanation alone is the network's own in {agree['value']:.0%} of cells, and "
            f"right in {ours['value']:.0%} ({found['direct accuracy']['value']:.0%} directly): "
            + (
                "the explanation holds what the decision needs."
                if agree["value"] >= MIN_AGREEMENT
                else "the decision rests on more than the explanation says."
            ),
        ),
        Verdict(
            shuffled["high"] < ours["low"],
            f"Control: fitted to shuffled labels it is right in {shuffled['value']:.0%}.",
        ),
    ]
    if rank := found["rank correlation with clinicians"]:
        out.append(
            Verdict(
                rank["rho"] > 0 and rank["p"] < 0.05,
                f"What each attribute is worth for a class ranks with what "
                f"clinicians rely on: Spearman's rho {rank['rho']:+.2f} (p {rank['p']:.2g}, {rank['pairs']} pairs).",
            )
        )
    return out


def _intervention_section(
    predictor: Predictor, report: dict[str, Any], cells: list[ProbeCell], intervention: Intervention
) -> InterventionSection:
    """Make the section of an intervention."""
    pairs = []
    for k, cell in enumerate(cells):
        result = intervene_on_cell(
            predictor, predictor, cell, intervention, np.random.default_rng([0, k])
        )
        if result is not None:
            before, after, changed = result
            pairs.append(
                PicturePair(
                    _picture(cell.pixels, predictor.card.mpp),
                    _picture(changed, predictor.card.mpp),
                    _asked_probability(before, intervention),
                    _asked_probability(after, intervention),
                    signed_change(before, after, intervention) > 0,
                )
            )
        if len(pairs) == EXAMPLES:
            break
    found = report["interventions"][intervention.name]
    asked = " or ".join(_state_words(intervention)) or ("higher" if intervention.up else "lower")
    return InterventionSection(
        intervention,
        f"{_attribute_words(intervention.attribute)}: {asked}",
        found,
        report[CONTROL].get(intervention.name),
        _of_intervention(intervention.name, report["interventions"]),
        tuple(pairs),
    )


def _curve_labels(curves: dict[str, Any]) -> list[CurveLabel]:
    """Place the curves' names beside their ends without overlap."""
    out: list[CurveLabel] = []
    for name in sorted((*REGIONS, BASELINE), key=lambda n: -curves[n]["curve"][-1]):
        y = PLOT_HEIGHT * (1 - curves[name]["curve"][-1])
        out.append(CurveLabel(name, max(y, out[-1].y + LINE_HEIGHT) if out else y))
    return out


def _attribute_words(attribute: str) -> str:
    """Return an attribute's words."""
    return {"size_vs_rbc": "size", "nucleus_fraction": "nucleus/cell"}.get(
        attribute, attribute.replace("_", " ")
    )


def _state_words(intervention: Intervention) -> list[str]:
    """Return the words of an intervention's states."""
    found = next((a for a in ATTRIBUTES if a.name == intervention.attribute), None)
    return [found.words[found.states.index(s)] for s in intervention.states] if found else []


def _asked_probability(prediction: CellPrediction, intervention: Intervention) -> str:
    """Format the probability, or the area fraction, of an intervention's states."""
    return f"{prediction.probability(intervention.attribute, intervention.states):.2f}"


def _picture(pixels: np.ndarray, mpp: float) -> str:
    """Return the centre of a patch, PICTURE_UM per side, as a data URI."""
    half, middle = round(PICTURE_UM / mpp / 2), len(pixels) // 2
    buffer = io.BytesIO()
    part = np.s_[max(middle - half, 0) : middle + half]
    Image.fromarray(pixels[part, part]).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
