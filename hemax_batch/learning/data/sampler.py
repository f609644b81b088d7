"""From labelled examples to batches of training patches: which examples, where on the canvas, what is told of them.

Planned on the host from one generator, then drawn on the device that learns (`ImageCache`), the whole batch at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.matcher import Targets
from ...vocabulary import NEUTROPHIL_NAMES
from .augmentation import Photometry, apply_photometry, draw_photometry
from .examples import Example
from .image_cache import IGNORE_BIT, LABEL_BITS, ImageCache, load_images

#: How often a patch is drawn from each source; within a source, classes are drawn alike.
SOURCE_SHARE = {
    "PBC": 0.38,
    "apl": 0.28,
    "marrow": 0.12,
    "Raabin-WBC": 0.08,
    "BCCD": 0.04,
    "BCDD": 0.03,
    "zheng1": 0.05,
    "zheng2": 0.05,
    "synthetic": 0.04,
    "chula": 0.08,
}

#: Stages of one line of maturation, whose borders are matters of convention.
HARD_CLASSES = {"blast", "promyelocyte", "myelocyte", "metamyelocyte", *NEUTROPHIL_NAMES}

#: Multilobed nuclei are drawn this many times as often. Without it they are called bilobed.
MULTILOBED_WEIGHT = 2.5

MOSAIC_SHARE = {"small": 0.15, "large": 0.5}
LARGE_CANVAS_PX = 288  # from here on a quarter of the canvas still holds a cell
CLOSE_CANVAS_PX = 200  # below, a canvas is filled by one cell: it is neither split nor is the cell far off its middle
MIN_VISIBLE = 0.4  # of a cell's box: with less it is ignored
MIN_WHOLE = 0.98  # with less, its nucleus/cell is not the one that people judged
SCALE_JITTER = 0.13  # log-normal: a stated µm/px is often wrong by 15 %
MAX_CELLS = 16  # of one patch that are taught; further ones are ignored

#: The eight turns and flips, as matrices from the picture to the canvas.
_TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
DIHEDRAL = np.concatenate([_TURNS, np.array([[-1, 0], [0, 1]]) @ _TURNS]).astype(float)


@dataclass(frozen=True)
class BatchPlan:
    """B patches of S px, each of up to four parts: 0 top left, 1 right of `cut_xy`, 2 below it, 3 both.

    cut_xy      int64 [B, 2]; split bool [B, 2]: whether there is a part to the right, and one below
    example     int64 [B, 4]
    to_source   float64 [B, 4, 2, 3], canvas pixels to the picture's, affine
    plain       bool [B, 4], the glass's colour where the picture ends, instead of its mirror image
    dropped     float64 [B, D, 4], boxes of cells that are hardly visible, to be ignored; zeros where there is none
    targets     without labels and ignore map, which are drawn
    """

    size_px: int
    cut_xy: np.ndarray
    split: np.ndarray
    example: np.ndarray
    to_source: np.ndarray
    plain: np.ndarray
    dropped: np.ndarray
    targets: dict[str, np.ndarray]
    photometry: Photometry


class PatchSampler:
    """Draws batches of augmented patches. The same generator state gives the same batch on one kind of device.

    examples  what to draw from; working_mpp  the network's scale; hard  how many times as often the stages of
    maturation are drawn, which people too find hardest to tell apart; stain, as_stained  as `draw_photometry`
    """

    def __init__(
        self,
        examples: list[Example],
        working_mpp: float,
        hard: float = 1.0,
        device="cpu",
        stain: float = 1.0,
        as_stained: float = 0.0,
    ):
        self.images: ImageCache = load_images(examples, working_mpp, device)
        self.device, self.stain, self.as_stained = torch.device(device), stain, as_stained
        self.cumulative_weights = np.cumsum(sampling_weights(examples, hard))

    def batch(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Tensor, Targets]:
        """`count_differential` patches, uint8 [B, 3, S, S], S a multiple of 32, and what is known of them, on the device."""
        plan = self.plan(rng, count, size_px)
        return render_batch(self.images, plan, self.device)

    def plan(self, rng: np.random.Generator, count: int, size_px: int) -> BatchPlan:
        """Steps: split the canvases (once, in two or in four), choose an example, a turn and a place for each part,
        see which cells are visible there, choose the stain."""
        images = self.images
        cut, split = _split(rng, count, size_px)
        rects, present = _rects(cut, split, size_px)
        example = np.searchsorted(
            self.cumulative_weights,
            rng.random((count, 4)) * self.cumulative_weights[-1],
            side="right",
        ).clip(max=len(images.start) - 1)
        linear = (
            DIHEDRAL[rng.integers(8, size=(count, 4))]
            * np.exp(rng.normal(0, SCALE_JITTER, (count, 4)))[..., None, None]
        )
        focus, middle = self._focus(rng, example), self._middle(rng, rects, size_px)
        back = np.linalg.inv(linear)
        to_source = np.concatenate(
            [back, (focus - np.einsum("bpij,bpj->bpi", back, middle))[..., None]], -1
        )
        boxes = _to_canvas(images.boxes_xyxy[example], linear, middle, focus)
        is_cell = present[..., None] & (
            np.arange(boxes.shape[2]) < images.n_cells[example][..., None]
        )
        plain = (rng.random((count, 4)) < 0.25) | _would_mirror_a_cell(
            images, example, rects, to_source
        )
        targets, dropped = self._targets(example, boxes, is_cell, rects)
        return BatchPlan(
            size_px,
            cut,
            split,
            example,
            to_source,
            plain,
            dropped,
            targets,
            draw_photometry(rng, count, self.stain, self.as_stained),
        )

    def _focus(self, rng: np.random.Generator, example: np.ndarray) -> np.ndarray:
        """A cell's middle, or any place of a picture without one: [B, 4, 2] in the picture's pixels."""
        images = self.images
        which = (rng.random(example.shape) * images.n_cells[example]).astype(int)
        box = images.boxes_xyxy[example, which]
        anywhere = rng.random((*example.shape, 2)) * images.size_wh[example]
        return np.where(
            images.n_cells[example][..., None] > 0, (box[..., :2] + box[..., 2:]) / 2, anywhere
        )

    @staticmethod
    def _middle(rng: np.random.Generator, rects: np.ndarray, size_px: int) -> np.ndarray:
        """Where the focus comes to lie: near the part's middle, [B, 4, 2]."""
        near = (rng.random(rects.shape[:2]) < 0.6) | (size_px < CLOSE_CANVAS_PX)
        off = (
            rng.normal(0, 1, (*rects.shape[:2], 2)) * np.where(near, 0.05, 0.22)[..., None]
        ).clip(-0.45, 0.45)
        return (rects[..., :2] + rects[..., 2:]) / 2 + off * (rects[..., 2:] - rects[..., :2])

    def _targets(self, example, boxes, is_cell, rects) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is taught of the visible cells [B, N, …], and the boxes [B, D, 4] of those that are not taught."""
        images, (b, _, c) = self.images, is_cell.shape
        clipped = np.concatenate(
            [
                np.maximum(boxes[..., :2], rects[:, :, None, :2]),
                np.minimum(boxes[..., 2:], rects[:, :, None, 2:]),
            ],
            -1,
        )
        area = (clipped[..., 2:] - clipped[..., :2]).clip(0).prod(-1)
        visible = is_cell * area / (boxes[..., 2:] - boxes[..., :2]).prod(-1).clip(1e-6)
        visible, clipped = visible.reshape(b, 4 * c), clipped.reshape(b, 4 * c, 4)
        is_target = visible >= MIN_VISIBLE
        most = int(is_target.sum(1).max(initial=1).clip(1, MAX_CELLS))
        order = np.argsort(~is_target, axis=1, kind="stable")[:, :most]
        kept = np.zeros_like(is_target)
        np.put_along_axis(kept, order, np.take_along_axis(is_target, order, 1), 1)
        rows = np.arange(b)[:, None]
        picture, cell = np.repeat(example, c, 1)[rows, order], np.tile(np.arange(c), 4)[order]
        present = kept[rows, order]
        x0, y0, x1, y1 = np.moveaxis(
            np.where(present[..., None], clipped[rows, order], [0.0, 0.0, 1.0, 1.0]), -1, 0
        )
        targets = {
            "present": present,
            "boxes_cxcywh": np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1).astype(
                np.float32
            ),
            "box_weight": images.box_weight[picture, cell] * present,
            "allowed": images.allowed[picture, cell] & present[..., None],
            "attributes": np.where(present[..., None], images.attributes[picture, cell], -1),
            "nc_class": np.where(
                present & (visible[rows, order] >= MIN_WHOLE), images.nc_class[picture, cell], -1
            ),
            "mask_weight": images.mask_weight[picture, cell] * present,
        }
        lost = (visible > 0) & ~kept
        worst = np.argsort(~lost, axis=1, kind="stable")[:, : int(lost.sum(1).max(initial=0))]
        return targets, np.where(lost[rows, worst][..., None], clipped[rows, worst], 0.0)


def render_batch(
    images: ImageCache, plan: BatchPlan, device: torch.device
) -> tuple[Tensor, Targets]:
    """The planned patches on the device, stained, and their targets."""

    def to(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    pixels, last = _gather_pixels(images, plan, to)
    s = plan.size_px
    dropped = _box_mask(to(plan.dropped.astype(np.float32)), s)
    ignore = ((last & IGNORE_BIT) > 0) | dropped
    ignore = F.avg_pool2d(ignore[:, None].float(), 8)[:, 0] > 0.25
    labels = ((last & LABEL_BITS) * ~dropped)[:, 1::2, 1::2].contiguous()
    target_tensors = {name: to(array) for name, array in plan.targets.items()}
    cells = (last & LABEL_BITS) > 0
    return apply_photometry(pixels, plan.photometry, cells), Targets(
        **target_tensors, labels=labels, ignore=ignore
    )


def _gather_pixels(images: ImageCache, plan: BatchPlan, to) -> tuple[Tensor, Tensor]:
    """Pixels float [B, 3, S, S] in 0..255, bicubic (Keys 1981, a = -0.5, as Pillow's), and each nearest fourth byte
    uint8 [B, S, S]; mirrored, or plain glass, where a picture ends."""
    s, b = plan.size_px, len(plan.example)
    at = torch.arange(s, device=images.packed.device, dtype=torch.float32) + 0.5
    beyond = to(plan.split)[..., None] & (at >= to(plan.cut_xy)[..., None])  # [B, 2, S]
    part = (beyond[:, 0, None, :].long() + 2 * beyond[:, 1, :, None].long()).flatten(1)

    def of_part(array: np.ndarray) -> Tensor:
        return to(array).gather(1, part).reshape(b, s, s)

    m = plan.to_source.astype(np.float32)
    x = of_part(m[..., 0, 0]) * at + of_part(m[..., 0, 1]) * at[:, None] + of_part(m[..., 0, 2])
    y = of_part(m[..., 1, 0]) * at + of_part(m[..., 1, 1]) * at[:, None] + of_part(m[..., 1, 2])
    w, h = (of_part(images.size_wh[plan.example][..., k].astype(np.float32)) for k in (0, 1))
    start, wide = of_part(images.start[plan.example]), w.long()
    flat = images.packed.view(torch.int32)[:, 0]

    def taken(line: Tensor, column: Tensor) -> Tensor:
        return flat[line + column].view(torch.uint8).unflatten(-1, (s, 4))

    def line(row: Tensor) -> Tensor:
        return start + row * wide

    nearest = taken(line(_mirror_index(y.floor(), h)), _mirror_index(x.floor(), w))[..., 3]
    (columns, across), (rows, down) = _bicubic_taps(x, w), _bicubic_taps(y, h)
    pixels = torch.zeros(b, s, s, 4, device=at.device)
    for row, weight_y in zip(rows, down, strict=True):
        of_row = line(row)
        for column, weight_x in zip(columns, across, strict=True):
            pixels.addcmul_(taken(of_row, column).float(), (weight_y * weight_x)[..., None])
    outside = (x < 0) | (y < 0) | (x >= w) | (y >= h)
    glass = outside & of_part(plan.plain)
    ground = torch.stack([of_part(images.ground[plan.example][..., k]) for k in range(3)], -1)
    pixels = torch.where(glass[..., None], ground, pixels[..., :3]).clamp(0, 255)
    last = (
        torch.where(outside, nearest & IGNORE_BIT, nearest) * ~glass
    )  # a mirrored cell is no label
    return pixels.permute(0, 3, 1, 2), last


def _bicubic_taps(x: Tensor, n: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The four picture positions round each x (pixel centres at halves), mirrored into 0..n-1, and their weights."""
    first = (x - 0.5).floor()
    t = x - 0.5 - first
    distances = (t + 1, t, 1 - t, 2 - t)
    near = [((1.5 * d - 2.5) * d * d + 1) for d in distances[1:3]]
    far = [((-0.5 * d + 2.5) * d - 4) * d + 2 for d in (distances[0], distances[3])]
    return [_mirror_index(first + k, n) for k in (-1, 0, 1, 2)], [far[0], near[0], near[1], far[1]]


def _mirror_index(index: Tensor, n: Tensor) -> Tensor:
    """Whole numbers reflected into 0..n-1, as often as needed, int64: -1 -> 0, n -> n - 1. Floats, which processors
    divide faster than int64, and which hold the sides of any picture exactly."""
    index = index - 2 * n * torch.floor((index + 0.5) / (2 * n))
    return torch.minimum(index, 2 * n - 1 - index).long()


def _box_mask(boxes_xyxy: Tensor, size_px: int) -> Tensor:
    """Which pixels lie in any of the boxes [B, D, 4]: bool [B, S, S]. A box of no area covers nothing."""
    at = torch.arange(size_px, device=boxes_xyxy.device)
    covered = torch.zeros(
        len(boxes_xyxy), size_px, size_px, dtype=torch.bool, device=boxes_xyxy.device
    )
    for box in boxes_xyxy.unbind(1):
        across, down = ((at + 1 > box[:, k, None]) & (at < box[:, k + 2, None]) for k in (0, 1))
        covered |= across[:, None, :] & down[..., None] & (box[:, 2] > box[:, 0])[:, None, None]
    return covered


def _split(rng: np.random.Generator, count: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Canvases whole, or cut in two (large ones also in four) at a random place: cut_xy [B, 2], split [B, 2]."""
    large = s >= LARGE_CANVAS_PX
    cut = (s * rng.uniform(0.38, 0.62, (count, 2))).astype(np.int64)
    mosaic = (rng.random(count) < MOSAIC_SHARE["large" if large else "small"]) & (
        s >= CLOSE_CANVAS_PX
    )
    kind = rng.integers(3 if large else 2, size=count)
    return cut, np.stack([mosaic & (kind != 1), mosaic & (kind != 0)], 1)


def _rects(cut: np.ndarray, split: np.ndarray, s: int) -> tuple[np.ndarray, np.ndarray]:
    """The four parts of each canvas as float [B, 4, 4] x0 y0 x1 y1, and which there are, bool [B, 4]."""
    x, y = (np.where(split[:, k], cut[:, k], s)[:, None] for k in (0, 1))
    right, below = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    rects = np.stack(
        [
            np.where(right, x, 0),
            np.where(below, y, 0),
            np.where(right, s, x),
            np.where(below, s, y),
        ],
        -1,
    )
    return rects.astype(float), (split[:, :1] | (right == 0)) & (split[:, 1:] | (below == 0))


def _to_canvas(
    boxes: np.ndarray, linear: np.ndarray, middle: np.ndarray, focus: np.ndarray
) -> np.ndarray:
    """Boxes [B, 4, C, 4] of pictures on the canvas; turns by quarters keep them tight."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    centre = np.einsum("bpij,bpcj->bpci", linear, centre - focus[:, :, None]) + middle[:, :, None]
    half = np.einsum("bpij,bpcj->bpci", np.abs(linear), half)
    return np.concatenate([centre - half, centre + half], -1)


def _would_mirror_a_cell(
    images: ImageCache, example: np.ndarray, rects: np.ndarray, to_source: np.ndarray
) -> np.ndarray:
    """Whether reflecting the picture to fill its part would show a labelled cell a second time, unlabelled: [B, 4]."""
    corners = np.stack([rects[..., :2], rects[..., 2:]], -1)  # [B, 4, 2, 2 corners]
    seen = np.einsum("bpij,bpjk->bpik", to_source[..., :2], corners) + to_source[..., 2:]
    size = images.size_wh[example]
    over = np.concatenate(
        [-seen.min(-1), seen.max(-1) - size], -1
    )  # how far beyond left, top, right, bottom
    boxes = images.boxes_xyxy[example]
    room = np.concatenate([boxes[..., :2], size[:, :, None] - boxes[..., 2:]], -1)
    is_cell = np.arange(boxes.shape[2]) < images.n_cells[example][..., None]
    return ((over[:, :, None] > room).any(-1) & is_cell).any(-1)


def sampling_weights(examples: list[Example], hard: float) -> np.ndarray:
    """Probability of each example: its source's share, classes of a source alike (square root of their numbers)."""
    keys = [(e.source, e.cells[0].allowed if e.cells else ()) for e in examples]
    counts = Counter(keys)
    raw = np.array(
        [counts[k] ** -0.5 * (hard if k[1] and set(k[1]) <= HARD_CLASSES else 1.0) for k in keys]
    )
    raw *= [MULTILOBED_WEIGHT if _has_multilobed(e) else 1.0 for e in examples]
    for source in {e.source for e in examples}:
        mine = np.array([e.source == source for e in examples])
        raw[mine] *= SOURCE_SHARE.get(source, 0.1) / raw[mine].sum()
    return raw / raw.sum()


def _has_multilobed(example: Example) -> bool:
    """Tell whether a cell of the picture has a multilobed nucleus."""
    return any(("nucleus_shape", "multilobed") in cell.attributes for cell in example.cells)
