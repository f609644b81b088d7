"""Map a function over a few processes, in order, for the work after a slide's last region.

`ProcessPool.map` takes its jobs one by one and submits only a few ahead, so memory is bounded. Its
values equal those of the built-in `map`.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from .forkserver import exit_with_parent, process_context

MIN_CELLS_FOR_POOL = 20_000  # for fewer cells, starting processes takes longer than it saves
MAX_PROCESSES = 8  # each process holds some 100 MB
_JOBS_PER_PROCESS = 2  # submitted jobs per process
_NICENESS = 5  # the regions of the next slides have priority
Job = TypeVar("Job")
Value = TypeVar("Value")


class ProcessPool:
    """A pool of `processes`. Fewer than two means this process. Use it as a context manager."""

    def __init__(self, processes: int) -> None:
        self.processes = min(processes, MAX_PROCESSES)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Job], Value], jobs: Iterable[Job]) -> Iterator[Value]:
        """Yield the value of a module-level function for each picklable job, in order."""
        if self.processes < 2:
            yield from map(function, jobs)
            return
        pending: deque[tuple[Future[Value], Job]] = deque()
        for job in jobs:
            pending.append((self._submit(function, job), job))
            if len(pending) >= _JOBS_PER_PROCESS * self.processes:
                yield self._value(function, *pending.popleft())
        while pending:
            yield self._value(function, *pending.popleft())

    def _submit(self, function: Callable[[Job], Value], job: Job) -> Future[Value]:
        """Submit a job. Start the pool before the first one."""
        if self._pool is None:
            context = process_context()
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_init_worker)
        try:
            return self._pool.submit(function, job)
        except BrokenProcessPool as error:
            failed: Future[Value] = Future()
            failed.set_exception(error)
            return failed

    @staticmethod
    def _value(function: Callable[[Job], Value], future: Future[Value], job: Job) -> Value:
        """Return a job's value. Compute it here if its process died, for example for memory."""
        try:
            return future.result()
        except BrokenProcessPool:
            return function(job)


def _init_worker() -> None:
    """Set up a new process: low priority, no reaction to Ctrl-C, end with the parent."""
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
