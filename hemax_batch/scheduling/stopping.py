"""Stop a run in good order on SIGTERM, SIGINT and `--max-minutes`.

They set a flag that the run checks between tasks. The process ends within `HARD_LIMIT_S` of a
signal in every case. A region in progress is interrupted after `_REGION_GRACE_S`. A read that hangs
in the kernel ends with the process. Only the region in progress is lost, because results are
renamed into place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..errors import StoppedError
from ..inference.watchdog import called_after

HARD_LIMIT_S = 27.0  # the documented limit is 30 s
_REGION_GRACE_S = 12
_FINALISE_AFTER_S = 17.0  # after a signal; the remaining time is for run tables and run.json
EXIT_MAX_MINUTES, EXIT_HUNG = 7, 8


class StopNow(BaseException):
    """Raised in the main thread to leave a region in progress.

    It is a BaseException, so `except Exception` does not catch it.
    """


class StopFlag:
    """Whether, why and with which exit code the run should stop.

    Use it as a context manager in the main thread.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.reason = ""
        self.exit_code = 0
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._max_minutes = max_minutes
        self._previous: dict[int, Any] = {}
        self._signal_time: float | None = None
        self._may_interrupt = False

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGTERM, self._signalled),
                (signal.SIGINT, self._signalled),
                (signal.SIGALRM, self._interrupt),
            ):
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous:
            signal.alarm(0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        """Return whether the run should stop."""
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop(f"--max-minutes {self._max_minutes:g} reached", EXIT_MAX_MINUTES)
        return bool(self.reason)

    def stop(self, reason: str, exit_code: int) -> None:
        """Request a stop from within the run. The first reason is kept."""
        if not self.reason:
            self.reason, self.exit_code = reason, exit_code

    def check(self) -> None:
        """Raise StoppedError if the run should stop."""
        if self:
            raise StoppedError(self.reason, self.exit_code)

    def has_time(self) -> bool:
        """Return whether there is time for more than the final tables.

        There is always time, except some seconds after a signal.
        """
        return self._signal_time is None or time.monotonic() < self._signal_time + _FINALISE_AFTER_S

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow StopNow to be raised in this block, once.

        It is raised if the task in progress takes too long after a signal, or by a second signal.
        """
        self._may_interrupt = True
        try:
            yield
        finally:
            self._may_interrupt = False

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT."""
        repeated = bool(self.reason)
        self.stop(f"stopped by {signal.Signals(number).name}", 128 + number)
        if self._signal_time is None:
            self._signal_time = time.monotonic()
            signal.alarm(_REGION_GRACE_S)
            timer = threading.Timer(HARD_LIMIT_S, os._exit, (self.exit_code or 128 + number,))
            timer.daemon = True
            timer.start()
        if repeated:
            self._interrupt(number, frame)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Raise StopNow if the block allows it."""
        if self._may_interrupt:
            self._may_interrupt = False
            raise StopNow(self.reason)


@contextmanager
def exit_if_hung(timeout_s: float, before_exit: Callable[[], None]) -> Iterator[None]:
    """End this process if the block takes longer than `timeout_s`, after a call of `before_exit`.

    Nothing else can end a block that hangs in this process.
    """

    def end() -> None:
        try:
            before_exit()
        finally:
            os._exit(EXIT_HUNG)

    with called_after(timeout_s, end):
        yield
