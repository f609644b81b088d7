"""Memory that the network frees stays with the process: asking the system anew for each patch doubled a worker's time."""

import os
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from hemax_batch.model.engines.memory_allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
def round():
    np.ones(1 << 20), np.ones(1 << 19)  # 8 and 4 MB
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of twenty rounds of large arrays, under what dask sets for its workers."""
    env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("the C library here is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_arrays_cost_no_page_faults_once_kept():
    assert faults("keep") < 200


@pytest.mark.skipif(sys.platform != "linux", reason="as glibc does it")
def test_without_it_they_do_under_dask_s_setting():
    assert faults("leave") > 2000


_GIVEN_BACK = """
from pathlib import Path
from hemax_batch.model.engines.memory_allocator import release_freed_memory
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
small = [bytes(60_000) for _ in range(2000)]
last = bytes(60_000)  # above them in the heap, so that they do not go by themselves
del small
before = held()
release_freed_memory()
print(before - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as glibc does it")
def test_freed_memory_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", _GIVEN_BACK], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 80e6
