"""Output streams of a run: what cannot be written there is lost, and the run goes on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

_LOST = (OSError, ValueError)  # full, broken, closed; not encodable


class TolerantStream:
    """A text stream whose writes never fail. After the first that does, the rest goes nowhere."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or lose it."""
        try:
            self._stream.write(text)
        except _LOST:
            self._discard()
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write the lines, or lose them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or lose what was written."""
        try:
            self._stream.flush()
        except _LOST:
            self._discard()

    def _discard(self) -> None:
        """Send the rest to the null device: Python flushes its buffer once more when it ends."""
        with suppress(*_LOST):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, self._stream.fileno())
            os.close(descriptor)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tolerate_lost_output() -> None:
    """Let this process run on without its output streams.

    A standard descriptor that is closed is opened on the null device. The next file would take its number otherwise,
    and a library's message would be written into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, TolerantStream):
            continue
        if stream is None:
            stream = open(descriptor, "w", encoding="utf-8", closefd=False)
        with suppress(AttributeError, *_LOST):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, TolerantStream(stream))
