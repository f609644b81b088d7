"""Cache of all training images at the working scale, on the training device.

Pixels, label map and ignore map are packed in one flat tensor of four bytes per pixel. One gather
then draws a patch, whatever the images' sizes. 6,000 images of 300 px per side take 2.2 GB.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ...vocabulary import ATTRIBUTES, CLASS_NAMES, N_CLASSES
from .centred_patches import background_colour, resize
from .examples import NC_CLASSES, Example, load_mask, load_rgb

#: Side of the nominal box where only a cell's centre is known; it is not a training target.
NOMINAL_UM: dict[tuple[str, ...], float] = {("platelet",): 4.0, ("erythroblast",): 11.0}
NOMINAL_CELL_UM = 14.0

#: Bits of the fourth byte.
LABEL_BITS, IGNORE_BIT = 3, 4
#: Optical density of each pixel value; 0 for white.
_OD_TABLE = -np.log10((np.arange(256) + 1.0) / 256.0).astype(np.float32)


@dataclass(frozen=True)
class ImageCache:
    """E examples with at most C cells each; lengths are pixels at the working scale.

    Attributes
    ----------
    packed : Tensor of uint8 [T, 4]
        Red, green, blue, and label (0 outside, 1 cytoplasm, 2 nucleus) with IGNORE_BIT.
    start : ndarray of int64 [E]
        First row of each image in `packed`.
    size_wh : ndarray of int64 [E, 2]
    ground : ndarray of float32 [E, 3]
        The glass's colour.
    n_cells : ndarray of int64 [E]
    boxes_xyxy : ndarray of float64 [E, C, 4]
        A nominal central box if the extent is unknown.
    box_weight, mask_weight : ndarray of float32 [E, C]
        0 without a box or mask.
    allowed : ndarray of bool [E, C, K]
    attributes, nc_class : ndarray of int64 [E, C, A], [E, C]
        -1 if unknown.
    """

    packed: Tensor
    start: np.ndarray
    size_wh: np.ndarray
    ground: np.ndarray
    n_cells: np.ndarray
    boxes_xyxy: np.ndarray
    box_weight: np.ndarray
    mask_weight: np.ndarray
    allowed: np.ndarray
    attributes: np.ndarray
    nc_class: np.ndarray


def load_images(examples: list[Example], mpp: float, device: str | torch.device) -> ImageCache:
    """Decode the examples to `mpp` µm/px on all available cores.

    The last result is cached, so consecutive trainings on the same images decode them once.

    Raises
    ------
    DataError
        An image cannot be read.
    """
    return _load_images(tuple(examples), mpp, str(device))


@lru_cache(maxsize=1)
def _load_images(examples: tuple[Example, ...], mpp: float, device: str) -> ImageCache:
    """Decode and pack the examples."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(lambda e: _decode(e, mpp), examples))
    sizes = np.array([p.shape[1::-1] for p in images], np.int64).reshape(-1, 2)
    lengths = sizes.prod(1)
    start = (
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        if len(lengths)
        else np.zeros(0, np.int64)
    )
    packed = torch.empty((int(lengths.sum()), 4), dtype=torch.uint8)
    for at, picture in zip(start, images, strict=True):
        flat = picture.reshape(-1, 4)
        packed[at : at + len(flat)] = torch.from_numpy(flat)
    ground = np.array([background_colour(p[..., :3]) for p in images], np.float32).reshape(-1, 3)
    return ImageCache(packed.to(device), start, sizes, ground, *_labels(examples, sizes, mpp))


def _decode(example: Example, mpp: float) -> np.ndarray:
    """Decode one image to uint8 [h, w, 4] at the working scale."""
    rgb = load_rgb(example.path)
    ignore = _unlabelled(example, rgb)
    scaled = resize(rgb, example.mpp / mpp)
    size = scaled.shape[1::-1]
    last = np.asarray(
        Image.fromarray(ignore.view(np.uint8) * np.uint8(IGNORE_BIT)).resize(
            size, Image.Resampling.NEAREST
        )
    )
    if example.mask_path:
        label = Image.fromarray(load_mask(example.mask_path)).resize(size, Image.Resampling.NEAREST)
        last = last | np.asarray(label)
    return np.ascontiguousarray(np.dstack([scaled, last]))


def _unlabelled(e: Example, rgb: np.ndarray) -> np.ndarray:
    """Mark where unlabelled cells may lie: bool [H, W]."""
    h, w = rgb.shape[:2]
    boxes = cell_boxes(e, (w, h), 1.0)
    ignore = np.zeros((h, w), bool)
    if e.bystanders != "none":
        ignore = (
            np.ones((h, w), bool) if e.bystanders == "anywhere" else possible_nuclei(rgb, boxes)
        )
        for x0, y0, x1, y1 in boxes:
            pad = 0.04 * (x1 - x0)
            ignore[
                max(int(y0 - pad), 0) : int(y1 + pad) + 1, max(int(x0 - pad), 0) : int(x1 + pad) + 1
            ] = False
    for x0, y0, x1, y1 in e.ignored:
        ignore[max(int(y0), 0) : int(y1) + 1, max(int(x0), 0) : int(x1) + 1] = True
    return ignore


def possible_nuclei(
    rgb: np.ndarray, boxes_xyxy: list[np.ndarray], factor: float = 0.55
) -> np.ndarray:
    """Mark pixels stained nearly as dark as a nucleus: bool [H, W].

    The threshold follows the labelled cells' own darkness in red light, which nuclei absorb and red
    cells hardly do. The image is slightly blurred, so granular dirt does not count.
    """
    # A box of 5 px per side. Pillow releases the lock for other threads.
    red = Image.fromarray(rgb[..., 0]).filter(ImageFilter.BoxBlur(2))
    od = _OD_TABLE[np.asarray(red)]
    ground = np.percentile(od[::4, ::4], 8)
    inside = [
        od[int(max(y0, 0)) : int(y1) + 1 : 2, int(max(x0, 0)) : int(x1) + 1 : 2].ravel()
        for x0, y0, x1, y1 in boxes_xyxy
    ]
    dark = (
        np.percentile(np.concatenate(inside), 85)
        if inside and sum(map(len, inside))
        else ground + 0.5
    )
    nuclear: np.ndarray = od > ground + factor * (dark - ground)
    return nuclear


def cell_boxes(e: Example, size_wh: np.ndarray | tuple[int, int], scale: float) -> list[np.ndarray]:
    """Return each cell's box at `scale` in an image of size_wh.

    Cells without a box get a nominal box in the image's centre.
    """
    middle = np.array(size_wh, float) / 2
    boxes = []
    for c in e.cells:
        half = NOMINAL_UM.get(c.allowed, NOMINAL_CELL_UM) / e.mpp * scale / 2
        nominal = np.concatenate([middle - half, middle + half])
        boxes.append(nominal if c.box_xyxy is None else np.asarray(c.box_xyxy, float) * scale)
    return boxes


def _labels(examples: tuple[Example, ...], sizes: np.ndarray, mpp: float) -> tuple[np.ndarray, ...]:
    """Make the label arrays of `ImageCache`, from `n_cells` to `nc_class`."""
    e, c = len(examples), max([len(x.cells) for x in examples], default=0) or 1
    boxes = np.tile(np.array([0.0, 0.0, 1.0, 1.0]), (e, c, 1))
    box_weight, mask_weight = np.zeros((e, c), np.float32), np.zeros((e, c), np.float32)
    allowed, attributes = (
        np.zeros((e, c, N_CLASSES), bool),
        np.full((e, c, len(ATTRIBUTES)), -1, np.int64),
    )
    nc_class = np.full((e, c), -1, np.int64)
    for i, example in enumerate(examples):
        for k, (cell, box) in enumerate(
            zip(example.cells, cell_boxes(example, sizes[i], example.mpp / mpp), strict=True)
        ):
            boxes[i, k] = box
            box_weight[i, k] = 0.0 if cell.box_xyxy is None else (1.0 if cell.box_trusted else 0.5)
            mask_weight[i, k] = example.mask_weight if example.mask_path else 0.0
            allowed[i, k, [CLASS_NAMES.index(name) for name in cell.allowed]] = True
            nc_class[i, k] = NC_CLASSES.index(cell.nc_class) if cell.nc_class else -1
            known = dict(cell.attributes)
            for j, a in enumerate(ATTRIBUTES):
                if a.name in known:
                    attributes[i, k, j] = a.states.index(known[a.name])
    n_cells = np.array([len(x.cells) for x in examples], np.int64)
    return n_cells, boxes, box_weight, mask_weight, allowed, attributes, nc_class
