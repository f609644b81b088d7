"""Files that are whole or absent: written aside, flushed, renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError


def flush(path: Path) -> None:
    """A file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` (folders are made), replacing what is there at once. OutputError naming the path."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(
            OSError
        ):  # where a file stands in the place of the folder, not even this can be asked
            aside.unlink()
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; check space and permissions"
        ) from error
