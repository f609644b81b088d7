"""Publish finished slides one after another: in a thread beside the work queue, or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .slide_job import SlideJob
from .stopping import StopFlag

_POLL_S = 0.25


class PublishQueue:
    """The slides that are being published, or wait for it, by `publish(job)`.

    Its length is the number of those slides.
    """

    def __init__(self, publish: Callable[[SlideJob], None]) -> None:
        self._publish = publish
        self._thread: ThreadPoolExecutor | None = None
        self._pending: dict[Future[None], SlideJob] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def run_in_thread(self, prepare: Callable[[], None]) -> None:
        """Publish in a thread from now on. The thread calls `prepare` first."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._thread.submit(prepare)

    def submit(self, job: SlideJob) -> None:
        """Publish a slide. Without a thread it is published when this returns."""
        if self._thread is not None:
            self._pending[self._thread.submit(self._publish, job)] = job
            return
        future: Future[None] = Future()
        try:
            self._publish(job)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        self._pending[future] = job

    def finished(self) -> Iterator[tuple[SlideJob, BaseException | None]]:
        """Yield each slide that was published, or failed, once, with its error or None."""
        for future in [f for f in self._pending if f.done()]:
            yield self._pending.pop(future), future.exception()

    def shut_down(self, stop: StopFlag) -> None:
        """Drop the slides that wait. Wait for the current slide while there is time."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._pending = {
            future: job for future, job in self._pending.items() if not future.cancelled()
        }
        while wait(self._pending, _POLL_S).not_done and stop.has_time():
            pass

    def close(self) -> None:
        """Wait for the current slide. After a signal the end of the process bounds the wait."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
