"""Sends the patches of one region through the network, a batch at a time, and keeps count of what that cost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ..geometry import centres
from ..records import OWN_UM, Cells
from ..slides import patches
from ..slides.reader import SlideReader

CPU_BATCH, GPU_BATCH = 8, 64  # patches: few are held at a time; all of a usual region's at once


@dataclass(frozen=True)
class Seen:
    """Cells as patches showed them.

    cells       N of them
    cut         bool [N], the cell touches its patch's border
    patch_xy    float64 [N, 2], centre of the patch that saw it (level-0 pixels)
    crowded_xy  float64 [S, 2], centres of the saturated patches: as many cells as queries, so perhaps more
    """

    cells: Cells
    cut: np.ndarray
    patch_xy: np.ndarray
    crowded_xy: np.ndarray

    def take(self, rows: np.ndarray) -> Seen:
        """Those cells; the crowded patches stay."""
        return Seen(self.cells.take(rows), self.cut[rows], self.patch_xy[rows], self.crowded_xy)

    def centres_xy(self) -> np.ndarray:
        """Centres of the cells' boxes: float64 [N, 2]."""
        return centres(self.cells.boxes_xyxy.astype(np.float64))

    def own(self, mpp: float) -> np.ndarray:
        """Whether each cell is the one that its patch is centred on: bool [N]."""
        return np.hypot(*(self.centres_xy() - self.patch_xy).T) * mpp <= OWN_UM

    @staticmethod
    def joined(parts: list[Seen]) -> Seen:
        """All of `parts` in order."""
        nothing = np.zeros((0, 2))
        return Seen(
            Cells.concat([p.cells for p in parts]),
            np.concatenate([np.zeros(0, bool), *(p.cut for p in parts)]),
            np.concatenate([nothing, *(p.patch_xy for p in parts)]),
            np.concatenate([nothing, *(p.crowded_xy for p in parts)]),
        )


@dataclass
class Eye:
    """One region's view through the network. `predictor` is a model.predictor.Predictor; `batch_size` may shrink (None:
    as suits its device)."""

    reader: SlideReader
    predictor: object
    batch_size: int | None = None
    patches: int = 0
    platelets: int = 0
    seconds_read: float = 0.0
    seconds_network: float = 0.0

    def __post_init__(self):
        self.batch_size = self.batch_size or (GPU_BATCH if self.reads_ahead else CPU_BATCH)

    def see(self, centres_xy: np.ndarray, size_px: int) -> Seen:
        """Cells in the patches of `size_px` squared centred on `centres_xy` [N, 2] (level-0 pixels).

        On a GPU the next batch is read while the network looks at one. A batch too large for the device is halved and
        tried again, down to one patch.
        """
        parts: list[Seen] = []
        with ThreadPoolExecutor(1) if self.reads_ahead else nullcontext() as ahead:
            start, coming = 0, None
            while start < len(centres_xy):
                batch_xy = centres_xy[start : start + self.batch_size]
                batch = coming.result() if coming else self._cut(batch_xy, size_px)
                next_xy = centres_xy[start + self.batch_size : start + 2 * self.batch_size]
                coming = (
                    ahead.submit(self._cut, next_xy, size_px) if ahead and len(next_xy) else None
                )
                try:
                    said = self._ask(batch)
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error) or len(batch_xy) == 1:
                        raise
                    self.batch_size = len(batch_xy) // 2
                    if coming:
                        coming.result()  # of the old size; and nobody else may be reading
                        coming = None
                    continue
                self.patches += len(batch_xy)
                self.platelets += said.platelets
                parts.append(
                    Seen(said.cells, said.cut, batch_xy[said.patch_index], batch_xy[said.saturated])
                )
                start += len(batch_xy)
        return Seen.joined(parts)

    @property
    def reads_ahead(self) -> bool:
        """Where the network leaves the processor idle."""
        return str(self.predictor.device) != "cpu"

    def _cut(self, batch_xy: np.ndarray, size_px: int):
        """The pixels of a batch of patches."""
        begun = time.perf_counter()
        try:
            return patches.cut_patches(self.reader, batch_xy, self.predictor.card.mpp, size_px)
        finally:
            self.seconds_read += time.perf_counter() - begun

    def _ask(self, batch):
        """The prediction for a batch of patches."""
        slide, begun = self.reader.slide, time.perf_counter()
        try:
            return self.predictor(batch, slide.mpp, (slide.width, slide.height))
        finally:
            self.seconds_network += time.perf_counter() - begun


def _is_out_of_memory(error: BaseException) -> bool:
    """Of the device (torch.OutOfMemoryError) or this machine; told by its words, without importing torch here."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
