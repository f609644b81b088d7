"""JSON, TOML and text read under limits: whoever may write a file must not be able to end the process that reads it.

A file over its size, nested too deeply, not UTF-8, not a regular file, or with a figure that is not finite is a
ValueError that says so. Whoever reads our own files or foreign ones goes through here.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

MAX_BYTES = (
    16 * 2**20
)  # a record of ours is some kilobytes; parsed, JSON takes up to 25 times its size
MAX_LIST_BYTES = 32 * 2**20  # `ids.json` and `run.json`: a line for each of some 100,000 slides
MAX_DATA_BYTES = 2 * 2**30  # annotations of a data set
MAX_TOML_BYTES = 2**20
MAX_LINE_CHARS = 2**20
MAX_DEPTH = 32
_MAX_INT = 2**63


def read_bounded(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `max_bytes`. ValueError otherwise; OSError where it cannot be read."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"has {size} bytes, the limit is {max_bytes}")
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"grew beyond the limit of {max_bytes} bytes")
    return raw


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open for reading. ValueError where something else is in its place: a pipe would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("is no regular file")
    return open(descriptor, "rb")


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Its text, UTF-8, without a byte-order mark."""
    return read_bounded(path, max_bytes).decode("utf-8-sig")


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Its JSON value. OSError or ValueError."""
    return parse_json(read_bounded(path, max_bytes))


def parse_json(
    raw: bytes | str,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    finite: bool = True,
) -> Any:
    """A JSON value of at most MAX_DEPTH levels, whose figures are finite and fit 64 bits. ValueError otherwise.

    object_hook  as `json.loads` has it
    finite       False: figures may be NaN or infinite

    >>> parse_json(b'{"a": [1]}')
    {'a': [1]}
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8")
    try:
        value = json.loads(
            text, object_hook=object_hook, parse_constant=_reject_constant if finite else None
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    _check_values(value, finite)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Its TOML table. OSError or ValueError."""
    return parse_toml(read_bounded(path, MAX_TOML_BYTES))


def parse_toml(raw: bytes) -> dict[str, Any]:
    """A TOML table of at most MAX_DEPTH levels. ValueError otherwise."""
    try:
        value = tomllib.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    _check_values(value, finite=False)
    return value


def bounded_lines(file: TextIO) -> Iterator[str]:
    """The lines of an open text file. ValueError where one has over MAX_LINE_CHARS characters."""
    while line := file.readline(MAX_LINE_CHARS + 1):
        if len(line) > MAX_LINE_CHARS:
            raise ValueError(f"a line has over {MAX_LINE_CHARS} characters")
        yield line


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no figure")


def _check_values(value: Any, finite: bool = True) -> None:
    """ValueError where a value lies deeper than MAX_DEPTH, or a figure cannot be written again as JSON."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
            elif isinstance(item, float) and finite and not math.isfinite(item):
                raise ValueError("a figure is not finite")
            elif isinstance(item, int) and not -_MAX_INT <= item < _MAX_INT:
                raise ValueError("a figure does not fit 64 bits")
        if not deeper:
            return
        level = deeper
    raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
