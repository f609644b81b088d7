"""Jobs for tests/test_spread.py: light to import, as each process does that."""

import os
import time


def squared(x: int) -> int:
    """Later ones are not always slower."""
    time.sleep(0.002 * (x % 3))
    return x * x


def dies_elsewhere(job: tuple[int, int]) -> int:
    """The fourth job ends any process but the one that asks."""
    x, parent = job
    if x == 3 and os.getpid() != parent:
        os._exit(1)
    return x


def refuses(x: int) -> int:
    """A full disk."""
    raise OSError(28, f"no space left for {x}")
