"""What may be tried again, and how often: a plan or region that failed unexpectedly, and one that met a lost GPU."""

from __future__ import annotations

from collections import Counter, deque

from ..records import Region
from .slide_job import SlideJob

MAX_ATTEMPTS = 2  # of a region or plan that fails unexpectedly, the last one alone
_MAX_GPU_ATTEMPTS = 8  # of a region that met a lost GPU: each worker may have one


class RetryPolicy:
    """Keeps count. `quarantined` are those that wait to be tried alone: (slide, region; None for its plan)."""

    def __init__(self):
        self.quarantined: deque[tuple[SlideJob, Region | None]] = deque()
        self._attempts: Counter[tuple] = Counter()

    def should_retry(self, job: SlideJob, region: Region | None) -> bool:
        """Whether a plan or region that failed unexpectedly has a try left; it is quarantined then, and still owed."""
        if self._count_attempt(job, region, "") >= MAX_ATTEMPTS:
            return False
        job.in_flight += 1
        self.quarantined.append((job, region))
        return True

    def should_retry_without_gpu(self, job: SlideJob, region: Region) -> bool:
        """Whether a region that met a lost GPU, and is not to blame, may meet another."""
        return self._count_attempt(job, region, "GPU") < _MAX_GPU_ATTEMPTS

    def _count_attempt(self, job: SlideJob, region: Region | None, kind: str) -> int:
        key = (job.slide_id, region and region.index, kind)
        self._attempts[key] += 1
        return self._attempts[key]
