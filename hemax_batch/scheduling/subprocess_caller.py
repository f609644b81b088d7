"""Make calls that may hang in a process that can be ended: search a share, open or plan a slide.

A read from a lost share may wait in the kernel without end, and a damaged file may crash a C
library. In this process such a fault costs one call and not the run. One process makes all calls,
so a call costs far less than a millisecond. After a hang or a crash the next call starts another
process. The first process is forked on entering, before this process has other threads, so it need
not load the libraries again. Enter the context before anything is locked or opened.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar, TypeVarTuple

from ..errors import HemaxError
from ..model.engines.memory_allocator import release_freed_memory
from .forkserver import exit_with_parent, process_context

_POLL_S = 0.1
_START_TIMEOUT_S = 300.0  # for loading Python and the readers on a busy machine from a slow share
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CallTimedOut(Exception):
    """The call hung or ended its process. The message says which."""


class CallCancelled(Exception):
    """The caller was cancelled while it waited."""


class SubprocessCaller:
    """A process for calls that may hang. Use it as a context manager, or call `close`.

    Attributes
    ----------
    is_cancelled
        Called while waiting. The call is dropped once it returns true.
    """

    def __init__(self, is_cancelled: Callable[[], bool] = bool) -> None:
        self.is_cancelled = is_cancelled
        self._child: tuple[BaseProcess, Connection] | None = None
        self._ready = False  # the process has sent its first message

    def call(self, function: Callable[[*Ts], T], *arguments: *Ts, timeout_s: float) -> T:
        """Return `function(*arguments)`. The function must be importable by name.

        Its exceptions are raised here.

        Raises
        ------
        CallTimedOut
            The call takes longer than `timeout_s`, or it ends its process.
        CallCancelled
            `is_cancelled` returned true.
        """
        try:
            process, connection = self._child or self._start()
            if not self._ready:
                self._wait(connection, _START_TIMEOUT_S)
                connection.recv()
                self._ready = True
            connection.send((function, arguments))
            self._wait(connection, timeout_s)
            failed, value = connection.recv()
        except (EOFError, ConnectionError):
            raise CallTimedOut(f"ended its process ({self._exit_description()})") from None
        if failed:
            raise value
        result: T = value
        return result

    def _wait(self, connection: Connection, timeout_s: float) -> None:
        """Wait for a message. Raise CallCancelled or CallTimedOut."""
        deadline = time.monotonic() + timeout_s
        while not connection.poll(_POLL_S):
            if self.is_cancelled():
                self.close()
                raise CallCancelled
            if time.monotonic() >= deadline:
                self.close()
                raise CallTimedOut(f"gave no answer within {timeout_s:g} s")

    def _start(self, fork: bool = False) -> tuple[BaseProcess, Connection]:
        """Start the process and return it with this end of its connection."""
        context = process_context(fork)
        connection, child_end = context.Pipe()
        inherited = connection if fork else None
        process: BaseProcess = context.Process(
            target=_child_main, args=(child_end, inherited), daemon=True
        )
        self._child = process, connection
        process.start()
        child_end.close()
        return process, connection

    def _exit_description(self) -> str:
        """Return how the process ended, in words, and release it."""
        if self._child is None:
            return "it was closed"
        process = self._child[0]
        process.join()
        code = process.exitcode or 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._child is not None:
            process, connection = self._child
            connection.close()
            process.kill()
            process.join(1.0)  # a process that hangs in the kernel ends when the kernel returns
            self._child, self._ready = None, False

    def __enter__(self) -> SubprocessCaller:
        if sys.platform == "linux" and threading.active_count() == 1:
            self._start(fork=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_calls(connection: Connection) -> None:
    """Report that this process is ready, then make calls until the other end is closed."""
    # Loading the slide readers must not count as time of the first call.
    from ..inference import plan_task  # noqa: F401

    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            result = (False, function(*arguments))
        except HemaxError as error:
            result = (True, error)
        except Exception as error:  # its class may not be picklable
            result = (True, RuntimeError(f"{type(error).__name__}: {error}"))
        connection.send(result)
        release_freed_memory()  # planning a slide leaves 100 MB


def _child_main(connection: Connection, inherited: Connection | None) -> None:
    """Run the process. It ignores signals, because the run ends it.

    `inherited` is the run's own end of the connection. It is closed here, so that this process
    notices the run's end.
    """
    if inherited is not None:
        inherited.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    exit_with_parent()
    serve_calls(connection)
