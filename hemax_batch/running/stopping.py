"""Stopping in good order: SIGTERM, SIGINT and `--max-minutes` set a flag that the run looks at between tasks.

Whatever happens the process is gone within `HARD_LIMIT_S` of a signal: a region in hand is interrupted after
`_REGION_GRACE_S`, and a read that hangs in the kernel is left by ending the process. Nothing is lost by that but the
region in hand, since results are only ever renamed into place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HARD_LIMIT_S = 27.0  # promised: within 30 s
_REGION_GRACE_S = 12
EXIT_MAX_MINUTES, EXIT_HUNG = 7, 8


class StopNow(BaseException):
    """Raised in the main thread to leave a region in hand; no `except Exception` may swallow it."""


class StopFlag:
    """Whether, why and with which exit code the run should stop. Use as a context manager in the main thread."""

    def __init__(self, max_minutes: float | None = None):
        self.reason = ""
        self.exit_code = 0
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._max_minutes = max_minutes
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGTERM, self._signalled),
                (signal.SIGINT, self._signalled),
                (signal.SIGALRM, _leave),
            ):
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_) -> None:
        self.acknowledge()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        """Whether to stop."""
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop(f"--max-minutes {self._max_minutes:g} reached", EXIT_MAX_MINUTES)
        return bool(self.reason)

    def stop(self, reason: str, exit_code: int) -> None:
        """Ask to stop, from within. The first reason stays."""
        if not self.reason:
            self.reason, self.exit_code = reason, exit_code

    def acknowledge(self) -> None:
        """The run has seen the flag and is leaving: it need not be interrupted any more."""
        if self._previous:
            signal.alarm(0)

    def _signalled(self, number: int, _frame) -> None:
        if self.reason:  # asked twice: leave what is in hand
            raise StopNow(self.reason)
        self.stop(f"stopped by {signal.Signals(number).name}", 128 + number)
        signal.alarm(_REGION_GRACE_S)
        last = threading.Timer(HARD_LIMIT_S, os._exit, (self.exit_code,))
        last.daemon = True
        last.start()


def _leave(_number: int, _frame) -> None:
    raise StopNow("the region in hand took too long")


@contextmanager
def ended_if_hung(timeout_s: float, note: Callable[[], None]) -> Iterator[None]:
    """If the block takes longer than `timeout_s`, call `note` and end this process, which alone gets it out of there."""

    def end() -> None:
        try:
            note()
        finally:
            os._exit(EXIT_HUNG)

    with called_after(timeout_s, end):
        yield


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
