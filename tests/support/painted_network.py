"""A stand-in for the network on painted slides (`painted_slides.smear`): sees violet discs, exactly and fast.

It keeps the real one's contract (model.predictor): what it says of a patch depends on that patch alone. Workers take
part through `process_region` here, which is the real one with this network in the place of the real.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from hemax_batch import vocabulary
from hemax_batch.geometry import centres
from hemax_batch.inference import region_task
from hemax_batch.inference.config import RegionTask
from hemax_batch.mask_packing import pack_mask
from hemax_batch.model.checkpoint import read_card
from hemax_batch.records import Cells, PatchBatch, RegionResult

N_QUERIES = 12


@dataclass(frozen=True)
class Prediction:
    """As model.predictor.Prediction, without importing torch."""

    cells: Cells
    patch_index: np.ndarray
    cut: np.ndarray
    saturated: np.ndarray
    platelets: int


class PaintedNetwork:
    """Call it with a PatchBatch, as a model.predictor.Predictor."""

    def __init__(self, weights: str | None, device: str = "cpu"):
        self.card, self.device = read_card(weights), device

    def __call__(
        self, batch: PatchBatch, level0_mpp: float, slide_size: tuple[int, int]
    ) -> Prediction:
        _fail_as_ordered(len(batch))
        parts, index, cut, saturated = [], [], [], []
        for b, pixels in enumerate(batch.pixels):
            cells, touches = self._see(
                pixels, batch.origins[b], batch.scale, level0_mpp, slide_size
            )
            parts.append(cells.take(slice(N_QUERIES)))
            cut.append(touches[:N_QUERIES])
            index += [b] * len(parts[-1])
            saturated.append(len(cells) >= N_QUERIES)
        joined = np.concatenate([np.zeros(0, bool), *cut])
        return Prediction(
            Cells.concat(parts), np.array(index, np.int32), joined, np.array(saturated, bool), 0
        )

    def _see(self, pixels, origin, scale, mpp, slide_size):
        """Violet discs of one patch uint8 [3, H, W], in level-0 pixels, and whether each touches the patch's border."""
        red, green, blue = pixels.astype(int)
        labels, _ = ndimage.label((blue > green + 40) & (red < 190))
        found, touches = [], []
        for rows, columns in ndimage.find_objects(labels):
            box = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
            if min(box[2] - box[0], box[3] - box[1]) < 2.0 / self.card.mpp:
                continue
            level0 = np.rint(box * scale + np.tile(origin, 2)).astype(int)
            level0 = np.clip(level0, 0, [*slide_size, *slide_size])
            if (level0[2:] - level0[:2] < 2).any():
                continue
            found.append(
                self._cell(level0, origin + np.array(pixels.shape[:0:-1]) / 2 * scale, mpp)
            )
            touches.append(
                bool((box[:2] < 1.5).any() or (box[2:] > np.array(pixels.shape[:0:-1]) - 1.5).any())
            )
        return Cells.concat(found), np.array(touches, bool)

    def _cell(self, box: np.ndarray, patch_centre: np.ndarray, mpp: float) -> Cells:
        w, h = box[2:] - box[:2]
        yy, xx = np.mgrid[:h, :w]
        distance = np.hypot((xx + 0.5) / w - 0.5, (yy + 0.5) / h - 0.5)
        mask = (distance <= 0.5).astype(np.uint8) + (distance <= 0.3)
        off_um = float(np.hypot(*(centres(box[None])[0] - patch_centre)) * mpp)
        probs = np.full((1, vocabulary.N_CLASSES), 0.01, np.float32)
        probs[0, int(w + h) % 10] = 1 - 0.01 * (vocabulary.N_CLASSES - 1)
        attributes = np.concatenate(
            [np.eye(len(a.states), dtype=np.float32)[:1] for a in vocabulary.ATTRIBUTES], 1
        )
        return Cells(
            box[None].astype(np.float32),
            np.full(1, 0.9, np.float32),
            probs,
            attributes,
            box[None, :2].astype(np.int32),
            np.array([[h, w]], np.int32),
            (pack_mask(mask),),
            np.array([off_um], np.float32),
            np.zeros(1, np.int32),
            (b"",),
        )


def _fail_as_ordered(patches: int) -> None:
    """HEMAX_TEST_FAULT `gpu:NAME`: that GPU (or any, without a name) is lost; `oom`: no room for two patches."""
    kind, _, name = os.environ.get("HEMAX_TEST_FAULT", "").partition(":")
    if kind == "gpu" and os.environ.get("CUDA_VISIBLE_DEVICES") in (
        (name,) if name else ("0", "1")
    ):
        raise RuntimeError(
            "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"
        )
    if kind == "oom" and patches > 1:
        raise RuntimeError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"
        )


def process_region(task: RegionTask) -> RegionResult:
    """The real one, with this network. What HEMAX_TEST_FAULT names happens first (see the tests that set it):

    `slow:S` every region takes S s longer; `gate:FILE:N` regions from N wait until FILE exists; `die` region 0 ends its
    process each time, `die-once:FOLDER` some do so once; `hang` region 0 hangs; `hog:BYTES` region 1 takes that much
    memory unless it is alone with one patch at a time.
    """
    region_task.load_predictor = lambda weights, _sha256, device, *_engine: PaintedNetwork(
        weights, device
    )
    fault = os.environ.get("HEMAX_TEST_FAULT", "")
    if fault.startswith("slow:"):
        time.sleep(float(fault.removeprefix("slow:")))
    if fault.startswith("die-once:"):
        marker = (
            Path(fault.removeprefix("die-once:")) / f"{task.slide.slide_id}-{task.region.index}"
        )
        if task.region.index in (1, 4) and not marker.exists():
            marker.touch()
            os._exit(1)
    if fault.startswith("gate:"):
        _, file, first = fault.split(":")
        while task.region.index >= int(first) and not Path(file).exists():
            time.sleep(0.05)
    if fault.startswith("hog:") and task.region.index == 1 and task.config.batch_size != 1:
        hoard = np.ones(int(fault.removeprefix("hog:")), np.uint8)
        time.sleep(60 + hoard[-1])
    if fault in ("die", f"kills:{task.slide.slide_id}") and task.region.index == 0:
        os._exit(1)
    if fault == "hang" and task.region.index == 0:
        region_task.infer_region = lambda *_: time.sleep(60)
    return region_task.process_region(task)


def install() -> None:
    """Put it in the place of the real network for runs in this process and its workers."""
    from hemax_batch.scheduling import work_queue

    work_queue.process_region = process_region


if __name__ == "__main__":  # the command line with this network: python painted_network.py run …
    install()
    from hemax_batch.cli.app import main

    main()
