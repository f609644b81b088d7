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
from ..geometry import centres, corners, filled, pairwise_iou
from ..mask_packing import pack_mask
from ..records import PICTURE_UM, Cells, PatchBatch
from . import checkpoint
from .answers import Probabilities, in_masks
from .familiarity import Known, box_means
from .openvino_network import OpenVinoNetwork
from .second_look import looked_again

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
    evaluation; `known`: against which cells are told to be unfamiliar, if anything; `second_look`: whether cells of
    which it is unsure are looked at again (see `second_look`)."""

    def __init__(
        self,
        model,
        card: checkpoint.WeightsCard,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        known: Known | None = None,
        second_look: bool = True,
    ):
        self.network, self.card, self.known, self.platelets = (
            _engine(model, device),
            card,
            known,
            platelets,
        )
        self.second_look = second_look
        self.batch_size = batch_size or (1 if self.device == "cpu" else 64)

    @classmethod
    def load(
        cls,
        path=None,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        engine: str = "torch",
        second_look: bool = True,
    ) -> Predictor:
        """From a checkpoint (None = the shipped one). WeightsError as `checkpoint.read_card`; EngineError where the
        package of that engine is not there."""
        if engine == "openvino":
            card = checkpoint.read_card(path)
            network = OpenVinoNetwork(card)
        else:
            from .hemax import fold_norms
            from .torch_network import TorchNetwork

            model, card = checkpoint.load(path)
            network = TorchNetwork.ready_for_work(fold_norms(model), device)
        return cls(
            network, card, device, batch_size, platelets, checkpoint.load_known(path), second_look
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
            said = self._said(batch.pixels[start : start + self.batch_size])
            for i in range(len(said.scores)):
                b = start + i
                cells, touches, n_platelets, full = self._read_patch(
                    said, i, batch, b, level0_mpp, slide_size
                )
                found.append(cells)
                patch_index += [b] * len(cells)
                cut.append(touches)
                platelets += n_platelets
                saturated[b] = full
        flat = np.concatenate(cut) if cut else np.zeros(0, bool)
        return Prediction(
            Cells.concat(found), np.array(patch_index, np.int32), flat, saturated, platelets
        )

    def _said(self, pixels: np.ndarray) -> Probabilities:
        """What the network says of patches uint8 [B, 3, H, W], with a second look at what it is unsure of."""
        first = Probabilities.of(self.network(pixels), self.card.temperature)
        if not self.second_look:
            return first
        return looked_again(
            first, pixels, self.card.mpp, self.card.temperature, self.network, self.batch_size
        )

    def _read_patch(
        self, said: Probabilities, i: int, batch: PatchBatch, b: int, level0_mpp: float, slide_size
    ):
        """The cells of one patch, whether each is cut, the platelets, and whether the queries ran out."""
        size = np.array(batch.pixels.shape[:1:-1], float)  # W, H
        sure = np.flatnonzero(said.sure[i])
        full = len(sure) == said.scores.shape[1]
        boxes = corners(said.boxes[i])
        centre = centres(boxes)
        sure = sure[((centre[sure] >= 0) & (centre[sure] <= size)).all(1)]
        keep = _one_query_a_cell(boxes, said.scores[i], sure)
        is_platelet = said.class_probs[i][keep].argmax(1) == PLATELET
        wanted = keep if self.platelets else keep[~is_platelet]
        unfamiliar = self._unfamiliar(said, i, boxes[wanted], batch.pixels.shape[:1:-1])
        cells = [
            self._cell(
                said, i, q, boxes[q], unfamiliar[k : k + 1], batch, b, level0_mpp, slide_size
            )
            for k, q in enumerate(wanted)
        ]
        seen = Cells.concat([c for c in cells if c is not None])
        in_patch = (seen.boxes_xyxy - np.tile(batch.origins[b], 2)) / batch.scale
        touches = (in_patch[:, :2] < 1.5).any(1) | (in_patch[:, 2:] > size - 1.5).any(1)
        return seen, touches, int(is_platelet.sum()), full

    def _unfamiliar(
        self, said: Probabilities, i: int, boxes: np.ndarray, size_wh: tuple[int, int]
    ) -> np.ndarray:
        """float32 [N] of boxes [N, 4] px: 0 where the weights cannot say."""
        if self.known is None or not len(boxes):
            return np.zeros(len(boxes), np.float32)
        return self.known.distance(box_means(said.looks[i], boxes, size_wh))

    def _cell(
        self,
        said: Probabilities,
        i: int,
        q: int,
        box: np.ndarray,
        unfamiliar: np.ndarray,
        batch: PatchBatch,
        b: int,
        level0_mpp: float,
        slide_size,
    ) -> Cells | None:
        """One query as a record: its mask drawn on the slide's pixel lattice, its box the mask's extent."""
        drawn = _draw_mask(
            said.masks[said.mask_row[i, q]],
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
            scores=said.scores[i, q : q + 1].astype(np.float32),
            class_probs=said.class_probs[i, q : q + 1],
            attribute_probs=said.attribute_probs[i, q : q + 1],
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
            unfamiliar=unfamiliar,
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


def _engine(model, device: str):
    """The engine that answers: `model` itself, or PyTorch's for a bare HemaX."""
    if isinstance(model, OpenVinoNetwork):
        return model
    from .torch_network import TorchNetwork

    return model if isinstance(model, TorchNetwork) else TorchNetwork(model, device)


def _one_query_a_cell(boxes_xyxy: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
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
    xs = in_masks((np.arange(x0, x1) + 0.5 - origin[0]) / scale)
    ys = in_masks((np.arange(y0, y1) + 0.5 - origin[1]) / scale)
    nucleus, cell = sample_at(logits, xs, ys) > 0
    pieces, n = ndimage.label(cell)
    if n == 0:
        return None
    if n > 1:
        cell = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    cell = filled(cell)
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    tight = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    label = cell[tight].astype(np.uint8) + (nucleus & cell)[tight]
    return label, int(x0 + columns[0]), int(y0 + rows[0])


def sample_at(maps: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Bilinear samples float32 [C, len(ys), len(xs)] of maps [C, h, w] on a grid of places, in map pixels whose centres
    lie at 0.5, 1.5, …; the border goes on outside.

    >>> sample_at(np.array([[[0.0, 4.0]]], np.float32), np.array([0.5, 1.0, 9.0]), np.array([0.5])).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    low, high, part = _between(ys, maps.shape[1])
    bands = maps[:, low] * (1 - part)[:, None] + maps[:, high] * part[:, None]
    low, high, part = _between(xs, maps.shape[2])
    return bands[:, :, low] * (1 - part) + bands[:, :, high] * part


def _between(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two map pixels that each place lies between, and its part of the way from one to the other (float32)."""
    at = np.clip(places - 0.5, 0, size - 1)
    low = at.astype(int)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
