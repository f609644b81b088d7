"""End a worker process that hangs or lost its GPU, and report the reason before.

Only the end of the process ends a read that hangs in the kernel, or a lost GPU. dask would only see
a dead worker, blame all its tasks and retry them. The report names the task that hangs.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVarTuple

from ..errors import GpuLostError

# Topic of dask's events. An event has the key of the task and the seconds that it took.
HUNG_TASK_TOPIC = "hemax-batch-hung"
HUNG_EXIT_CODE, GPU_LOST_EXIT_CODE = 75, 76
_REPORT_DELAY_S = 1.0  # until the report has reached the scheduler
_BLOCK_S = 60.0  # until this process has ended

Ts = TypeVarTuple("Ts")
_gpu_lost = threading.Event()  # set if this process lost its GPU and will end


@contextmanager
def exit_process_after(timeout_s: float) -> Iterator[None]:
    """End this process if the block takes longer than `timeout_s`. 0: never."""
    if not timeout_s:
        yield
        return
    with called_after(timeout_s, _report_and_exit, _current_task(), timeout_s):
        yield


@contextmanager
def report_gpu_loss() -> Iterator[None]:
    """Turn CUDA's errors into GpuLostError.

    After such an error the process can never use its GPU again, and its results may be wrong. A worker
    therefore ends itself after it has sent the error. Tasks that dask sends until then wait for that
    end and run elsewhere.
    """
    if _gpu_lost.is_set():
        time.sleep(_BLOCK_S)
    try:
        yield
    except RuntimeError as error:  # torch.AcceleratorError, without importing torch here
        if "CUDA error" not in str(error):
            raise
        task = _current_task()
        if task is not None:
            _gpu_lost.set()
            timer = threading.Timer(_REPORT_DELAY_S, os._exit, (GPU_LOST_EXIT_CODE,))
            timer.daemon = True
            timer.start()
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        message = f"GPU {gpu} on {socket.gethostname()}: {str(error).splitlines()[0]}"
        raise GpuLostError(message, gpu, task[0].address if task else "") from error


def _current_task() -> tuple[Any, Any] | None:
    """Return the dask worker that runs this thread's task, and the task's key. None without dask."""
    from distributed import get_worker

    try:
        worker = get_worker()
        return worker, worker.get_current_task()
    except (ValueError, AttributeError):
        return None


def _report_and_exit(task: tuple[Any, Any] | None, timeout_s: float) -> None:
    """Report the task that hangs, then end this process."""
    if task is not None:
        worker, key = task
        worker.log_event(HUNG_TASK_TOPIC, {"key": key, "seconds": timeout_s})
        time.sleep(_REPORT_DELAY_S)
    os._exit(HUNG_EXIT_CODE)


@contextmanager
def called_after(
    seconds: float, function: Callable[[*Ts], object], *arguments: *Ts
) -> Iterator[None]:
    """Call `function(*arguments)` from a thread if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
