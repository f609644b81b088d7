"""A map over a few processes, in order, for what is done after a slide's last region: then the workers have nothing to do.

As `map` it takes its jobs one by one, no more ahead than keep the processes busy, so that memory stays bounded; and its
values are those that `map` would give.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from .forkserver import exit_with_parent, process_context

MIN_CELLS_FOR_POOL = 20_000  # for fewer, starting processes takes longer than they save
MAX_PROCESSES = 8  # processes: each holds some 100 MB
_JOBS_PER_PROCESS = 2  # jobs in hand per process
_NICENESS = 5  # the regions of the next slides come first


class ProcessPool:
    """`map` over `processes`; over none, in this process, where these are fewer than two. Use as a context manager."""

    def __init__(self, processes: int):
        self.processes = min(processes, MAX_PROCESSES)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """The values of a module's function for each of `jobs`, which can be pickled, in their order."""
        if self.processes < 2:
            yield from map(function, jobs)
            return
        pending: deque[tuple[Future, Any]] = deque()
        for job in jobs:
            pending.append((self._submit(function, job), job))
            if len(pending) >= _JOBS_PER_PROCESS * self.processes:
                yield self._value(function, *pending.popleft())
        while pending:
            yield self._value(function, *pending.popleft())

    def _submit(self, function: Callable[[Any], Any], job: Any) -> Future:
        if self._pool is None:
            context = process_context()
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_init_worker)
        try:
            return self._pool.submit(function, job)
        except BrokenProcessPool as error:
            return _failed_future(error)

    @staticmethod
    def _value(function: Callable[[Any], Any], future: Future, job: Any) -> Any:
        """A job's value. One whose process died, of too little memory perhaps, is done here."""
        try:
            return future.result()
        except BrokenProcessPool:
            return function(job)


def _failed_future(error: BaseException) -> Future:
    future: Future = Future()
    future.set_exception(error)
    return future


def _init_worker() -> None:
    """In a new process: let others go first, and leave Ctrl-C to the process that waits for this one; end with it."""
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
