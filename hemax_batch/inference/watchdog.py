"""How a worker process ends itself, and says why before it does.

A read that hangs in the kernel, or a graphics card that is lost, can be got rid of with the process only. Dask would see
a worker that died, blame all its tasks and try them again; told which task it was, the run need not find out.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import GpuLostError

HUNG_TASK_TOPIC = (
    "hemax-batch-hung"  # of dask's events: the key of the task and for how long it hung
)
HUNG_EXIT_CODE, GPU_LOST_EXIT_CODE = 75, 76
_REPORT_DELAY_S = 1.0  # for what was said to reach the scheduler
_BLOCK_S = 60.0  # for this process to end

_gpu_lost = threading.Event()  # to this process, which is about to end


@contextmanager
def exit_process_after(timeout_s: float) -> Iterator[None]:
    """End this process if the block takes longer than `timeout_s`; 0: never."""
    if not timeout_s:
        yield
        return
    with called_after(timeout_s, _report_and_exit, _current_task(), timeout_s):
        yield


@contextmanager
def report_gpu_loss() -> Iterator[None]:
    """Turn CUDA's errors into GpuLostError. They leave a process that can never use its GPU again and may spoil what it
    computes, so a worker ends itself, once the error has been sent. What dask gives it until then waits for that end, to
    be done elsewhere: tried here it would only fail, again and again.
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


def _current_task():
    """The dask worker that runs this thread's task, and the task's key; None outside one."""
    from distributed import get_worker

    try:
        worker = get_worker()
        return worker, worker.get_current_task()
    except (ValueError, AttributeError):
        return None


def _report_and_exit(task, timeout_s: float) -> None:
    if task is not None:
        worker, key = task
        worker.log_event(HUNG_TASK_TOPIC, {"key": key, "seconds": timeout_s})
        time.sleep(_REPORT_DELAY_S)
    os._exit(HUNG_EXIT_CODE)


@contextmanager
def called_after(seconds: float, function: Callable, *arguments: object) -> Iterator[None]:
    """`function(*arguments)`, from a thread, if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
