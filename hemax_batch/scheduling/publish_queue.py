"""Slides whose regions are all in are written one after another: beside the queue in a thread, or without one at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .slide_job import SlideJob
from .stopping import StopFlag

_POLL_S = 0.25


class PublishQueue:
    """The slides that are being written, or wait for that, by `publish(job)`; its length is how many."""

    def __init__(self, publish: Callable[[SlideJob], None]):
        self._publish = publish
        self._thread: ThreadPoolExecutor | None = None
        self._pending: dict[Future, SlideJob] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def run_in_thread(self, prepare: Callable[[], None]) -> None:
        """Write in a thread from now on, which first does `prepare`."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._thread.submit(prepare)

    def submit(self, job: SlideJob) -> None:
        """Have a slide written; without a thread it is, when this returns."""
        if self._thread is not None:
            self._pending[self._thread.submit(self._publish, job)] = job
            return
        future: Future = Future()
        try:
            future.set_result(self._publish(job))
        except Exception as error:
            future.set_exception(error)
        self._pending[future] = job

    def finished(self) -> Iterator[tuple[SlideJob, BaseException | None]]:
        """Each slide that is written, or could not be, once, with the error."""
        for future in [f for f in self._pending if f.done()]:
            yield self._pending.pop(future), future.exception()

    def shut_down(self, stop: StopFlag) -> None:
        """Drop what has not been begun, and wait for the slide in hand while there is time."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._pending = {
            future: job for future, job in self._pending.items() if not future.cancelled()
        }
        while wait(self._pending, _POLL_S).not_done and stop.has_time():
            pass

    def close(self) -> None:
        """Wait for the slide in hand, which after a signal the end of the process bounds."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
