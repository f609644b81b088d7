"""Calls that may hang, made in a process that can be ended: searching a share, opening a slide, planning it.

A read from a share that has gone may wait in the kernel for ever, and a damaged file may crash a C library; made here,
that costs one call and not the run. One process makes them all, so a call costs far less than a millisecond; after a hang
or a crash the next call starts another. The first is forked on entering, where this process has no thread yet that would
not survive that: what it has loaded need not be loaded again. Enter it before anything is locked or opened.
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
from typing import Any

from ..errors import HemaxError
from ..model.engines.memory_allocator import release_freed_memory
from .forkserver import exit_with_parent, process_context

_POLL_S = 0.1
_START_TIMEOUT_S = (
    300.0  # for Python and what reads slides to be loaded, on a loaded machine from a cold share
)


class CallTimedOut(Exception):
    """The call hung, or ended its process; the message says which."""


class CallCancelled(Exception):
    """Whoever waited was told to stop."""


class SubprocessCaller:
    """A process for calls that may hang. Use as a context manager, or call `close`.

    give_up: asked while waiting; once it is true the call is dropped.
    """

    def __init__(self, is_cancelled: Callable[[], bool] = bool):
        self.is_cancelled = is_cancelled
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._ready = False  # it has said so

    def call(self, function: Callable, *arguments: Any, timeout_s: float) -> Any:
        """`function(*arguments)`, a function that can be imported by name; what it raises is raised here.

        Raises CallTimedOut where it takes longer than `timeout_s` or ends its process, CallCancelled where `is_cancelled` says so.
        """
        try:
            if self._process is None:
                self._start()
            if not self._ready:
                self._wait(_START_TIMEOUT_S)
                self._connection.recv()
                self._ready = True
            self._connection.send((function, arguments))
            self._wait(timeout_s)
            failed, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise CallTimedOut(f"ended its process ({self._exit_description()})") from None
        if failed:
            raise value
        return value

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._connection.poll(_POLL_S):
            if self.is_cancelled():
                self.close()
                raise CallCancelled
            if time.monotonic() >= deadline:
                self.close()
                raise CallTimedOut(f"gave no answer within {timeout_s:g} s")

    def _start(self, fork: bool = False) -> None:
        context = process_context(fork)
        self._connection, child_end = context.Pipe()
        inherited = self._connection if fork else None
        self._process = context.Process(
            target=_child_main, args=(child_end, inherited), daemon=True
        )
        self._process.start()
        child_end.close()

    def _exit_description(self) -> str:
        """How the process ended, in words; it is gone then."""
        self._process.join()
        code = self._process.exitcode
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join(1.0)  # one that hangs in the kernel goes when that lets it
            self._process, self._ready = None, False

    def __enter__(self) -> SubprocessCaller:
        if sys.platform == "linux" and threading.active_count() == 1:
            self._start(fork=True)
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve_calls(connection: Connection) -> None:
    """Say that this process is ready, then answer calls until the other end is closed."""
    from ..inference import plan_task  # noqa: F401 - loads what reads slides, whose time is not the first call's

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
        except Exception as error:  # of a kind that may not travel
            result = (True, RuntimeError(f"{type(error).__name__}: {error}"))
        connection.send(result)
        release_freed_memory()  # planning a slide leaves 100 MB


def _child_main(connection: Connection, inherited: Connection | None) -> None:
    """All that such a process does. Whoever stops the run stops all its processes: the run ends this.

    inherited: the run's own end, to be let go here, so that its end is seen
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
