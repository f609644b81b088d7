"""Masks for pictures that have none: the half-trained network's own, kept only where they agree with what people
drew.

Check: the extent of the pseudo-mask against the human box, IoU at least `MIN_IOU`. Where there is no human box the
mask must lie where the labelled cell is known to be, and be of a cell's size; where somebody judged the
nuclear:cytoplasmic ratio, the mask's must be on the same side. The shares kept are printed and go into
the model card.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...geometry import pairwise_iou
from ...model.losses import NC_THRESHOLD
from ...model.mask_drawing import sample_bilinear
from ...model.network_output import mask_coordinates, softmax
from ...vocabulary import CLASS_NAMES, NEUTROPHIL_NAMES, tells_type
from ..data.centred_patches import centred_patch
from ..data.examples import NC_CLASSES, Example, load_rgb

MIN_IOU = 0.85
PSEUDO_WEIGHT = 0.5
SURE_TYPE = 0.8  # share of the probability of all that the label allows
TYPES_FILE = "types.csv"
CENTRE_TOLERANCE_UM = 2.5


def pseudo_candidates(examples: list[Example]) -> list[int]:
    """Which examples may get a pseudo-mask: one labelled cell, and no mask yet."""
    return [i for i, e in enumerate(examples) if len(e.cells) == 1 and not e.mask_path]


@torch.inference_mode()
def write_pseudo_masks(
    model,
    examples: list[Example],
    indices: list[int],
    folder: Path,
    mpp: float,
    size_px: int,
    batch: int = 8,
) -> None:
    """Write `folder/<index>.png` (0, 1, 2; the picture's own size) for each example whose mask passes the check."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        drawn = [centred_patch(examples[i], mpp, size_px) for i in chosen]
        output = model(torch.from_numpy(np.stack([d[0] for d in drawn])).to(device))
        for k, i in enumerate(chosen):
            mask = _central_mask(output, k, size_px)
            example = examples[i]
            if mask is not None:
                mask = _to_picture(mask, drawn[k][1], drawn[k][2], example)
                if _acceptable(mask, example):
                    Image.fromarray(mask).save(folder / f"{i}.png")
    model.train()


def central_query(output, k: int, size_px: int) -> int | None:
    """The surest query near the middle of patch `k`; None without one."""
    boxes = output.boxes_cxcywh[-1, k]
    score = 1 - output.class_logits[-1, k].softmax(-1)[:, -1]
    far = (boxes[:, :2] - size_px / 2).norm(dim=1) > size_px / 12
    q = int(score.masked_fill(far, -1).argmax())
    return None if far[q] or score[q] < 0.4 else q


def _central_mask(output, k: int, size_px: int) -> np.ndarray | None:
    """Label map uint8 [S, S] of that query; None without one."""
    q = central_query(output, k, size_px)
    if q is None:
        return None
    places = mask_coordinates(np.arange(size_px) + 0.5)
    nucleus, cell = (
        sample_bilinear(output.mask_logits[k, q].float().cpu().numpy(), places, places) > 0
    )
    return cell.astype(np.uint8) + (nucleus & cell)


def _to_picture(mask: np.ndarray, origin, scale: float, example: Example) -> np.ndarray:
    """A canvas label map back onto the picture's own pixels."""
    h, w = load_rgb(example.path).shape[:2]
    xs = np.round((np.arange(w) + 0.5) * scale + origin[0] - 0.5).astype(int)
    ys = np.round((np.arange(h) + 0.5) * scale + origin[1] - 0.5).astype(int)
    inside = ((ys >= 0) & (ys < mask.shape[0]))[:, None] & ((xs >= 0) & (xs < mask.shape[1]))[None]
    picked = mask[ys.clip(0, mask.shape[0] - 1)][:, xs.clip(0, mask.shape[1] - 1)]
    return np.where(inside, picked, 0).astype(np.uint8)


def _nc_class(mask: np.ndarray) -> str:
    """Which side of the border between a low and a high nuclear:cytoplasmic ratio a mask's lies on."""
    return NC_CLASSES[int((mask == 2).sum() > NC_THRESHOLD * (mask > 0).sum())]


def _extent(mask: np.ndarray) -> np.ndarray | None:
    ys, xs = np.nonzero(mask)
    return (
        None
        if len(xs) == 0
        else np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], float)
    )


def _acceptable(mask: np.ndarray, example: Example) -> bool:
    extent, cell = _extent(mask), example.cells[0]
    if extent is not None and cell.nc_class and _nc_class(mask) != cell.nc_class:
        return False
    if extent is None or (mask == 2).sum() < 0.1 * (mask > 0).sum():
        return cell.allowed == ("platelet",) and extent is not None
    if cell.box_xyxy is not None:
        return bool(pairwise_iou(extent, np.array([cell.box_xyxy]))[0, 0] >= MIN_IOU)
    middle = np.array(mask.shape[::-1]) / 2
    off = np.abs((extent[0, :2] + extent[0, 2:]) / 2 - middle).max() * example.mpp
    diameter = 2 * np.sqrt((mask > 0).sum() / np.pi) * example.mpp
    low, high = (1.5, 9.0) if cell.allowed == ("platelet",) else (6.0, 24.0)
    return bool(off <= CENTRE_TOLERANCE_UM and low <= diameter <= high)


def write_pseudo_types(
    network, examples: list[Example], indices: list[int], folder: Path, mpp: float, size_px: int
) -> None:
    """Write `folder/types.csv` (index, classes): of cells whose label leaves the type open, those that trained weights
    are sure of. The two neutrophils stay together: their border is a matter of convention.

    `network` answers as an engine does (`model.engines.torch_engine`).
    """
    rows = []
    for i in indices:
        allowed = examples[i].cells[0].allowed
        if not tells_type(allowed):
            confident = _sure_type(
                network(centred_patch(examples[i], mpp, size_px)[0][None]), size_px, allowed
            )
            rows += [f"{i},{'|'.join(confident)}\n"] if confident else []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TYPES_FILE).write_text("".join(rows), "utf-8")


def _sure_type(output, size_px: int, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The type, of those allowed, of the cell in a patch's middle; () where there is none or none is sure."""
    near = np.abs(output.boxes_cxcywh[0, :, :2] - size_px / 2).max(1) <= size_px / 12
    if not (output.confident[0] & near).any():
        return ()
    q = int(
        np.flatnonzero(output.confident[0] & near)[
            output.class_logits[0, output.confident[0] & near, -1].argmin()
        ]
    )
    kinds = {NEUTROPHIL_NAMES if name in NEUTROPHIL_NAMES else (name,) for name in allowed}
    probabilities = softmax(output.class_logits[0, q, :-1])
    probability_of = {
        kind: float(sum(probabilities[CLASS_NAMES.index(name)] for name in kind)) for kind in kinds
    }
    best = max(sorted(probability_of), key=probability_of.get)
    return best if probability_of[best] >= SURE_TYPE * sum(probability_of.values()) else ()


def apply_pseudo_labels(examples: list[Example], folder: Path) -> list[Example]:
    """The examples with the masks and types found in `folder`; a cell without a human box takes the mask's extent, marked
    as not trusted."""
    out = list(examples)
    if (folder / TYPES_FILE).exists():
        for line in (folder / TYPES_FILE).read_text("utf-8").splitlines():
            i, names = line.split(",")
            cell = replace(out[int(i)].cells[0], allowed=tuple(names.split("|")))
            out[int(i)] = replace(out[int(i)], cells=(cell,))
    for path in folder.glob("*.png"):
        i = int(path.stem)
        e, cell = out[i], out[i].cells[0]
        if cell.box_xyxy is None:
            extent = _extent(np.asarray(Image.open(path)))[0]
            cell = replace(cell, box_xyxy=tuple(float(v) for v in extent), box_trusted=False)
        out[i] = replace(e, cells=(cell,), mask_path=str(path), mask_weight=PSEUDO_WEIGHT)
    return out
