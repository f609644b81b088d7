"""Write files that are whole or absent: written aside, flushed, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .contained_files import create_file


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` and replace what is there at once.

    Missing folders are made. Raises OutputError with the path.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_file(partial) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # this fails too if a file has the name of the folder
            partial.unlink()
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; check space and permissions"
        ) from error


@contextmanager
def as_output_error(target: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}; "
            "check space and permissions, then run again to continue"
        ) from error
