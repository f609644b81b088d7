"""What may be tried again, and how often: a plan or region that failed unexpectedly, and one that met a lost GPU."""

from __future__ import annotations

from collections import Counter, deque

from ..records import Region
from .slide_work import SlideWork

TRIES = 2  # of a region or plan that fails unexpectedly, the last one alone
_GPU_TRIES = 8  # of a region that met a lost GPU: each worker may have one


class Chances:
    """Keeps count. `suspects` are those that wait to be tried alone: (slide, region; None for its plan)."""

    def __init__(self):
        self.suspects: deque[tuple[SlideWork, Region | None]] = deque()
        self._taken: Counter[tuple] = Counter()

    def again(self, work: SlideWork, region: Region | None) -> bool:
        """Whether a plan or region that failed unexpectedly has a try left; it is a suspect then, and still owed."""
        if self._used(work, region, "") >= TRIES:
            return False
        work.in_flight += 1
        self.suspects.append((work, region))
        return True

    def again_without_gpu(self, work: SlideWork, region: Region) -> bool:
        """Whether a region that met a lost GPU, and is not to blame, may meet another."""
        return self._used(work, region, "GPU") < _GPU_TRIES

    def _used(self, work: SlideWork, region: Region | None, of: str) -> int:
        key = (work.slide_id, region and region.index, of)
        self._taken[key] += 1
        return self._taken[key]
