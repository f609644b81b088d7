"""Calls that may hang, made in a process that can be ended: searching a share, opening a slide, planning it.

A read from a share that has gone may wait in the kernel for ever, and a damaged file may crash a C library; made here,
that costs one call and not the run. One process makes them all, so a call costs far less than a millisecond; after a hang
or a crash the next call starts another. The first is forked on entering, where this process has no thread yet that would
not survive that: what it has loaded need not be loaded again. Enter it before anything is locked or opened.
"""

from __future__ import annotations

import multiprocessing
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
from ..model.allocator import give_back_freed_memory
from .nursery import METHOD, leave_with_the_run

_POLL_S = 0.1
_START_S = (
    300.0  # for Python and what reads slides to be loaded, on a loaded machine from a cold share
)


class NoAnswer(Exception):
    """The call hung, or ended its process; the message says which."""


class GivenUp(Exception):
    """Whoever waited was told to stop."""


class Aside:
    """A process for calls that may hang. Use as a context manager, or call `close`.

    give_up: asked while waiting; once it is true the call is dropped.
    """

    def __init__(self, give_up: Callable[[], bool] = bool):
        self.give_up = give_up
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._ready = False  # it has said so

    def call(self, function: Callable, *arguments: Any, timeout_s: float) -> Any:
        """`function(*arguments)`, a function that can be imported by name; what it raises is raised here.

        Raises NoAnswer where it takes longer than `timeout_s` or ends its process, GivenUp where `give_up` says so.
        """
        try:
            if self._process is None:
                self._start()
            if not self._ready:
                self._wait(_START_S)
                self._connection.recv()
                self._ready = True
            self._connection.send((function, arguments))
            self._wait(timeout_s)
            failed, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise NoAnswer(f"ended its process ({self._ended()})") from None
        if failed:
            raise value
        return value

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._connection.poll(_POLL_S):
            if self.give_up():
                self.close()
                raise GivenUp
            if time.monotonic() >= deadline:
                self.close()
                raise NoAnswer(f"gave no answer within {timeout_s:g} s")

    def _start(self, forks: bool = False) -> None:
        context = multiprocessing.get_context("fork" if forks else METHOD)
        self._connection, theirs = context.Pipe()
        inherited = self._connection if forks else None
        self._process = context.Process(target=_serve_alone, args=(theirs, inherited), daemon=True)
        self._process.start()
        theirs.close()

    def _ended(self) -> str:
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

    def __enter__(self) -> Aside:
        if sys.platform == "linux" and threading.active_count() == 1:
            self._start(forks=True)
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve(connection: Connection) -> None:
    """Say that this process is ready, then answer calls until the other end is closed."""
    from . import planning  # noqa: F401 - loads what reads slides, whose time is not the first call's

    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = (False, function(*arguments))
        except HemaxError as error:
            answer = (True, error)
        except Exception as error:  # of a kind that may not travel
            answer = (True, RuntimeError(f"{type(error).__name__}: {error}"))
        connection.send(answer)
        give_back_freed_memory()  # planning a slide leaves 100 MB


def _serve_alone(connection: Connection, inherited: Connection | None) -> None:
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
    leave_with_the_run()
    serve(connection)
