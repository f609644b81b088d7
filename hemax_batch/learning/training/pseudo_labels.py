"""Pseudo-labels: masks and types that the network predicts for images without them.

A mask is kept if it agrees with the labels: its extent and the labelled box have an IoU of at least
`MIN_IOU`. Without a labelled box the mask must lie at the labelled cell's place and have a cell's
size. If an expert judged the nuclear:cytoplasmic ratio, the mask's ratio must be on the same side.
The kept shares are printed and stored in the model card.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import DataError
from ...geometry import pairwise_iou
from ...model.hemax import HemaX, HemaXOutput
from ...model.losses import NC_THRESHOLD
from ...model.mask_drawing import sample_bilinear
from ...model.network_output import Network, NetworkOutput, mask_coordinates, softmax
from ...vocabulary import CLASS_NAMES, NEUTROPHIL_NAMES, tells_type
from ..data.centred_patches import centred_patch
from ..data.examples import NC_CLASSES, Example, load_rgb

MIN_IOU = 0.85
PSEUDO_WEIGHT = 0.5
#: Least share of a type in the probability of all types that the label allows.
SURE_TYPE = 0.8
TYPES_FILE = "types.csv"
CENTRE_TOLERANCE_UM = 2.5


def pseudo_candidates(examples: list[Example]) -> list[int]:
    """Return the examples that may get a pseudo-mask: those with one labelled cell and no mask."""
    return [i for i, e in enumerate(examples) if len(e.cells) == 1 and not e.mask_path]


@torch.inference_mode()
def write_pseudo_masks(
    model: HemaX,
    examples: list[Example],
    indices: list[int],
    folder: Path,
    mpp: float,
    size_px: int,
    batch: int = 8,
) -> None:
    """Write `folder/<index>.png` (0, 1, 2; the image's own size) for masks that pass the check."""
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
                mask = _to_image(mask, drawn[k][1], drawn[k][2], example)
                if _acceptable(mask, example):
                    Image.fromarray(mask).save(folder / f"{i}.png")
    model.train()


def central_query(output: HemaXOutput, k: int, size_px: int) -> int | None:
    """Return the query of highest score near the centre of patch `k`; None without one."""
    boxes = output.boxes_cxcywh[-1, k]
    score = 1 - output.class_logits[-1, k].softmax(-1)[:, -1]
    far = (boxes[:, :2] - size_px / 2).norm(dim=1) > size_px / 12
    q = int(score.masked_fill(far, -1).argmax())
    return None if far[q] or score[q] < 0.4 else q


def _central_mask(output: HemaXOutput, k: int, size_px: int) -> np.ndarray | None:
    """Return the label map uint8 [S, S] of the central query; None without one."""
    q = central_query(output, k, size_px)
    if q is None:
        return None
    places = mask_coordinates(np.arange(size_px) + 0.5)
    nucleus, cell = (
        sample_bilinear(output.mask_logits[k, q].float().cpu().numpy(), places, places) > 0
    )
    label: np.ndarray = cell.astype(np.uint8) + (nucleus & cell)
    return label


def _to_image(
    mask: np.ndarray, origin: tuple[float, float], scale: float, example: Example
) -> np.ndarray:
    """Map a label map from the patch to the image's pixels."""
    h, w = load_rgb(example.path).shape[:2]
    xs = np.round((np.arange(w) + 0.5) * scale + origin[0] - 0.5).astype(int)
    ys = np.round((np.arange(h) + 0.5) * scale + origin[1] - 0.5).astype(int)
    inside = ((ys >= 0) & (ys < mask.shape[0]))[:, None] & ((xs >= 0) & (xs < mask.shape[1]))[None]
    picked = mask[ys.clip(0, mask.shape[0] - 1)][:, xs.clip(0, mask.shape[1] - 1)]
    return np.where(inside, picked, 0).astype(np.uint8)


def _nc_class(mask: np.ndarray) -> str:
    """Return whether a mask's nuclear:cytoplasmic ratio is low or high."""
    return NC_CLASSES[int((mask == 2).sum() > NC_THRESHOLD * (mask > 0).sum())]


def _extent(mask: np.ndarray) -> np.ndarray | None:
    """Return the box [1, 4] around a mask; None if it is empty."""
    ys, xs = np.nonzero(mask)
    return (
        None
        if len(xs) == 0
        else np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], float)
    )


def _acceptable(mask: np.ndarray, example: Example) -> bool:
    """Return whether a mask agrees with the labels."""
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
    network: Network,
    examples: list[Example],
    indices: list[int],
    folder: Path,
    mpp: float,
    size_px: int,
) -> None:
    """Write `folder/types.csv` (index, classes) of open labels whose type the network is sure of.

    The two neutrophil stages stay together, because their border is a convention.
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


def _sure_type(output: NetworkOutput, size_px: int, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sure type, of those allowed, of the cell in a patch's centre; () for none."""
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
    best = max(sorted(probability_of), key=probability_of.__getitem__)
    return best if probability_of[best] >= SURE_TYPE * sum(probability_of.values()) else ()


def apply_pseudo_labels(examples: list[Example], folder: Path) -> list[Example]:
    """Add the masks and types in `folder` to the examples.

    A cell without a labelled box gets the mask's extent, marked as not trusted.
    """
    out = list(examples)
    if (folder / TYPES_FILE).exists():
        for line in (folder / TYPES_FILE).read_text("utf-8").splitlines():
            row, names = line.split(",")
            cell = replace(out[int(row)].cells[0], allowed=tuple(names.split("|")))
            out[int(row)] = replace(out[int(row)], cells=(cell,))
    for path in folder.glob("*.png"):
        i = int(path.stem)
        e, cell = out[i], out[i].cells[0]
        if cell.box_xyxy is None:
            extent = _extent(np.asarray(Image.open(path)))
            if extent is None:
                raise DataError(f"{path}: the mask is empty")
            x0, y0, x1, y1 = extent[0].tolist()
            cell = replace(cell, box_xyxy=(x0, y0, x1, y1), box_trusted=False)
        out[i] = replace(e, cells=(cell,), mask_path=str(path), mask_weight=PSEUDO_WEIGHT)
    return out
