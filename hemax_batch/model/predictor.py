"""The trained network as a function: patches in, cells out, in the slide's own pixels.

On the CPU it runs patch by patch on one thread, so that what it says of a patch depends on that patch alone, whatever
the batch, the number of workers or the order (larger batches gain nothing there).
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from .. import vocabulary
from ..geometry import centres, pairwise_iou
from ..records import PICTURE_UM, Cells, PatchBatch, pack_mask
from . import checkpoint
from .allocator import keep_freed_memory
from .familiarity import STAGE, Known, box_means
from .hemax import fold_norms

MIN_SCORE = 0.5  # that there is a cell at all
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
    evaluation; `known`: against which cells are told to be unfamiliar, if anything."""

    def __init__(self, model, card: checkpoint.WeightsCard, device: str = "cpu", batch_size: int | None = None,
                 platelets: bool = False, known: Known | None = None):  # fmt: skip
        self.model, self.card, self.device, self.known = model.to(device), card, torch.device(device), known
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 32)
        self.platelets = platelets

    @classmethod
    def load(cls, path=None, device: str = "cpu", batch_size: int | None = None, platelets: bool = False) -> Predictor:
        """From a checkpoint (None = the shipped one). WeightsError as `checkpoint.read_card`."""
        if device == "cpu":
            torch.set_num_threads(1)  # a worker per core, and the same sums in the same order everywhere
            keep_freed_memory()
        model, card = checkpoint.load(path)
        return cls(fold_norms(model), card, device, batch_size, platelets, checkpoint.load_known(path))

    def __call__(self, batch: PatchBatch, level0_mpp: float, slide_size: tuple[int, int] | None = None) -> Prediction:
        """Cells of every patch; masks and boxes are clipped to `slide_size` (width, height) where it is given."""
        found, patch_index, cut, platelets = [], [], [], 0
        saturated = np.zeros(len(batch), bool)
        for start in range(0, len(batch), self.batch_size):
            part = slice(start, start + self.batch_size)
            said = self._network(batch.pixels[part])
            for i in range(len(said.scores)):
                b = start + i
                cells, touches, n_platelets, full = self._read_patch(said, i, batch, b, level0_mpp, slide_size)
                found.append(cells)
                patch_index += [b] * len(cells)
                cut.append(touches)
                platelets += n_platelets
                saturated[b] = full
        flat = np.concatenate(cut) if cut else np.zeros(0, bool)
        return Prediction(Cells.concat(found), np.array(patch_index, np.int32), flat, saturated, platelets)

    @torch.inference_mode()
    def _network(self, pixels: np.ndarray) -> _Said:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device, non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            output, looks = self._with_looks(tensor)
        logits = output.class_logits[-1].float()
        slices = vocabulary.attribute_slices().values()
        attributes = output.attribute_logits[-1].float()
        return _Said(
            scores=1 - logits.softmax(-1)[..., -1].cpu().numpy(),
            class_probs=(logits[..., :-1] / self.card.temperature).softmax(-1).cpu().numpy(),
            attribute_probs=torch.cat([attributes[..., s].softmax(-1) for s in slices], -1).cpu().numpy(),
            boxes=output.boxes_cxcywh[-1].float().cpu().numpy(),
            masks=output.mask_logits.float().cpu(),
            looks=looks,
        )

    def _with_looks(self, tensor: torch.Tensor):
        """The network's output, and the map of its backbone that `known` speaks of, taken as it passes."""
        if self.known is None:
            return self.model(tensor), None
        passed, mine = [], threading.get_ident()

        def take(_module, _arguments, maps):
            if threading.get_ident() == mine:  # a cluster's worker may run several, with one network
                passed.append(maps[STAGE])

        hook = self.model.backbone.register_forward_hook(take)
        try:
            return self.model(tensor), passed[0]
        finally:
            hook.remove()

    def _read_patch(self, said: _Said, i: int, batch: PatchBatch, b: int, level0_mpp: float, slide_size):
        """The cells of one patch, whether each is cut, the platelets, and whether the queries ran out."""
        size = np.array(batch.pixels.shape[:1:-1], float)  # W, H
        sure = np.flatnonzero(said.scores[i] >= MIN_SCORE)
        full = len(sure) == said.scores.shape[1]
        boxes = np.concatenate(
            [said.boxes[i][:, :2] - said.boxes[i][:, 2:] / 2, said.boxes[i][:, :2] + said.boxes[i][:, 2:] / 2], 1
        )
        centre = centres(boxes)
        sure = sure[((centre[sure] >= 0) & (centre[sure] <= size)).all(1)]
        keep = _one_query_a_cell(boxes, said.scores[i], sure)
        is_platelet = said.class_probs[i][keep].argmax(1) == PLATELET
        wanted = keep if self.platelets else keep[~is_platelet]
        unfamiliar = self._unfamiliar(said, i, boxes[wanted], batch.pixels.shape[:1:-1])
        cells = [
            self._cell(said, i, q, boxes[q], unfamiliar[k : k + 1], batch, b, level0_mpp, slide_size)
            for k, q in enumerate(wanted)
        ]
        seen = Cells.concat([c for c in cells if c is not None])
        in_patch = (seen.boxes_xyxy - np.tile(batch.origins[b], 2)) / batch.scale
        touches = (in_patch[:, :2] < 1.5).any(1) | (in_patch[:, 2:] > size - 1.5).any(1)
        return seen, touches, int(is_platelet.sum()), full

    def _unfamiliar(self, said: _Said, i: int, boxes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
        """float32 [N] of boxes [N, 4] px: 0 where the weights cannot say."""
        if self.known is None or not len(boxes):
            return np.zeros(len(boxes), np.float32)
        return self.known.distance(box_means(said.looks[i], boxes, size_wh))

    def _cell(
        self, said: _Said, i: int, q: int, box: np.ndarray, unfamiliar: np.ndarray, batch: PatchBatch, b: int,
        level0_mpp: float, slide_size,
    ) -> Cells | None:  # fmt: skip
        """One query as a record: its mask drawn on the slide's pixel lattice, its box the mask's extent."""
        drawn = _draw_mask(said.masks[i, q], box, batch.origins[b], batch.scale, batch.pixels.shape[:1:-1], slide_size)
        if drawn is None:
            return None
        mask, x0, y0 = drawn
        h, w = mask.shape
        extent = np.array([x0, y0, x0 + w, y0 + h], np.float32)
        middle = batch.origins[b] + np.array(batch.pixels.shape[:1:-1]) / 2 * batch.scale
        off = float(np.hypot(*(centres(extent[None])[0] - middle)) * level0_mpp)
        return Cells(
            boxes_xyxy=extent[None], scores=said.scores[i, q : q + 1].astype(np.float32),
            class_probs=said.class_probs[i, q : q + 1], attribute_probs=said.attribute_probs[i, q : q + 1],
            mask_xy=np.array([[x0, y0]], np.int32), mask_hw=np.array([[h, w]], np.int32), masks=(pack_mask(mask),),
            off_centre_um=np.array([off], np.float32), region_index=np.zeros(1, np.int32),
            pictures=(self._picture(batch.pixels[b], (centres(extent[None])[0] - batch.origins[b]) / batch.scale),),
            unfamiliar=unfamiliar,
        )  # fmt: skip

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


@dataclass(frozen=True)
class _Said:
    """Raw answers for B patches: scores [B, Q], class_probs [B, Q, K], attribute_probs [B, Q, A], boxes [B, Q, 4]
    cxcywh px,
    masks [B, Q, 2, h, w] logits at stride 4, looks [B, D, h', w'] of the backbone (None where nothing asks for it)."""

    scores: np.ndarray
    class_probs: np.ndarray
    attribute_probs: np.ndarray
    boxes: np.ndarray
    masks: torch.Tensor
    looks: torch.Tensor | None


def _one_query_a_cell(boxes_xyxy: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of queries on the same cell the surest, in falling order of score: indices into the queries."""
    kept: list[int] = []
    for q in rows[np.argsort(-scores[rows], kind="stable")]:
        if not kept or pairwise_iou(boxes_xyxy[q : q + 1], boxes_xyxy[kept]).max() < SAME_CELL_IOU:
            kept.append(int(q))
    return np.array(kept, int)


def _draw_mask(
    logits: torch.Tensor, box, origin, scale: float, size_px, slide_size
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
    h, w = logits.shape[-2:]
    xs = torch.from_numpy((np.arange(x0, x1) + 0.5 - origin[0]) / scale / 4 / w * 2 - 1).float()
    ys = torch.from_numpy((np.arange(y0, y1) + 0.5 - origin[1]) / scale / 4 / h * 2 - 1).float()
    grid = torch.stack([xs[None].expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], -1)[None]
    nucleus, cell = (F.grid_sample(logits[None], grid, padding_mode="border", align_corners=False)[0] > 0).numpy()
    pieces, n = ndimage.label(cell)
    if n == 0:
        return None
    if n > 1:
        cell = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    cell = ndimage.binary_fill_holes(cell)
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    tight = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    label = cell[tight].astype(np.uint8) + (nucleus & cell)[tight]
    return label, int(x0 + columns[0]), int(y0 + rows[0])
