"""One slide on its way through a run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..errors import SlideError
from ..geometry import clipped, union_area
from ..records import Rect, Region, RegionResult, Slide, TilePlan
from ..results.journal import RegionJournal
from ..slides.discovery import SlideFile


@dataclass
class SlideJob:
    """One slide on its way. `state`: waiting, working, done, skipped, failed or not reached."""

    file: SlideFile
    slide: Slide | None = None
    fingerprint: str = ""
    journal: RegionJournal | None = None
    plan: TilePlan | None = None
    todo: deque[Region] = field(default_factory=deque)
    in_flight: int = 0
    unreadable: dict[int, RegionResult] = field(
        default_factory=dict
    )  # regions that could not be read
    damaged: dict[Rect, str] = field(default_factory=dict)  # places that no region could decode
    state: str = "waiting"
    reason: str = ""
    failed_permanently: bool = (
        False  # trying again would not help, unless slide, weights or settings change
    )
    cells: int = 0
    warnings: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()  # of the warnings, those that the log says when the slide is done
    started_at: float = 0.0
    seconds: float = 0.0

    @property
    def slide_id(self) -> str:
        return self.file.slide_id

    def all_regions_finished(self) -> bool:
        """Whether every region is back."""
        return (
            self.state == "working"
            and self.plan is not None
            and not self.todo
            and not self.in_flight
        )


def unreadable_areas(job: SlideJob) -> dict[int, float]:
    """Of each region, the part of its core (level-0 pixels squared) that could not be read: all of it, or some tiles."""
    rects = np.array(sorted(job.damaged), np.int64).reshape(-1, 4)
    areas = {}
    for region in job.plan.regions:
        core = np.array([region.core])
        whole = region.index in job.unreadable
        areas[region.index] = union_area(core if whole else clipped(rects, region.core))
    return areas


def unreadable_share(job: SlideJob) -> float:
    """Share of the scanned area that could not be read, 0..1."""
    scanned = sum((r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in job.plan.regions)
    return sum(unreadable_areas(job).values()) / max(1, scanned)


def failure_reason(job: SlideJob, error: BaseException) -> str:
    """An error in words; an unexpected one with its kind and the slide's name."""
    if isinstance(error, SlideError):
        return str(error)
    return f"slide {job.slide_id!r} ({job.file.path}): {type(error).__name__}: {error}"
