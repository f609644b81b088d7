"""Nothing outside the results folder is ever removed or overwritten, whatever links somebody put inside it.

The results folder itself may be reached by a link: that is the user's own choice. Below it no link is followed. What
is removed is reached by directory descriptors (`O_NOFOLLOW`), so that a folder which becomes a link meanwhile changes
nothing. What is written is written to a new file (`O_EXCL`), then renamed into place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def refuse_links(root: Path, *below: Path) -> None:
    """OutputError where one of the paths, or a folder between `root` and it, is a symbolic link."""
    for path in below:
        steps = path.relative_to(root).parts
        for count in range(1, len(steps) + 1):
            here = root.joinpath(*steps[:count])
            if here.is_symlink():
                raise OutputError(
                    f"{here}: is a symbolic link to {os.readlink(here)}, and nothing is written through one; "
                    "remove the link, or put the folder itself in its place"
                )


def remove_tree(root: Path, path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing where it is missing, or beyond a link.

    OSError where it cannot be removed. A link is removed, never what it names.
    """
    with suppress(FileNotFoundError), _open_folder(root, path.parent) as parent:
        try:
            os.unlink(path.name, dir_fd=parent)
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(path.name, dir_fd=parent)


@contextmanager
def _open_folder(root: Path, folder: Path) -> Iterator[int]:
    """A descriptor of a folder below `root`. OSError where a step on the way is a link, or no folder."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in folder.relative_to(root).parts:
            deeper = os.open(step, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def create_file(path: Path) -> BinaryIO:
    """A new file at `path`, open for writing. What stood there is removed: a link, never what it names."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")
