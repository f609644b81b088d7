"""Drawing of planned training patches on the device, the whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.matcher import Targets
from .augmentation import Photometry, apply_photometry
from .image_cache import IGNORE_BIT, LABEL_BITS, ImageCache

_ToDevice = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class BatchPlan:
    """Plan of B patches of S px, each of up to four parts.

    Part 0 is top left, part 1 right of `cut_xy`, part 2 below it, part 3 both.

    Attributes
    ----------
    cut_xy : ndarray of int64 [B, 2]
    split : ndarray of bool [B, 2]
        Whether there is a part to the right, and one below.
    example : ndarray of int64 [B, 4]
    to_source : ndarray of float64 [B, 4, 2, 3]
        Affine map from canvas pixels to image pixels.
    plain : ndarray of bool [B, 4]
        Whether the glass's colour fills the canvas outside the image, instead of its mirror image.
    dropped : ndarray of float64 [B, D, 4]
        Boxes of hardly visible cells, which are ignored; zeros for none.
    targets : dict of ndarray
        Targets without labels and ignore map, which are drawn.
    photometry : Photometry
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


def render_batch(
    images: ImageCache, plan: BatchPlan, device: torch.device
) -> tuple[Tensor, Targets]:
    """Draw planned patches, stain them and make their targets."""

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


def _gather_pixels(images: ImageCache, plan: BatchPlan, to: _ToDevice) -> tuple[Tensor, Tensor]:
    """Gather pixels float [B, 3, S, S] in 0..255, and the nearest fourth byte uint8 [B, S, S].

    Interpolation is bicubic (Keys 1981, a = -0.5, as Pillow's). Outside the image the canvas shows
    its mirror image or plain glass.
    """
    s, b = plan.size_px, len(plan.example)
    at = torch.arange(s, device=images.packed.device, dtype=torch.float32) + 0.5
    beyond = to(plan.split)[..., None] & (at >= to(plan.cut_xy)[..., None])  # [B, 2, S]
    part = (beyond[:, 0, None, :].long() + 2 * beyond[:, 1, :, None].long()).flatten(1)

    def of_part(array: np.ndarray) -> Tensor:
        part_values: Tensor = to(array).gather(1, part)
        return part_values.reshape(b, s, s)

    m = plan.to_source.astype(np.float32)
    x = of_part(m[..., 0, 0]) * at + of_part(m[..., 0, 1]) * at[:, None] + of_part(m[..., 0, 2])
    y = of_part(m[..., 1, 0]) * at + of_part(m[..., 1, 1]) * at[:, None] + of_part(m[..., 1, 2])
    w, h = (of_part(images.size_wh[plan.example][..., k].astype(np.float32)) for k in (0, 1))
    start, wide = of_part(images.start[plan.example]), w.long()
    flat = images.packed.view(torch.int32)[:, 0]

    def pixel_bytes(line: Tensor, column: Tensor) -> Tensor:
        return torch.unflatten(flat[line + column].view(torch.uint8), -1, (s, 4))

    def line(row: Tensor) -> Tensor:
        return start + row * wide

    nearest = pixel_bytes(line(_mirror_index(y.floor(), h)), _mirror_index(x.floor(), w))[..., 3]
    (columns, across), (rows, down) = _bicubic_taps(x, w), _bicubic_taps(y, h)
    pixels = torch.zeros(b, s, s, 4, device=at.device)
    for row, weight_y in zip(rows, down, strict=True):
        of_row = line(row)
        for column, weight_x in zip(columns, across, strict=True):
            pixels.addcmul_(pixel_bytes(of_row, column).float(), (weight_y * weight_x)[..., None])
    outside = (x < 0) | (y < 0) | (x >= w) | (y >= h)
    glass = outside & of_part(plan.plain)
    ground = torch.stack([of_part(images.ground[plan.example][..., k]) for k in range(3)], -1)
    pixels = torch.where(glass[..., None], ground, pixels[..., :3]).clamp(0, 255)
    # A mirrored cell is no label.
    last = torch.where(outside, nearest & IGNORE_BIT, nearest) * ~glass
    return pixels.permute(0, 3, 1, 2), last


def _bicubic_taps(x: Tensor, n: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the four image positions around each x, mirrored into 0..n-1, and their weights.

    Pixel centres lie at halves.
    """
    first = (x - 0.5).floor()
    t = x - 0.5 - first
    distances = (t + 1, t, 1 - t, 2 - t)
    near = [((1.5 * d - 2.5) * d * d + 1) for d in distances[1:3]]
    far = [((-0.5 * d + 2.5) * d - 4) * d + 2 for d in (distances[0], distances[3])]
    return [_mirror_index(first + k, n) for k in (-1, 0, 1, 2)], [far[0], near[0], near[1], far[1]]


def _mirror_index(index: Tensor, n: Tensor) -> Tensor:
    """Reflect whole numbers into 0..n-1, as often as needed, int64: -1 -> 0, n -> n - 1.

    The computation uses floats, which are divided faster than int64. They hold the side of any
    image exactly.
    """
    index = index - 2 * n * torch.floor((index + 0.5) / (2 * n))
    return torch.minimum(index, 2 * n - 1 - index).long()


def _box_mask(boxes_xyxy: Tensor, size_px: int) -> Tensor:
    """Mark pixels inside any of the boxes [B, D, 4]: bool [B, S, S]. Empty boxes cover nothing."""
    at = torch.arange(size_px, device=boxes_xyxy.device)
    covered = torch.zeros(
        len(boxes_xyxy), size_px, size_px, dtype=torch.bool, device=boxes_xyxy.device
    )
    for box in boxes_xyxy.unbind(1):
        across, down = ((at + 1 > box[:, k, None]) & (at < box[:, k + 2, None]) for k in (0, 1))
        covered |= across[:, None, :] & down[..., None] & (box[:, 2] > box[:, 0])[:, None, None]
    return covered
