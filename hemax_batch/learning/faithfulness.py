"""Does the explanation say what the network sees? Four tests on real cells, each with a control that must fail.

interventions   a picture is changed in one attribute (`interventions`): the share of cells where that attribute moves
                the right way, and where the others keep their state
deletion        pixels of nucleus, cytoplasm or background are taken away in steps, against as many pixels taken at
                random: how far the class's probability falls
concept path    the class predicted from the explanation alone (multinomial logistic regression on the attributes'
                probabilities, nucleus/cell and size, fitted on other cells), its agreement with the direct class, and
                what is lost when one attribute is blanked, against how much clinicians rely on it
control         the same network with heads of random weights: its explanations must not pass

Regions are the network's own masks. Intervals: 95 %, bootstrap over cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..cells.measure import measure
from ..geometry import centres
from ..records import PatchBatch, unpack_mask
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES, attribute_slices
from .dataset import Example
from .figures import interval
from .interventions import INTERVENTIONS, Intervention
from .sampler import PatchSampler

SATURATED = 0.9  # a probability already this high (or low) cannot be asked to rise (or fall)
STEPS = 5  # of deletion
NEAR_UM = 5.0  # from the patch's middle, the cell that is meant
#: How much clinicians rely on an attribute for a class (0-2; arXiv 2407.06600).
CLINICIANS = {
    "basophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "eosinophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "segmented_neutrophil": {"granularity": 2, "nucleus_shape": 2, "cytoplasm_colour": 0, "size_vs_rbc": 0,
                             "nucleus_fraction": 0},
    **{name: {"nucleus_shape": 2, "cytoplasm_colour": 2, "size_vs_rbc": 1, "nucleus_fraction": 1, "granularity": 1}
       for name in ("lymphocyte", "monocyte")},
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What the network says of the cell in a patch's middle. `label` uint8 [S, S] is its mask in the patch."""

    class_probs: np.ndarray
    attribute_probs: np.ndarray
    nucleus_fraction: float
    diameter_um: float
    label: np.ndarray

    def of(self, attribute: str, states: tuple[str, ...]) -> float:
        """The probability of any of `states`, or the nucleus/cell fraction."""
        if attribute == "nucleus_fraction":
            return self.nucleus_fraction
        part = self.attribute_probs[attribute_slices()[attribute]]
        names = next(a.states for a in ATTRIBUTES if a.name == attribute)
        return float(sum(part[names.index(s)] for s in states))

    def states(self) -> dict[str, int]:
        """The likeliest state of each attribute."""
        return {name: int(self.attribute_probs[part].argmax()) for name, part in attribute_slices().items()}


@dataclass(frozen=True)
class Subject:
    """A real cell in the middle of a patch uint8 [S, S, 3], with its label and what is said of it."""

    source: str
    allowed: tuple[str, ...]
    pixels: np.ndarray
    said: Said


def say_of(predictor, pixels: np.ndarray) -> Said | None:
    """The cell nearest the middle of a patch uint8 [S, S, 3]; None where there is none within NEAR_UM."""
    size, mpp = len(pixels), predictor.card.mpp
    cells = predictor(
        PatchBatch(pixels.transpose(2, 0, 1)[None].copy(), np.zeros((1, 2)), 1.0), mpp, (size, size)
    ).cells
    if not len(cells):
        return None
    away = np.hypot(*(centres(cells.boxes_xyxy) - size / 2).T) * mpp
    k = int(away.argmin())
    if away[k] > NEAR_UM:
        return None
    label = np.zeros((size, size), np.uint8)
    (x, y), (h, w) = cells.mask_xy[k], cells.mask_hw[k]
    label[y : y + h, x : x + w] = unpack_mask(cells.masks[k], cells.mask_hw[k])
    one = measure(cells.take([k]), mpp, np.zeros(0))
    return Said(
        cells.class_probs[k], cells.attribute_probs[k], float(np.nan_to_num(one.nucleus_fraction[0])),
        float(one.diameter_um[0]), label,
    )  # fmt: skip


def subjects(predictor, examples: list[Example], limit: int, seed: int = 0) -> list[Subject]:
    """Up to `limit` white cells of known type, drawn evenly over their types, each as the tool would see it."""
    rng = np.random.default_rng(seed)
    typed = [i for i, e in enumerate(examples) if len(e.cells) == 1 and e.cells[0].allowed[0] in WHITE_NAMES
             and e.cells[0].allowed != WHITE_NAMES]  # fmt: skip
    by_type: dict[tuple, list[int]] = {}
    for i in rng.permutation(typed).tolist():
        by_type.setdefault(examples[i].cells[0].allowed, []).append(i)
    turns = [i for turn in range(limit) for members in by_type.values() for i in members[turn : turn + 1]]
    sampler, out = PatchSampler(examples, predictor.card.mpp), []
    for i in turns[:limit]:
        pixels = sampler.centred(i, predictor.card.patch_px)[0].transpose(1, 2, 0)
        said = say_of(predictor, pixels)
        if said is not None and (said.label == 2).any():
            out.append(Subject(examples[i].source, examples[i].cells[0].allowed, pixels, said))
    return out


def intervene(predictor, cells: list[Subject], control=None, seed: int = 0) -> dict:
    """Each intervention's rates. `control`: a network whose explanation is asked instead, on the same pictures."""
    asked, out = control or predictor, {}
    for intervention in INTERVENTIONS:
        if control and intervention.attribute == "nucleus_fraction":
            continue  # it is measured from the masks, which the control has from the real network
        rises, stayed = [], []
        for k, cell in enumerate(cells):
            if (told := _told(asked, predictor, cell, intervention, np.random.default_rng([seed, k]))) is not None:
                rises.append(told[0])
                stayed += told[1]
        if rises:
            out[intervention.name] = {
                "attribute": intervention.attribute,
                "moves the right way": interval((np.array(rises) > 0).astype(float)),
                "mean change": interval(np.array(rises)),
                "others stay": interval(np.array(stayed, float)),
            }
    return out


def _told(asked, predictor, cell: Subject, intervention: Intervention, rng) -> tuple[float, list[bool]] | None:
    """(change in the right direction, each other attribute kept its state); None where the cell is not fit for it or is no longer seen."""
    before = cell.said if asked is predictor else say_of(asked, cell.pixels)
    if before is None:
        return None
    was = before.of(intervention.attribute, intervention.states)
    if (intervention.up and was > SATURATED) or (not intervention.up and was < 1 - SATURATED):
        return None
    changed = intervention.change(cell.pixels, cell.said.label, predictor.card.mpp, rng)
    after = None if changed is None else say_of(asked, changed)
    if after is None:
        return None
    rise = after.of(intervention.attribute, intervention.states) - was
    kept, now = before.states(), after.states()
    others = [kept[name] == now[name] for name in kept if name != intervention.attribute]
    return rise if intervention.up else -rise, others


def delete(predictor, cells: list[Subject], seed: int = 0) -> dict:
    """Mean probability of the cell's own class, over STEPS equal deletions, by what is deleted (lower: relied on more).

    Every kind deletes the same number of pixels: those of the smallest of the three regions.
    """
    rng, curves = np.random.default_rng(seed), {}
    for cell in cells:
        regions = {
            "nucleus": cell.said.label == 2,
            "cytoplasm": cell.said.label == 1,
            "background": cell.said.label == 0,
        }
        count = min(int(r.sum()) for r in regions.values())
        if count < 200:
            continue
        own = int(cell.said.class_probs.argmax())
        fill = np.percentile(cell.pixels.reshape(-1, 3), 90, axis=0).astype(np.uint8)
        for name, region in {**regions, "at random": np.ones_like(regions["nucleus"])}.items():
            order = rng.permutation(np.flatnonzero(region))[:count]
            curve = []
            for step in range(1, STEPS + 1):
                pixels = cell.pixels.copy()
                pixels.reshape(-1, 3)[order[: count * step // STEPS]] = fill
                said = say_of(predictor, pixels)
                curve.append(0.0 if said is None else float(said.class_probs[own]))
            curves.setdefault(name, []).append(np.mean(curve))
    return {name: interval(np.array(values)) for name, values in curves.items()}


def concept_path(learnt: list[Subject], held_out: list[Subject]) -> dict:
    """The class from the explanation alone: accuracy, agreement with the direct class, and what each attribute is worth.

    Fitted to the true classes of `learnt`, measured on `held_out`. An attribute is blanked by its mean over `learnt`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(_concepts(learnt))
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(_concepts(learnt)), [c.allowed[0] for c in learnt])
    x = scaler.transform(_concepts(held_out))
    said = model.predict(x)
    direct = np.array([CLASS_NAMES[int(c.said.class_probs.argmax())] for c in held_out])
    right = np.array([s in c.allowed for s, c in zip(said, held_out, strict=True)], float)
    out = {
        "cells": len(held_out),
        "accuracy": interval(right),
        "direct accuracy": interval(np.array([d in c.allowed for d, c in zip(direct, held_out, strict=True)], float)),
        "agrees with the direct class": interval((said == direct).astype(float)),
        "lost when blanked": {},
    }
    drops: dict[str, np.ndarray] = {}
    for name, columns in _columns().items():
        blank = x.copy()
        blank[:, columns] = 0.0
        drops[name] = right - np.array([s in c.allowed for s, c in zip(model.predict(blank), held_out, strict=True)])
        out["lost when blanked"][name] = interval(drops[name])
    out["rank correlation with clinicians"] = _against_clinicians(drops, held_out)
    return out


def _against_clinicians(drops: dict[str, np.ndarray], cells: list[Subject]) -> dict:
    """Spearman's rank correlation, over attribute and class, of the loss with what clinicians say they rely on."""
    theirs, ours = [], []
    for name, weights in CLINICIANS.items():
        rows = [i for i, c in enumerate(cells) if c.allowed == (name,)]
        if len(rows) >= 5:
            for attribute, weight in weights.items():
                theirs.append(weight)
                ours.append(float(drops[attribute][rows].mean()))
    if len(theirs) < 10 or np.ptp(ours) == 0:
        return {}
    found = stats.spearmanr(theirs, ours)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "pairs": len(theirs)}


def _concepts(cells: list[Subject]) -> np.ndarray:
    """[N, A + 2]: attribute probabilities, nucleus/cell, diameter in µm."""
    return np.array([[*c.said.attribute_probs, c.said.nucleus_fraction, c.said.diameter_um] for c in cells])


def _columns() -> dict[str, list[int]]:
    """Attribute to its columns of `_concepts`; the measured diameter goes with size."""
    parts = {name: list(range(*part.indices(10_000))) for name, part in attribute_slices().items()}
    n = sum(map(len, parts.values()))
    parts["size_vs_rbc"] = [*parts["size_vs_rbc"], n + 1]
    return {**parts, "nucleus_fraction": [n]}


def control_of(predictor, seed: int = 0):
    """The same network with random weights in the head that explains; its class, place and masks are the real ones."""
    import copy

    import torch

    control = copy.deepcopy(predictor)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in control.model.attribute_head.parameters():
            p.normal_(0, 1 / p.shape[-1] ** 0.5)
    return control


def faithfulness(predictor, learnt: list[Example], held_out: list[Example], limit: int, say: Callable = print) -> dict:
    """All tests; `learnt` serves only to fit the concept path."""
    cells = subjects(predictor, held_out, limit)
    say(f"{len(cells)} held-out cells")
    report = {"cells": len(cells), "interventions": intervene(predictor, cells)}
    say("interventions done")
    report["interventions, random explanation head (control)"] = intervene(predictor, cells, control_of(predictor))
    say("control done")
    report["deletion"] = delete(predictor, cells[: limit // 2])
    say("deletion done")
    fitted = subjects(predictor, learnt, 3 * limit, seed=1)
    report["concept path"] = concept_path(fitted, cells)
    return report
