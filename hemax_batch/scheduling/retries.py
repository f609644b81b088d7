"""Retry policy for failed tasks.

A region or plan that fails unexpectedly is retried once, alone. A region that met a lost GPU is
retried up to seven times, because it did not cause the loss.
"""

from __future__ import annotations

from collections import Counter, deque

from ..records import Region
from .slide_job import SlideJob

MAX_ATTEMPTS = 2  # of a region or plan that fails unexpectedly; the last one is alone
_MAX_GPU_ATTEMPTS = 8  # of a region that met a lost GPU; each worker may lose one


class RetryPolicy:
    """Counts the attempts of regions and plans.

    Attributes
    ----------
    quarantined
        Tasks that wait to be tried alone, as (slide, region). The region is None for a plan.
    """

    def __init__(self) -> None:
        self.quarantined: deque[tuple[SlideJob, Region | None]] = deque()
        self._attempts: Counter[tuple[str, int | None, str]] = Counter()

    def should_retry(self, job: SlideJob, region: Region | None) -> bool:
        """Return whether a plan or region that failed unexpectedly may be tried again.

        If so, it is quarantined and still counts as in flight.
        """
        if self._count_attempt(job, region, "") >= MAX_ATTEMPTS:
            return False
        job.in_flight += 1
        self.quarantined.append((job, region))
        return True

    def should_retry_without_gpu(self, job: SlideJob, region: Region) -> bool:
        """Return whether a region that met a lost GPU may be tried again."""
        return self._count_attempt(job, region, "GPU") < _MAX_GPU_ATTEMPTS

    def _count_attempt(self, job: SlideJob, region: Region | None, kind: str) -> int:
        """Count an attempt and return the number of attempts so far."""
        key = (job.slide_id, region.index if region else None, kind)
        self._attempts[key] += 1
        return self._attempts[key]
