"""Measuring a checkpoint on labelled images, each cell seen as the tool sees it: one patch centred on it.

Everything is per source and over all, with a bootstrap 95 % interval, and beside it what always answering the
commonest would score. A cell that is not found counts as wrong. Definitions:

recall      cells with a box that have a prediction of IoU >= 0.5
jaccard     mean IoU of the predicted box with the true one over all cells with a box (0 where none was found)
dice        2 |P ∩ T| / (|P| + |T|) of a cell's mask, mean over cells with an expert mask
nmse        sum (p - t)² / sum t², and the variance-normalised sum (p - t)² / sum (t - mean t)², of nucleus/cell and
            nucleus/cytoplasm
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..geometry import centres, pairwise_iou
from ..records import PatchBatch, unpack_mask
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES, attribute_slices
from .dataset import Example
from .sampler import PatchSampler

#: The five mature types as analysers count them: bands and segmented are one.
FIVE_TYPES = {"band_neutrophil": "neutrophil", "segmented_neutrophil": "neutrophil",
              **{name: name for name in ("eosinophil", "basophil", "monocyte", "lymphocyte")}}  # fmt: skip
THICK_RIM = 0.10  # nucleus/cytoplasm is also given where the cytoplasm is at least this share of the cell
BOOTSTRAP = 1000


@dataclass(frozen=True)
class Seen:
    """One labelled cell and what was predicted for it (`found` False: nothing). NaN where there is no truth to
    compare with."""

    source: str
    allowed: tuple[str, ...]
    found: bool
    predicted: str  # "" if not found
    confidence: float
    iou: float
    nucleus_dice: float
    cell_dice: float
    true_fraction: float  # nucleus/cell by expert mask
    fraction: float
    attributes: tuple[tuple[str, str, str], ...]  # attribute, true state, predicted state
    path: str


def look(predictor, examples: list[Example], say=lambda *_: None) -> list[Seen]:
    """Run the network on a patch round every labelled cell."""
    sampler, size, seen = PatchSampler(examples, predictor.card.mpp), predictor.card.patch_px, []
    for i, example in enumerate(examples):
        for k in range(len(example.cells)):
            pixels, origin, scale = sampler.centred(i, size, k)
            batch = PatchBatch(pixels[None], -np.array([origin]) / scale, 1 / scale)
            seen.append(_compare(example, k, predictor(batch, example.mpp).cells, pixels, batch))
        if (i + 1) % 200 == 0:
            say(f"{i + 1}/{len(examples)} images")
    return seen


def _compare(example: Example, k: int, cells, pixels, batch: PatchBatch) -> Seen:
    """The prediction for cell k: with a true box the one of highest IoU, else the one nearest the middle (within 4
    µm)."""
    label = example.cells[k]
    nothing = Seen(example.source, label.allowed, False, "", 0.0, float("nan") if label.box_xyxy is None else 0.0,
                   *([float("nan")] * 4), (), example.path)  # fmt: skip
    if len(cells) == 0:
        return nothing
    if label.box_xyxy is not None:
        ious = pairwise_iou(np.array([label.box_xyxy], float), cells.boxes_xyxy)[0]
        j, iou = int(ious.argmax()), float(ious.max())
        if iou < 0.1:
            return nothing
    else:
        middle = batch.origins[0] + pixels.shape[1] / 2 * batch.scale
        distance = np.hypot(*(centres(cells.boxes_xyxy) - middle).T) * example.mpp
        j, iou = int(distance.argmin()), float("nan")
        if distance[j] > 4.0:
            return nothing
    parts = attribute_slices()
    attributes = tuple(
        (a.name, state, a.states[int(cells.attribute_probs[j, parts[a.name]].argmax())])
        for a in ATTRIBUTES for name, state in label.attributes if name == a.name
    )  # fmt: skip
    dice = _mask_scores(example, cells, j)
    best = int(cells.class_probs[j].argmax())
    return Seen(
        example.source,
        label.allowed,
        True,
        CLASS_NAMES[best],
        float(cells.class_probs[j, best]),
        iou,
        *dice,
        attributes,
        example.path,
    )


def _mask_scores(example: Example, cells, j: int) -> tuple[float, float, float, float]:
    """Nucleus Dice, whole-cell Dice, true and predicted nucleus/cell; NaN without an expert mask."""
    if not example.mask_path:
        return (float("nan"),) * 4
    truth = np.asarray(Image.open(example.mask_path))
    mask = np.zeros_like(truth)
    x, y = cells.mask_xy[j]
    own = unpack_mask(cells.masks[j], cells.mask_hw[j])
    top, left = max(-y, 0), max(-x, 0)
    own = own[top : top + truth.shape[0] - max(y, 0), left : left + truth.shape[1] - max(x, 0)]
    mask[max(y, 0) : max(y, 0) + own.shape[0], max(x, 0) : max(x, 0) + own.shape[1]] = own

    def dice(a, b):
        return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))

    fractions = [float((m == 2).sum() / max((m > 0).sum(), 1)) for m in (truth, mask)]
    return dice(truth == 2, mask == 2), dice(truth > 0, mask > 0), fractions[0], fractions[1]


# --- figures ----------------------------------------------------------------------------------------------------


def interval(values: np.ndarray, statistic=np.mean, seed: int = 0) -> dict[str, float]:
    """A statistic of rows [N, ...] with its percentile-bootstrap 95 % interval over rows."""
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(BOOTSTRAP)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(statistic(values)), "low": float(low), "high": float(high), "n": len(values)}


def figures(seen: list[Seen]) -> dict:
    """All figures of a set of cells; a figure without data is absent."""
    out: dict = {"cells": len(seen), "found": sum(s.found for s in seen)}
    boxed = np.array([s.iou for s in seen if s.iou == s.iou and s.allowed != ("platelet",)])
    if len(boxed):
        out["recall"] = interval((boxed >= 0.5).astype(float))
        out["jaccard"] = interval(boxed)
    typed = [s for s in seen if s.allowed != WHITE_NAMES]
    if typed:
        out["classes"] = _class_figures(typed)
    mature = [(t, FIVE_TYPES.get(s.predicted, "")) for s in typed if (t := _one_of_five(s.allowed))]
    if mature:
        out["five mature types"] = {"accuracy": interval(np.array([float(t == p) for t, p in mature]))}
    masked = [s for s in seen if s.cell_dice == s.cell_dice]
    if masked:
        out["masks"] = _mask_figures(masked)
    out["attributes"] = {a.name: f for a in ATTRIBUTES if (f := _attribute_figures(seen, a.name))}
    return out


def _one_of_five(allowed: tuple[str, ...]) -> str:
    """Which of the five types a label means; "" where it means none of them, or more than one."""
    types = {FIVE_TYPES.get(name, "") for name in allowed}
    return types.pop() if len(types) == 1 else ""


def _class_figures(typed: list[Seen]) -> dict:
    """Accuracy over labels of any breadth; balanced accuracy, macro F1 and confusion over cells of one known
    class."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    out = {"accuracy": interval(np.array([float(s.predicted in s.allowed) for s in typed]))}
    exact = [s for s in typed if len(s.allowed) == 1]
    if not exact:
        return out
    names = [*CLASS_NAMES, "not found"]
    pairs = np.array([(names.index(s.allowed[0]), names.index(s.predicted or "not found")) for s in exact])
    present = sorted(set(pairs[:, 0]))
    out["balanced accuracy"] = interval(pairs, lambda p: _quiet(balanced_accuracy_score, p[:, 0], p[:, 1]))
    out["macro F1"] = interval(
        pairs, lambda p: f1_score(p[:, 0], p[:, 1], labels=present, average="macro", zero_division=0)
    )
    out["majority baseline"] = float(np.bincount(pairs[:, 0]).max() / len(pairs))
    out["recall by class"] = {names[c]: interval((pairs[pairs[:, 0] == c, 1] == c).astype(float)) for c in present}
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (pairs[:, 0], pairs[:, 1]), 1)
    out["confusion"] = {names[c]: {names[p]: int(matrix[c, p]) for p in np.flatnonzero(matrix[c])} for c in present}
    return out


def _quiet(function, *arguments):
    """sklearn warns when a bootstrap draw predicts a class that it holds none of; that is expected here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def _mask_figures(masked: list[Seen]) -> dict:
    fraction = np.array([(s.true_fraction, s.fraction) for s in masked])
    ratio = fraction / np.maximum(1 - fraction, 1e-3)
    thick = fraction[:, 0] <= 1 - THICK_RIM
    return {
        "nucleus dice": interval(np.array([s.nucleus_dice for s in masked])),
        "cell dice": interval(np.array([s.cell_dice for s in masked])),
        "nucleus/cell nmse": interval(fraction, _nmse),
        "nucleus/cell nmse, variance-normalised": interval(fraction, _nmse_variance),
        f"nucleus/cytoplasm nmse, rim >= {THICK_RIM:.0%}": interval(ratio[thick], _nmse),
        "nucleus/cell mean absolute error": interval(np.abs(fraction[:, 0] - fraction[:, 1])),
    }


def _nmse(pairs: np.ndarray) -> float:
    return float(((pairs[:, 1] - pairs[:, 0]) ** 2).sum() / (pairs[:, 0] ** 2).sum())


def _nmse_variance(pairs: np.ndarray) -> float:
    spread = ((pairs[:, 0] - pairs[:, 0].mean()) ** 2).sum()
    return float(((pairs[:, 1] - pairs[:, 0]) ** 2).sum() / max(spread, 1e-9))


def _attribute_figures(seen: list[Seen], name: str) -> dict:
    from sklearn.metrics import balanced_accuracy_score

    states = next(a.states for a in ATTRIBUTES if a.name == name)
    pairs = np.array([(states.index(t), states.index(p)) for s in seen for a, t, p in s.attributes if a == name])
    if not len(pairs):
        return {}
    return {
        "accuracy": interval((pairs[:, 0] == pairs[:, 1]).astype(float)),
        "balanced accuracy": interval(pairs, lambda p: _quiet(balanced_accuracy_score, p[:, 0], p[:, 1])),
        "majority baseline": float(np.bincount(pairs[:, 0]).max() / len(pairs)),
    }


def evaluate(predictor, examples: list[Example], say=lambda *_: None) -> tuple[dict, list[Seen]]:
    """Figures over all and by source, and the cells they rest on."""
    seen = look(predictor, examples, say)
    by_source = {s: figures([x for x in seen if x.source == s]) for s in dict.fromkeys(x.source for x in seen)}
    return {"all": figures(seen), "by source": by_source}, seen


def flat_rows(report: dict, prefix: str = "") -> list[tuple[str, float, float, float, int]]:
    """The report's figures as rows (name, value, low, high, n), for CSV and for the terminal."""
    rows = []
    for key, value in report.items():
        name = f"{prefix} / {key}" if prefix else str(key)
        if isinstance(value, dict) and "low" in value:
            rows.append((name, value["value"], value["low"], value["high"], value["n"]))
        elif isinstance(value, dict) and key != "confusion":
            rows += flat_rows(value, name)
        elif isinstance(value, float):
            rows.append((name, value, float("nan"), float("nan"), 0))
    return rows
