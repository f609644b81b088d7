"""The state of one slide in a run."""

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
    """One slide in a run.

    Attributes
    ----------
    state
        "waiting", "working", "done", "skipped", "failed" or "not reached".
    reason
        Why the slide is in that state.
    slide, fingerprint, journal
        Set when the slide is opened.
    plan
        Set when the slide is planned.
    todo
        Regions that have not been submitted.
    in_flight
        Tasks of this slide that have not ended.
    unreadable
        Results of regions that could not be read, by index.
    damaged
        Places that no region could decode, each with the reason.
    failed_permanently
        Trying again does not help, unless slide, weights or settings change.
    """

    file: SlideFile
    slide: Slide = field(init=False, repr=False, compare=False)
    fingerprint: str = ""
    journal: RegionJournal = field(init=False, repr=False, compare=False)
    plan: TilePlan = field(init=False, repr=False, compare=False)
    todo: deque[Region] = field(default_factory=deque)
    in_flight: int = 0
    unreadable: dict[int, RegionResult] = field(default_factory=dict)
    damaged: dict[Rect, str] = field(default_factory=dict)
    state: str = "waiting"
    reason: str = ""
    failed_permanently: bool = False
    cells: int = 0
    warnings: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()  # of the warnings, those that the log says when the slide is done
    started_at: float = 0.0
    seconds: float = 0.0

    @property
    def slide_id(self) -> str:
        """Name of the slide's results folder."""
        return self.file.slide_id

    @property
    def has_journal(self) -> bool:
        """Whether the journal was opened."""
        return hasattr(self, "journal")

    @property
    def has_plan(self) -> bool:
        """Whether the slide was planned."""
        return hasattr(self, "plan")

    def all_regions_finished(self) -> bool:
        """Return whether every region has ended."""
        return self.state == "working" and self.has_plan and not self.todo and not self.in_flight


def unreadable_areas(job: SlideJob) -> dict[int, float]:
    """Return the unreadable area of each region's core, in level-0 pixels squared.

    It is the whole core, or the parts in damaged places.
    """
    rects = np.array(sorted(job.damaged), np.int64).reshape(-1, 4)
    areas = {}
    for region in job.plan.regions:
        core = np.array([region.core])
        whole = region.index in job.unreadable
        areas[region.index] = union_area(core if whole else clipped(rects, region.core))
    return areas


def unreadable_share(job: SlideJob) -> float:
    """Return the share of the scanned area that could not be read, 0..1."""
    scanned = sum((r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in job.plan.regions)
    return sum(unreadable_areas(job).values()) / max(1, scanned)


def failure_reason(job: SlideJob, error: BaseException) -> str:
    """Return an error in words. An unexpected error gets its type and the slide's name."""
    if isinstance(error, SlideError):
        return str(error)
    return f"slide {job.slide_id!r} ({job.file.path}): {type(error).__name__}: {error}"
