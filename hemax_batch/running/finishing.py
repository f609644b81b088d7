"""Slides whose regions are all in are written one after another: beside the queue in a thread, or without one at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .slide_work import SlideWork
from .stopping import StopFlag

_POLL_S = 0.25


class Finishing:
    """The slides that are being written, or wait for that, by `finish(work)`; its length is how many."""

    def __init__(self, finish: Callable[[SlideWork], None]):
        self._finish = finish
        self._thread: ThreadPoolExecutor | None = None
        self._in_hand: dict[Future, SlideWork] = {}

    def __len__(self) -> int:
        return len(self._in_hand)

    def go_beside(self, prepare: Callable[[], None]) -> None:
        """Write in a thread from now on, which first does `prepare`."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._thread.submit(prepare)

    def submit(self, work: SlideWork) -> None:
        """Have a slide written; without a thread it is, when this returns."""
        if self._thread is not None:
            self._in_hand[self._thread.submit(self._finish, work)] = work
            return
        future: Future = Future()
        try:
            future.set_result(self._finish(work))
        except Exception as error:
            future.set_exception(error)
        self._in_hand[future] = work

    def ended(self) -> Iterator[tuple[SlideWork, BaseException | None]]:
        """Each slide that is written, or could not be, once, with the error."""
        for future in [f for f in self._in_hand if f.done()]:
            yield self._in_hand.pop(future), future.exception()

    def wind_up(self, stop: StopFlag) -> None:
        """Drop what has not been begun, and wait for the slide in hand while there is time."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._in_hand = {
            future: work for future, work in self._in_hand.items() if not future.cancelled()
        }
        while wait(self._in_hand, _POLL_S).not_done and stop.leaves_time():
            pass

    def close(self) -> None:
        """Wait for the slide in hand, which after a signal the end of the process bounds."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
