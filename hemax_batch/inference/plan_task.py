"""A slide's plan as a task: its stain and scale measured and its regions laid out by whichever process has time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..records import Slide, TilePlan
from ..slides.reader import reopen
from ..slides.scale_check import measure_scale, scale_warning
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
        stain = measure_stain(reader)
        plan = plan_regions(reader, stain, task.core_um)
        if not plan.regions:
            return plan
        return replace(plan, scale_warning=scale_warning(task.slide, measure_scale(reader, stain)))
