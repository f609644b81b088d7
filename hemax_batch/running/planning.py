"""A slide's plan as a task: its stain measured and its regions laid out by whichever process has time."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Slide, TilePlan
from ..slides.quality import measure_stain
from ..slides.reader import reopen
from ..slides.tiling import plan_regions
from .last_words import ended_after


@dataclass(frozen=True)
class PlanJob:
    """What planning needs. timeout_s: planning that takes longer ends its worker process; 0: no limit."""

    slide: Slide
    core_um: float
    timeout_s: float = 0.0


def plan_slide(job: PlanJob) -> TilePlan:
    """Open, measure the stain, lay out the regions. Raises SlideError where the slide cannot be read."""
    with ended_after(job.timeout_s), reopen(job.slide) as reader:
        return plan_regions(reader, measure_stain(reader), job.core_um)
