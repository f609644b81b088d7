"""Fuzzes the TIFF path and the tile plan for a time: python fuzz_tiff.py [MINUTES] [SEED].

Small sound TIFFs are damaged (bytes flipped, cut out, repeated, numbers replaced by extreme ones), opened, planned and
read. Whatever comes of it must be one of our own errors, or a plan whose cores tile the scanned area, within a time and
an amount of memory. What is not is written beside as `crash-N.tif`, and the exit code is 1.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from broken_slides import sound_slides

from hemax_batch.errors import SlideError
from hemax_batch.inference.plan_task import PlanTask, plan_slide
from hemax_batch.slides.reader import open_slide

_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_SLOW_S = 20.0  # of processor time: the clock on the wall says more of the machine's other work
_MEMORY_BYTES = 6 * 2**30


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """`raw` with one to four things wrong with it; directories, at either end, more often than pixels."""
    out = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.choice(
            (
                chance.randrange(min(600, len(out))),
                len(out) - 1 - chance.randrange(min(1500, len(out))),
                chance.randrange(len(out)),
            )
        )
        kind = chance.randrange(5)
        if kind < 2:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            number = (chance.choice(_EXTREMES)).to_bytes(4, chance.choice(("little", "big")))
            out[at : at + len(number)] = number
        elif kind == 3:
            del out[at : at + chance.randint(1, 200)]
        else:
            out[at:at] = out[at : at + chance.randint(1, 200)]
        if len(out) < 16:
            break
    return bytes(out)


def examine(path: Path) -> str:
    """Open, plan and read a slide: "sound", or the kind of our error. Raises AssertionError for a plan that is wrong."""
    try:
        with open_slide(path, "fuzzed", 0.25) as reader:
            slide = reader.slide
            plan = plan_slide(PlanTask(slide, 100.0))
            cores = {region.core for region in plan.regions}
            assert len(cores) == len(plan.regions)
            assert all(
                0 <= x0 < x1 <= slide.width and 0 <= y0 < y1 <= slide.height
                for x0, y0, x1, y1 in cores
            )
            for region in plan.regions[:4]:
                x0, y0, x1, y1 = region.core
                window = reader.read(0, x0, y0, min(x1 - x0, 512), min(y1 - y0, 512))
                assert window.shape == (min(y1 - y0, 512), min(x1 - x0, 512), 3)
        return "sound"
    except SlideError as error:
        assert str(path) in str(error)
        return type(error).__name__


def main(minutes: float, seed: int) -> int:
    """Fuzz for `minutes`; 1 where anything was found."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    chance, outcomes, found = random.Random(seed), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        sound = [p.read_bytes() for p in sound_slides(Path(folder)) if p.suffix in (".tif", ".svs")]
        path, deadline = Path(folder, "fuzzed.tif"), time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            content = damaged(chance.choice(sound), chance)
            path.write_bytes(content)
            begun = time.process_time()
            try:
                outcome = examine(path)
                if time.process_time() - begun > _SLOW_S:
                    raise TimeoutError(f"{time.process_time() - begun:.0f} s")
            except Exception as error:
                found += 1
                Path(f"crash-{seed}-{found}.tif").write_bytes(content)
                print(f"crash-{seed}-{found}.tif: {type(error).__name__}: {error}", file=sys.stderr)
                outcome = "found"
            outcomes[outcome] += 1
    print(f"{outcomes.total()} executions in {minutes:g} min: {dict(outcomes)}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(float((sys.argv + ["1"])[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
