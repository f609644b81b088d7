"""The trained network as a function: patches in, cells out, in the slide's own pixels.

The network itself is an engine's (`torch_network`, `openvino_network`); all here is numpy, so that a worker whose engine
is not PyTorch never loads it. On the CPU it runs patch by patch on one thread, so that what it says of a patch depends on
that patch alone, whatever the batch, the number of workers or the order (larger batches gain nothing there).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .. import vocabulary
from ..geometry import centres, corners, fill_holes, pairwise_iou
from ..mask_packing import pack_mask
from ..records import PICTURE_UM, Cells, PatchBatch
from . import checkpoint
from .engines.selection import as_engine, load_engine
from .network_output import NetworkProbabilities, mask_coordinates
from .out_of_distribution import OodDetector, box_mean_features
from .test_time_augmentation import augment_unsure_cells

SAME_CELL_IOU = 0.6  # two queries on one cell of one patch
PLATELET = vocabulary.CLASS_NAMES.index("platelet")


@dataclass(frozen=True)
class Prediction:
    """What the network says of a batch of B patches.

    cells        N nucleated cells (platelets are left out, and counted)
    patch_index  int32 [N], the patch that each was seen in
    cut          bool [N], the cell touches its patch's border
    saturated    bool [B], every query of the patch found something: there may be more
    platelets    how many were seen
    """

    cells: Cells
    patch_index: np.ndarray
    cut: np.ndarray
    saturated: np.ndarray
    platelets: int


class Predictor:
    """A network with its card. Call it with a PatchBatch. `platelets`: whether they become cells too, for
    evaluation; `known`: against which cells are told to be unfamiliar, if anything; `test_time_augmentation`: whether cells of
    which it is unsure are looked at again (see `test_time_augmentation`)."""

    def __init__(
        self,
        model,
        card: checkpoint.WeightsCard,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        ood_detector: OodDetector | None = None,
        test_time_augmentation: bool = True,
    ):
        self.network, self.card, self.ood_detector, self.platelets = (
            as_engine(model, device),
            card,
            ood_detector,
            platelets,
        )
        self.test_time_augmentation = test_time_augmentation
        self.batch_size = batch_size or (1 if self.device == "cpu" else 64)

    @classmethod
    def load(
        cls,
        path=None,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        engine: str = "torch",
        test_time_augmentation: bool = True,
    ) -> Predictor:
        """From a checkpoint (None = the shipped one). WeightsError as `checkpoint.read_card`; EngineError where the
        package of that engine is not there."""
        network, card = load_engine(engine, path, device)
        return cls(
            network,
            card,
            device,
            batch_size,
            platelets,
            checkpoint.load_ood_detector(path),
            test_time_augmentation,
        )

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return str(self.network.device)

    @property
    def model(self):
        """The HemaX behind it (PyTorch only)."""
        return self.network.model

    def __call__(
        self, batch: PatchBatch, level0_mpp: float, slide_size: tuple[int, int] | None = None
    ) -> Prediction:
        """Cells of every patch; masks and boxes are clipped to `slide_size` (width, height) where it is given."""
        found, patch_index, cut, platelets = [], [], [], 0
        saturated = np.zeros(len(batch), bool)
        for start in range(0, len(batch), self.batch_size):
            probabilities = self._probabilities(batch.pixels[start : start + self.batch_size])
            for i in range(len(probabilities.scores)):
                b = start + i
                cells, cut_here, n_platelets, is_saturated = self._patch_cells(
                    probabilities, i, batch, b, level0_mpp, slide_size
                )
                found.append(cells)
                patch_index += [b] * len(cells)
                cut.append(cut_here)
                platelets += n_platelets
                saturated[b] = is_saturated
        flat = np.concatenate(cut) if cut else np.zeros(0, bool)
        return Prediction(
            Cells.concat(found), np.array(patch_index, np.int32), flat, saturated, platelets
        )

    def _probabilities(self, pixels: np.ndarray) -> NetworkProbabilities:
        """What the network says of patches uint8 [B, 3, H, W], with a second look at what it is unsure of."""
        first = NetworkProbabilities.from_output(self.network(pixels), self.card.temperature)
        if not self.test_time_augmentation:
            return first
        return augment_unsure_cells(
            first, pixels, self.card.mpp, self.card.temperature, self.network, self.batch_size
        )

    def _patch_cells(
        self,
        probabilities: NetworkProbabilities,
        i: int,
        batch: PatchBatch,
        b: int,
        level0_mpp: float,
        slide_size,
    ):
        """The cells of one patch, whether each is cut, the platelets, and whether the queries ran out."""
        size = np.array(batch.pixels.shape[:1:-1], float)  # W, H
        confident = np.flatnonzero(probabilities.confident[i])
        is_saturated = len(confident) == probabilities.scores.shape[1]
        boxes = corners(probabilities.boxes[i])
        centre = centres(boxes)
        confident = confident[((centre[confident] >= 0) & (centre[confident] <= size)).all(1)]
        keep = _suppress_duplicates(boxes, probabilities.scores[i], confident)
        is_platelet = probabilities.class_probs[i][keep].argmax(1) == PLATELET
        wanted = keep if self.platelets else keep[~is_platelet]
        ood_score = self._ood_scores(probabilities, i, boxes[wanted], batch.pixels.shape[:1:-1])
        cells = [
            self._make_cell(
                probabilities,
                i,
                q,
                boxes[q],
                ood_score[k : k + 1],
                batch,
                b,
                level0_mpp,
                slide_size,
            )
            for k, q in enumerate(wanted)
        ]
        cells_seen = Cells.concat([c for c in cells if c is not None])
        in_patch = (cells_seen.boxes_xyxy - np.tile(batch.origins[b], 2)) / batch.scale
        cut_here = (in_patch[:, :2] < 1.5).any(1) | (in_patch[:, 2:] > size - 1.5).any(1)
        return cells_seen, cut_here, int(is_platelet.sum()), is_saturated

    def _ood_scores(
        self,
        probabilities: NetworkProbabilities,
        i: int,
        boxes: np.ndarray,
        size_wh: tuple[int, int],
    ) -> np.ndarray:
        """float32 [N] of boxes [N, 4] px: 0 where the weights cannot say."""
        if self.ood_detector is None or not len(boxes):
            return np.zeros(len(boxes), np.float32)
        return self.ood_detector.score(
            box_mean_features(probabilities.backbone_features[i], boxes, size_wh)
        )

    def _make_cell(
        self,
        probabilities: NetworkProbabilities,
        i: int,
        q: int,
        box: np.ndarray,
        ood_score: np.ndarray,
        batch: PatchBatch,
        b: int,
        level0_mpp: float,
        slide_size,
    ) -> Cells | None:
        """One query as a record: its mask drawn on the slide's pixel lattice, its box the mask's extent."""
        drawn = _draw_mask(
            probabilities.masks[probabilities.mask_row[i, q]],
            box,
            batch.origins[b],
            batch.scale,
            batch.pixels.shape[:1:-1],
            slide_size,
        )
        if drawn is None:
            return None
        mask, x0, y0 = drawn
        h, w = mask.shape
        extent = np.array([x0, y0, x0 + w, y0 + h], np.float32)
        middle = batch.origins[b] + np.array(batch.pixels.shape[:1:-1]) / 2 * batch.scale
        off = float(np.hypot(*(centres(extent[None])[0] - middle)) * level0_mpp)
        return Cells(
            boxes_xyxy=extent[None],
            scores=probabilities.scores[i, q : q + 1].astype(np.float32),
            class_probs=probabilities.class_probs[i, q : q + 1],
            attribute_probs=probabilities.attribute_probs[i, q : q + 1],
            mask_xy=np.array([[x0, y0]], np.int32),
            mask_hw=np.array([[h, w]], np.int32),
            masks=(pack_mask(mask),),
            off_centre_um=np.array([off], np.float32),
            region_index=np.zeros(1, np.int32),
            pictures=(
                self._picture(
                    batch.pixels[b], (centres(extent[None])[0] - batch.origins[b]) / batch.scale
                ),
            ),
            ood_score=ood_score,
        )

    def _picture(self, pixels: np.ndarray, centre_px: np.ndarray) -> bytes:
        """A JPEG of `PICTURE_UM` a side round the cell, as the network saw it; white where the patch ends."""
        side = round(PICTURE_UM / self.card.mpp)
        x, y = np.round(centre_px - side / 2).astype(int)
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        canvas = Image.new("RGB", (side, side), (255, 255, 255))
        canvas.paste(image, (-int(x), -int(y)))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _suppress_duplicates(
    boxes_xyxy: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Of queries on the same cell the surest, in falling order of score: indices into the queries."""
    kept: list[int] = []
    for q in rows[np.argsort(-scores[rows], kind="stable")]:
        if not kept or pairwise_iou(boxes_xyxy[q : q + 1], boxes_xyxy[kept]).max() < SAME_CELL_IOU:
            kept.append(int(q))
    return np.array(kept, int)


def _draw_mask(
    logits: np.ndarray, box, origin, scale: float, size_px, slide_size
) -> tuple[np.ndarray, int, int] | None:
    """A query's mask on level-0 pixels: (uint8 [h, w] of 0, 1, 2, tight round the cell; its x; its y). None if it is
    empty.

    Steps: the integer rectangle that the box (a quarter wider) covers; logits sampled bilinearly at its pixel
    centres; the largest connected piece, holes filled; nucleus only inside it; cropped. Sampling logits rather than a
    mask places edges between stride-4 positions.
    """
    margin = 0.25 * max(box[2] - box[0], box[3] - box[1]) + 4
    low = np.maximum(np.array([box[0], box[1]]) - margin, 0) * scale + origin
    high = np.minimum(np.array([box[2], box[3]]) + margin, size_px) * scale + origin
    x0, y0 = np.floor(low).astype(int)
    x1, y1 = np.ceil(high).astype(int)
    if slide_size is not None:
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, slide_size[0]), min(y1, slide_size[1])
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    xs = mask_coordinates((np.arange(x0, x1) + 0.5 - origin[0]) / scale)
    ys = mask_coordinates((np.arange(y0, y1) + 0.5 - origin[1]) / scale)
    nucleus, cell = sample_bilinear(logits, xs, ys) > 0
    pieces, n = ndimage.label(cell)
    if n == 0:
        return None
    if n > 1:
        cell = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    cell = fill_holes(cell)
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    tight = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    label = cell[tight].astype(np.uint8) + (nucleus & cell)[tight]
    return label, int(x0 + columns[0]), int(y0 + rows[0])


def sample_bilinear(maps: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Bilinear samples float32 [C, len(ys), len(xs)] of maps [C, h, w] on a grid of places, in map pixels whose centres
    lie at 0.5, 1.5, …; the border goes on outside.

    >>> sample_bilinear(np.array([[[0.0, 4.0]]], np.float32), np.array([0.5, 1.0, 9.0]), np.array([0.5])).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    low, high, part = _interpolation_weights(ys, maps.shape[1])
    bands = maps[:, low] * (1 - part)[:, None] + maps[:, high] * part[:, None]
    low, high, part = _interpolation_weights(xs, maps.shape[2])
    return bands[:, :, low] * (1 - part) + bands[:, :, high] * part


def _interpolation_weights(
    places: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two map pixels that each place lies between, and its part of the way from one to the other (float32)."""
    at = np.clip(places - 0.5, 0, size - 1)
    low = at.astype(int)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
