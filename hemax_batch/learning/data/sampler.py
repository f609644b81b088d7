"""Sampler of training patches: plans batches from labelled examples with one random generator.

The plan is made on the host. `patch_rendering` draws it on the training device.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from ...model.matcher import Targets
from ...vocabulary import NEUTROPHIL_NAMES
from .augmentation import draw_photometry
from .examples import Example
from .image_cache import ImageCache, load_images
from .patch_rendering import BatchPlan, render_batch

#: Share of patches by source. Within a source, classes have equal shares.
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

#: Stages of one line of maturation, whose borders are conventions.
HARD_CLASSES = {"blast", "promyelocyte", "myelocyte", "metamyelocyte", *NEUTROPHIL_NAMES}

#: Multilobed nuclei are drawn this many times as often. Without it they are called bilobed.
MULTILOBED_WEIGHT = 2.5

MOSAIC_SHARE = {"small": 0.15, "large": 0.5}
#: From this size on a quarter of the canvas still holds a cell.
LARGE_CANVAS_PX = 288
#: Below this size one cell fills the canvas, which is then not split; the cell stays central.
CLOSE_CANVAS_PX = 200
#: A cell with a smaller visible part of its box is ignored.
MIN_VISIBLE = 0.4
#: A cell with a smaller visible part has another nucleus/cell area than experts judged.
MIN_WHOLE = 0.98
#: Standard deviation of the log scale: a stated µm/px is often wrong by 15 %.
SCALE_JITTER = 0.13
#: Further cells of a patch are ignored.
MAX_CELLS = 16

#: The eight rotations and flips, as matrices from the image to the canvas.
_TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
DIHEDRAL = np.concatenate([_TURNS, np.array([[-1, 0], [0, 1]]) @ _TURNS]).astype(float)


class PatchSampler:
    """Sampler of augmented patches.

    The same generator state gives the same batch on one kind of device.

    Parameters
    ----------
    examples
        Labelled images.
    working_mpp
        The network's scale in µm/px.
    hard
        Factor on the frequency of the stages of maturation, which experts also confuse most.
    device
        Device that draws and trains.
    stain, as_stained
        As for `draw_photometry`.
    """

    def __init__(
        self,
        examples: list[Example],
        working_mpp: float,
        hard: float = 1.0,
        device: str | torch.device = "cpu",
        stain: float = 1.0,
        as_stained: float = 0.0,
    ) -> None:
        self.images: ImageCache = load_images(examples, working_mpp, device)
        self.device, self.stain, self.as_stained = torch.device(device), stain, as_stained
        self.cumulative_weights = np.cumsum(sampling_weights(examples, hard))

    def batch(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Tensor, Targets]:
        """Draw `count` patches, uint8 [B, 3, S, S], with their targets, on the device.

        S is a multiple of 32.
        """
        plan = self.plan(rng, count, size_px)
        return render_batch(self.images, plan, self.device)

    def plan(self, rng: np.random.Generator, count: int, size_px: int) -> BatchPlan:
        """Plan a batch.

        Steps: split the canvases (whole, in two or in four); choose an example, an orientation and
        a place for each part; find the visible cells; draw the stain.
        """
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
        """Choose a cell's centre, or any place without cells: [B, 4, 2] in image pixels."""
        images = self.images
        cell = (rng.random(example.shape) * images.n_cells[example]).astype(int)
        box = images.boxes_xyxy[example, cell]
        anywhere = rng.random((*example.shape, 2)) * images.size_wh[example]
        centre = (box[..., :2] + box[..., 2:]) / 2
        focus: np.ndarray = np.where(images.n_cells[example][..., None] > 0, centre, anywhere)
        return focus

    @staticmethod
    def _middle(rng: np.random.Generator, rects: np.ndarray, size_px: int) -> np.ndarray:
        """Choose the focus's position on the canvas near the part's centre: [B, 4, 2]."""
        near = (rng.random(rects.shape[:2]) < 0.6) | (size_px < CLOSE_CANVAS_PX)
        off = (
            rng.normal(0, 1, (*rects.shape[:2], 2)) * np.where(near, 0.05, 0.22)[..., None]
        ).clip(-0.45, 0.45)
        size = rects[..., 2:] - rects[..., :2]
        middle: np.ndarray = (rects[..., :2] + rects[..., 2:]) / 2 + off * size
        return middle

    def _targets(
        self, example: np.ndarray, boxes: np.ndarray, is_cell: np.ndarray, rects: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Make the targets of visible cells [B, N, …], and the boxes [B, D, 4] of ignored cells."""
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
        image, cell = np.repeat(example, c, 1)[rows, order], np.tile(np.arange(c), 4)[order]
        present = kept[rows, order]
        x0, y0, x1, y1 = np.moveaxis(
            np.where(present[..., None], clipped[rows, order], [0.0, 0.0, 1.0, 1.0]), -1, 0
        )
        targets = {
            "present": present,
            "boxes_cxcywh": np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1).astype(
                np.float32
            ),
            "box_weight": images.box_weight[image, cell] * present,
            "allowed": images.allowed[image, cell] & present[..., None],
            "attributes": np.where(present[..., None], images.attributes[image, cell], -1),
            "nc_class": np.where(
                present & (visible[rows, order] >= MIN_WHOLE), images.nc_class[image, cell], -1
            ),
            "mask_weight": images.mask_weight[image, cell] * present,
        }
        ignored = (visible > 0) & ~kept
        ignored_rows = np.argsort(~ignored, axis=1, kind="stable")[
            :, : int(ignored.sum(1).max(initial=0))
        ]
        return targets, np.where(
            ignored[rows, ignored_rows][..., None], clipped[rows, ignored_rows], 0.0
        )


def _split(rng: np.random.Generator, count: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Split canvases in two (large ones also in four) at random: cut_xy [B, 2], split [B, 2]."""
    large = s >= LARGE_CANVAS_PX
    cut = (s * rng.uniform(0.38, 0.62, (count, 2))).astype(np.int64)
    mosaic = (rng.random(count) < MOSAIC_SHARE["large" if large else "small"]) & (
        s >= CLOSE_CANVAS_PX
    )
    kind = rng.integers(3 if large else 2, size=count)
    return cut, np.stack([mosaic & (kind != 1), mosaic & (kind != 0)], 1)


def _rects(cut: np.ndarray, split: np.ndarray, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the four parts of each canvas, float [B, 4, 4], and which exist, bool [B, 4]."""
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
    """Map boxes [B, 4, C, 4] from images to the canvas; quarter turns keep them tight."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    centre = np.einsum("bpij,bpcj->bpci", linear, centre - focus[:, :, None]) + middle[:, :, None]
    half = np.einsum("bpij,bpcj->bpci", np.abs(linear), half)
    return np.concatenate([centre - half, centre + half], -1)


def _would_mirror_a_cell(
    images: ImageCache, example: np.ndarray, rects: np.ndarray, to_source: np.ndarray
) -> np.ndarray:
    """Return whether a mirrored image would show a labelled cell again, unlabelled: bool [B, 4]."""
    corners = np.stack([rects[..., :2], rects[..., 2:]], -1)  # [B, 4, 2, 2 corners]
    source = np.einsum("bpij,bpjk->bpik", to_source[..., :2], corners) + to_source[..., 2:]
    size = images.size_wh[example]
    # Pixels beyond the image's left, top, right and bottom.
    over = np.concatenate([-source.min(-1), source.max(-1) - size], -1)
    boxes = images.boxes_xyxy[example]
    room = np.concatenate([boxes[..., :2], size[:, :, None] - boxes[..., 2:]], -1)
    is_cell = np.arange(boxes.shape[2]) < images.n_cells[example][..., None]
    beyond: np.ndarray = over[:, :, None] > room
    mirrored = np.any(beyond, axis=-1) & is_cell
    any_cell: np.ndarray = np.asarray(mirrored.any(-1))
    return any_cell


def sampling_weights(examples: list[Example], hard: float) -> np.ndarray:
    """Return each example's probability: its source's share, with classes balanced in a source.

    A class's frequency in a source is the square root of its number of examples.
    """
    keys = [(e.source, e.cells[0].allowed if e.cells else ()) for e in examples]
    counts = Counter(keys)
    raw = np.array(
        [counts[k] ** -0.5 * (hard if k[1] and set(k[1]) <= HARD_CLASSES else 1.0) for k in keys]
    )
    raw *= [MULTILOBED_WEIGHT if _has_multilobed(e) else 1.0 for e in examples]
    for source in {e.source for e in examples}:
        of_source = np.array([e.source == source for e in examples])
        raw[of_source] *= SOURCE_SHARE.get(source, 0.1) / raw[of_source].sum()
    weights: np.ndarray = raw / raw.sum()
    return weights


def _has_multilobed(example: Example) -> bool:
    """Return whether a cell of the image has a multilobed nucleus."""
    return any(("nucleus_shape", "multilobed") in cell.attributes for cell in example.cells)
