"""Plan a slide as a task: measure its stain and scale, and lay out its regions."""

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
    """A slide with all that is needed to plan it.

    Planning that takes longer than `timeout_s` ends its worker process. 0: no limit.
    """

    slide: Slide
    core_um: float
    timeout_s: float = 0.0


def plan_slide(task: PlanTask) -> TilePlan:
    """Open a slide, measure its stain, lay out its regions.

    Raises SlideError if the slide cannot be read.
    """
    with exit_process_after(task.timeout_s), reopen(task.slide, True) as reader:
        stain = measure_stain(reader)
        plan = plan_regions(reader, stain, task.core_um)
        if not plan.regions:
            return plan
        return replace(plan, scale_warning=scale_warning(task.slide, measure_scale(reader, stain)))
