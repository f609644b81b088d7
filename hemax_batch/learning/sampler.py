"""From labelled examples to training patches: which example, where on the canvas, what the network is told of it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from ..model.matcher import Targets
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, N_CLASSES, NEUTROPHIL_NAMES
from .augment import Canvas, dihedral, photometric, place, possible_nuclei
from .dataset import Example, load_mask, load_rgb

#: Size of the box assumed where only a cell's centre is known (its extent is then not taught).
NOMINAL_UM = {("platelet",): 4.0, ("erythroblast",): 11.0}
NOMINAL_CELL_UM = 14.0

#: How often a patch is drawn from each source; within a source, classes are drawn alike.
SOURCE_SHARE = {"PBC": 0.52, "marrow": 0.13, "Raabin-WBC": 0.11, "BCCD": 0.05, "BCDD": 0.03, "zheng1": 0.06,
                "zheng2": 0.05, "synthetic": 0.05}  # fmt: skip

#: Stages of one line of maturation, whose borders are matters of convention.
HARD = {"blast", "promyelocyte", "myelocyte", "metamyelocyte", *NEUTROPHIL_NAMES}


class PatchSampler:
    """Draws augmented patches. The same generator state gives the same patch, whichever process asks.

    examples  what to draw from; working_mpp  the network's scale; hard  how many times as often the stages of
    maturation are drawn, which people too find hardest to tell apart
    """

    def __init__(self, examples: list[Example], working_mpp: float, hard: float = 1.0):
        self.examples, self.mpp = examples, working_mpp
        self.weights = _weights(examples, hard)
        self._decoded = lru_cache(maxsize=None)(self._decode)

    def sample(self, rng: np.random.Generator, size_px: int) -> tuple[np.ndarray, Targets]:
        """One patch, uint8 [3, S, S], and what is known of it.

        Steps: split the canvas (once, in two or in four), fill each part with an example, turn, stain, describe.
        """
        canvas = Canvas.blank(size_px)
        for rect in _split(rng, size_px):
            self._fill(rng, canvas, rect, int(rng.choice(len(self.examples), p=self.weights)))
        canvas = dihedral(rng, canvas)
        canvas.pixels = photometric(rng, canvas.pixels)
        return np.ascontiguousarray(canvas.pixels.transpose(2, 0, 1)), self._describe(canvas)

    def centred(self, index: int, size_px: int, cell: int = 0) -> tuple[np.ndarray, tuple[float, float], float]:
        """Example `index` as is, one of its cells in the middle: uint8 [3, S, S], the picture's origin, its scale."""
        example = self.examples[index]
        rgb, _, _ = self._decoded(index)
        rgb, scale = self._scaled(rgb, example.mpp, 1.0)
        boxes = self._boxes(example, rgb.shape, scale)
        focus = (boxes[cell][:2] + boxes[cell][2:]) / 2 if len(boxes) else np.array(rgb.shape[1::-1]) / 2
        offset = np.round(size_px / 2 - focus).astype(int)
        canvas = Canvas.blank(size_px)
        clear = np.zeros(rgb.shape[:2], bool)
        place(canvas, (0, 0, size_px, size_px), rgb, clear, (), None, (), offset, constant=True)
        return canvas.pixels.transpose(2, 0, 1).copy(), (float(offset[0]), float(offset[1])), scale

    def _decode(self, index: int):
        """Pixels, the 0/1/2 label map (or None), and where unlabelled cells may lie; kept, as decoding is dear."""
        e = self.examples[index]
        rgb = load_rgb(e.path)
        label = load_mask(e.mask_path) if e.mask_path else None
        h, w = rgb.shape[:2]
        boxes = self._boxes(e, (h, w), 1.0)
        ignore = np.zeros((h, w), bool)
        if e.bystanders != "none":
            ignore = np.ones((h, w), bool) if e.bystanders == "anywhere" else possible_nuclei(rgb, boxes)
            for x0, y0, x1, y1 in boxes:
                pad = 0.04 * (x1 - x0)
                ignore[max(int(y0 - pad), 0) : int(y1 + pad) + 1, max(int(x0 - pad), 0) : int(x1 + pad) + 1] = False
        for x0, y0, x1, y1 in e.ignored:
            ignore[max(int(y0), 0) : int(y1) + 1, max(int(x0), 0) : int(x1) + 1] = True
        return rgb, label, ignore

    def _boxes(self, e: Example, shape, scale: float) -> list[np.ndarray]:
        h, w = shape[:2]
        boxes = []
        for c in e.cells:
            half = NOMINAL_UM.get(c.allowed, NOMINAL_CELL_UM) / e.mpp * scale / 2
            nominal = np.array([w / 2 - half, h / 2 - half, w / 2 + half, h / 2 + half])
            boxes.append(nominal if c.box_xyxy is None else np.asarray(c.box_xyxy) * scale)
        return boxes

    def _scaled(self, rgb: np.ndarray, mpp: float, jitter: float) -> tuple[np.ndarray, float]:
        scale = mpp / self.mpp * jitter
        size = max(round(rgb.shape[1] * scale), 8), max(round(rgb.shape[0] * scale), 8)
        return np.asarray(Image.fromarray(rgb).resize(size, Image.BICUBIC)), scale

    def _fill(self, rng: np.random.Generator, canvas: Canvas, rect, index: int) -> None:
        """Lay example `index` into `rect`: scaled with jitter, a cell somewhere near the middle."""
        e = self.examples[index]
        rgb, label, ignore = self._decoded(index)
        rgb, scale = self._scaled(rgb, e.mpp, float(np.exp(rng.normal(0, 0.07))))
        size = rgb.shape[1::-1]
        if label is not None:
            label = np.asarray(Image.fromarray(label).resize(size, Image.NEAREST))
        ignore = np.asarray(Image.fromarray(ignore.view(np.uint8)).resize(size, Image.NEAREST)).astype(bool)
        boxes = self._boxes(e, rgb.shape, scale)
        if boxes:
            b = boxes[rng.integers(len(boxes))]
            focus = (b[:2] + b[2:]) / 2
        else:
            focus = rng.uniform(0, 1, 2) * size
        middle = np.array([rect[0] + rect[2], rect[1] + rect[3]]) / 2
        spread = 0.05 if rng.random() < 0.6 or canvas.pixels.shape[0] < CLOSE_CANVAS_PX else 0.22
        room = np.array([rect[2] - rect[0], rect[3] - rect[1]])
        offset = np.round(middle - focus + rng.normal(0, spread, 2).clip(-0.45, 0.45) * room).astype(int)
        constant = rng.random() < 0.25 or _would_mirror_a_cell(boxes, offset, rect, size)
        place(canvas, rect, rgb, ignore, boxes, label, [(e, c) for c in e.cells], offset, constant)

    def _describe(self, canvas: Canvas) -> Targets:
        s, n = canvas.pixels.shape[0], len(canvas.boxes)
        boxes = np.array(canvas.boxes, np.float32).reshape(n, 4)
        allowed = np.zeros((n, N_CLASSES), bool)
        attributes = np.full((n, len(ATTRIBUTES)), -1, np.int64)
        masks = np.zeros((n, s // 2, s // 2), np.uint8)
        box_weight, mask_weight = np.zeros(n, np.float32), np.zeros(n, np.float32)
        for i, (example, cell) in enumerate(canvas.source_cells):
            allowed[i, [CLASS_NAMES.index(c) for c in cell.allowed]] = True
            known = dict(cell.attributes)
            for j, a in enumerate(ATTRIBUTES):
                if a.name in known:
                    attributes[i, j] = a.states.index(known[a.name])
            box_weight[i] = 0.0 if cell.box_xyxy is None else (1.0 if cell.box_trusted else 0.5)
            if canvas.labels[i] is not None:
                x0, y0, x1, y1 = (
                    np.array([boxes[i, 0] - 1, boxes[i, 1] - 1, boxes[i, 2] + 2, boxes[i, 3] + 2])
                    .clip(0, s)
                    .astype(int)
                )
                own = np.zeros((s, s), np.uint8)
                own[y0:y1, x0:x1] = canvas.labels[i][y0:y1, x0:x1]
                masks[i], mask_weight[i] = own[1::2, 1::2], example.mask_weight
        cxcywh = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        ignore = canvas.ignore.reshape(s // 8, 8, s // 8, 8).mean((1, 3)) > 0.25
        arrays = (cxcywh, box_weight, allowed, attributes, masks, mask_weight, ignore)
        return Targets(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


def _weights(examples: list[Example], hard: float) -> np.ndarray:
    """Probability of each example: its source's share, classes of a source alike (square root of their numbers)."""
    keys = [(e.source, e.cells[0].allowed if e.cells else ()) for e in examples]
    counts = Counter(keys)
    raw = np.array([counts[k] ** -0.5 * (hard if k[1] and set(k[1]) <= HARD else 1.0) for k in keys])
    for source in {e.source for e in examples}:
        mine = np.array([e.source == source for e in examples])
        raw[mine] *= SOURCE_SHARE.get(source, 0.1) / raw[mine].sum()
    return raw / raw.sum()


MOSAIC_SHARE = {"small": 0.15, "large": 0.5}
LARGE_CANVAS_PX = 288  # from here on a quarter of the canvas still holds a cell
CLOSE_CANVAS_PX = 200  # below, a canvas is filled by one cell: it is neither split nor is the cell far off its middle


def _split(rng: np.random.Generator, s: int) -> list[tuple[int, int, int, int]]:
    """The canvas whole, or cut in two (a large one also in four) at a random place."""
    large = s >= LARGE_CANVAS_PX
    if s < CLOSE_CANVAS_PX or rng.random() >= MOSAIC_SHARE["large" if large else "small"]:
        return [(0, 0, s, s)]
    u, v = (int(s * rng.uniform(0.38, 0.62)) for _ in range(2))
    kind = rng.integers(3 if large else 2)
    if kind == 0:
        return [(0, 0, u, s), (u, 0, s, s)]
    if kind == 1:
        return [(0, 0, s, v), (0, v, s, s)]
    return [(0, 0, u, v), (u, 0, s, v), (0, v, u, s), (u, v, s, s)]


def _would_mirror_a_cell(boxes, offset, rect, size) -> bool:
    """Whether reflecting the picture to fill `rect` would show a labelled cell a second time, unlabelled."""
    over = np.array([offset[0] - rect[0], offset[1] - rect[1],
                     rect[2] - offset[0] - size[0], rect[3] - offset[1] - size[1]])  # fmt: skip
    for x0, y0, x1, y1 in boxes:
        near = np.array([x0, y0, size[0] - x1, size[1] - y1])
        if (over > near).any():
            return True
    return False
