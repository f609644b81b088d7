"""Send the patches of one region through the network in batches, and count the costs."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..geometry import centres
from ..records import CENTRAL_CELL_UM, Cells, PatchBatch
from ..slides import patches
from ..slides.reader import SlideReader

if TYPE_CHECKING:
    from ..model.checkpoint import WeightsCard
    from ..model.predictor import Prediction

CPU_BATCH, GPU_BATCH = 8, 64  # patches; a GPU takes all patches of a usual region at once


@dataclass(frozen=True)
class PatchDetections:
    """N cells as patches showed them.

    Attributes
    ----------
    cut
        bool [N]: the cell touches its patch's border.
    patch_centres_xy
        float64 [N, 2]: centre of the cell's patch (level-0 pixels).
    saturated_xy
        float64 [S, 2]: centres of the saturated patches. They have as many cells as queries, so they
        may contain more.
    """

    cells: Cells
    cut: np.ndarray
    patch_centres_xy: np.ndarray
    saturated_xy: np.ndarray

    def take(self, rows: np.ndarray) -> PatchDetections:
        """Return the cells at `rows`. The saturated patches stay."""
        return PatchDetections(
            self.cells.take(rows), self.cut[rows], self.patch_centres_xy[rows], self.saturated_xy
        )

    def centres_xy(self) -> np.ndarray:
        """Return the centres of the cells' boxes: float64 [N, 2]."""
        return centres(self.cells.boxes_xyxy.astype(np.float64))

    def is_central(self, mpp: float) -> np.ndarray:
        """Return whether each cell is the one on which its patch is centred: bool [N]."""
        off_centre_px = np.hypot(*(self.centres_xy() - self.patch_centres_xy).T)
        central: np.ndarray = off_centre_px * mpp <= CENTRAL_CELL_UM
        return central

    def without_patches(self, centres_xy: np.ndarray) -> PatchDetections:
        """Leave out the patches with these centres [M, 2]: their cells, and the patches as saturated ones."""
        left_out = set(map(tuple, centres_xy.tolist()))
        keep = np.array([tuple(xy) not in left_out for xy in self.patch_centres_xy.tolist()], bool)
        saturated = np.array([tuple(xy) not in left_out for xy in self.saturated_xy.tolist()], bool)
        return PatchDetections(
            self.cells.take(keep),
            self.cut[keep],
            self.patch_centres_xy[keep],
            self.saturated_xy[saturated],
        )

    @staticmethod
    def concat(parts: list[PatchDetections]) -> PatchDetections:
        """Join `parts` in order."""
        no_places = np.zeros((0, 2))
        return PatchDetections(
            Cells.concat([p.cells for p in parts]),
            np.concatenate([np.zeros(0, bool), *(p.cut for p in parts)]),
            np.concatenate([no_places, *(p.patch_centres_xy for p in parts)]),
            np.concatenate([no_places, *(p.saturated_xy for p in parts)]),
        )


class PatchNetwork(Protocol):
    """The network for patches. `model.predictor.Predictor` implements it."""

    card: WeightsCard

    @property
    def device(self) -> str:
        """Device of the network, for example "cpu"."""

    def __call__(
        self, batch: PatchBatch, slide_mpp: float, slide_wh: tuple[int, int], /
    ) -> Prediction:
        """Predict the cells in a batch of patches of one slide."""


@dataclass
class PatchPredictor:
    """Predicts the cells in patches of one region.

    `batch_size` may shrink. None: as suits the device.
    """

    reader: SlideReader
    predictor: PatchNetwork
    batch_size: int | None = None
    patches: int = 0
    platelets: int = 0
    seconds_read: float = 0.0
    seconds_network: float = 0.0
    _batch: int = field(init=False)  # current batch size

    def __post_init__(self) -> None:
        self._batch = self.batch_size or (GPU_BATCH if self.prefetches else CPU_BATCH)

    def predict(self, centres_xy: np.ndarray, size_px: int) -> PatchDetections:
        """Predict the cells in square patches of `size_px` centred on `centres_xy` [N, 2].

        Centres are level-0 pixels. On a GPU the next batch is read while the network processes one. A batch
        that is too large for the device is halved and tried again, down to one patch.
        """
        parts: list[PatchDetections] = []
        with ThreadPoolExecutor(1) if self.prefetches else nullcontext() as prefetcher:
            start = 0
            next_batch: Future[PatchBatch] | None = None
            while start < len(centres_xy):
                batch_xy = centres_xy[start : start + self._batch]
                batch = next_batch.result() if next_batch else self._read_batch(batch_xy, size_px)
                next_xy = centres_xy[start + self._batch : start + 2 * self._batch]
                next_batch = (
                    prefetcher.submit(self._read_batch, next_xy, size_px)
                    if prefetcher and len(next_xy)
                    else None
                )
                try:
                    prediction = self._predict_batch(batch)
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error) or len(batch_xy) == 1:
                        raise
                    self._batch = len(batch_xy) // 2
                    if next_batch:
                        next_batch.result()  # it has the old size, and the reader must be free
                        next_batch = None
                    continue
                self.patches += len(batch_xy)
                self.platelets += prediction.platelets
                parts.append(
                    PatchDetections(
                        prediction.cells,
                        prediction.cut,
                        batch_xy[prediction.patch_index],
                        batch_xy[prediction.saturated],
                    )
                )
                start += len(batch_xy)
        return PatchDetections.concat(parts)

    def predict_own_cells(self, centres_xy: np.ndarray, size_px: int) -> PatchDetections:
        """Cells round the candidates `centres_xy` [N, 2], each looked at in a smaller patch first.

        Where the smaller patch cuts its own cell, a patch of `size_px` replaces it. What is found round a candidate
        depends on that candidate alone. On labelled cells one patch in thirty is predicted twice.
        """
        detections = self.predict(centres_xy, small_patch_px(size_px))
        cut_own = detections.cut & detections.is_central(self.reader.slide.mpp)
        cut_xy = np.unique(detections.patch_centres_xy[cut_own], axis=0)
        if not len(cut_xy):
            return detections
        return PatchDetections.concat(
            [detections.without_patches(cut_xy), self.predict(cut_xy, size_px)]
        )

    @property
    def prefetches(self) -> bool:
        """Whether the next batch is read meanwhile, because the network leaves the processor idle."""
        return str(self.predictor.device) != "cpu"

    def _read_batch(self, batch_xy: np.ndarray, size_px: int) -> PatchBatch:
        """Read the pixels of a batch of patches."""
        started = time.perf_counter()
        try:
            return patches.cut_patches(self.reader, batch_xy, self.predictor.card.mpp, size_px)
        finally:
            self.seconds_read += time.perf_counter() - started

    def _predict_batch(self, batch: PatchBatch) -> Prediction:
        """Predict a batch of patches."""
        slide, started = self.reader.slide, time.perf_counter()
        try:
            return self.predictor(batch, slide.mpp, (slide.width, slide.height))
        finally:
            self.seconds_network += time.perf_counter() - started


def small_patch_px(size_px: int) -> int:
    """Side of the patch in which a candidate is looked at first: four fifths, in whole 32 px of the network's stride.

    >>> small_patch_px(320), small_patch_px(128)
    (256, 96)
    """
    return max(32, size_px * 4 // 5 // 32 * 32)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or this machine is out of memory.

    The message decides, so that torch (torch.OutOfMemoryError) is not imported here.
    """
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
