"""A slide's plan as a task: its stain measured and its regions laid out by whichever process has time."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Slide, TilePlan
from ..slides.reader import reopen
from ..slides.stain import measure_stain
from ..slides.tiling import plan_regions
from .watchdog import exit_process_after


@dataclass(frozen=True)
class PlanTask:
    """What planning needs. timeout_s: planning that takes longer ends its worker process; 0: no limit."""

    slide: Slide
    core_um: float
    timeout_s: float = 0.0


def plan_slide(task: PlanTask) -> TilePlan:
    """Open, measure the stain, lay out the regions. Raises SlideError where the slide cannot be read."""
    with exit_process_after(task.timeout_s), reopen(task.slide, True) as reader:
        return plan_regions(reader, measure_stain(reader), task.core_um)
