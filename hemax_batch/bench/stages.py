"""CPU-seconds of a run by stage.

`python -m hemax_batch.bench.stages SLIDE OUT [OPTIONS of run]` runs one slide in one process and prints a JSON object.
Each stage is a few functions. A clock replaces them where they are called. Time within a stage that another stage
calls counts for the inner one only, so the stages sum to the whole.
"""

from __future__ import annotations

import functools
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

#: Stage, module, and the name by which a caller in that module knows the function.
STAGES = (
    ("decode", "slides.reader", "SlideReader.read"),
    ("screen", "slides.screening", "read_view"),
    ("screen", "slides.screening", "candidates_in_view"),
    ("screen", "slides.screening", "propose_candidates"),
    ("screen", "inference.region_inference", "measure_squares"),
    ("screen", "inference.region_inference", "overview_piece"),
    ("red cells", "inference.region_inference", "_measure_red_cells"),
    ("cutting", "inference.patch_predictor", "PatchPredictor._read_batch"),
    ("network", "model.predictor", "Predictor._probabilities"),
    ("drawing", "model.predictor", "draw_mask"),
    ("drawing", "model.predictor", "pack_mask"),
    ("pictures", "model.predictor", "Predictor._picture"),
    ("cells", "model.predictor", "Predictor.__call__"),
    ("outlines", "inference.region_inference", "add_outlines"),
    ("loading", "inference.region_task", "load_predictor"),
    ("journal", "results.journal", "RegionJournal.save"),
    ("merge", "publishing.slide_cells", "merge_cells"),
    ("report", "publishing.publish", "write_report_or_say_why"),
    ("publish", "publishing.publish", "publish_slide"),
)
_OTHER = "other"


class StageClock:
    """CPU-seconds of this process by stage, for functions that one thread calls.

    >>> clock = StageClock(iter([0.0, 1.0, 4.0, 5.0]).__next__)
    >>> inner = clock.timed("inner", lambda: None)
    >>> clock.timed("outer", inner)()
    >>> clock.seconds
    {'inner': 3.0, 'outer': 2.0}
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._open: list[tuple[str, float]] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted for a stage."""

        @functools.wraps(function)
        def wrapper(*args: object, **kwargs: object) -> Any:
            started = self._now()
            self._open.append((stage, 0.0))
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = self._now() - started
                _, inner = self._open.pop()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed - inner
                if self._open:
                    outer, inner = self._open[-1]
                    self._open[-1] = (outer, inner + elapsed)

        return wrapper

    def attach(self) -> None:
        """Replace every function of `STAGES` by its timed one."""
        for stage, module, name in STAGES:
            owner: Any = importlib.import_module(f"hemax_batch.{module}")
            *classes, attribute = name.split(".")
            for part in classes:
                owner = getattr(owner, part)
            setattr(owner, attribute, self.timed(stage, getattr(owner, attribute)))


def measure_stages(slide: str, out: str, options: list[str]) -> dict[str, float]:
    """Run a slide without workers and return CPU-seconds by stage, largest first, and their sum.

    "planning" is the process that opens and plans the slide. "other" is start-up and the rest.
    """
    from ..cli import main as command

    clock = StageClock()
    clock.attach()
    arguments = ["run", slide, "--out", out, "--workers", "0", "--quiet", *options]
    try:
        command(arguments, standalone_mode=False)
    except SystemExit as ended:
        if ended.code:
            raise
    whole_s = time.process_time()
    seconds = clock.seconds | {
        _OTHER: whole_s - sum(clock.seconds.values()),
        "planning": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
    }
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: round(s, 3) for name, s in ordered} | {"all": round(sum(seconds.values()), 3)}


if __name__ == "__main__":
    print(json.dumps(measure_stages(sys.argv[1], sys.argv[2], sys.argv[3:])))
