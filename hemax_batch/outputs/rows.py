"""Cells are written some thousand at a time: fast as arrays are, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator

ROWS = 4096


def row_blocks(n: int, size: int = ROWS) -> Iterator[slice]:
    """The rows of n cells, in order, so many at a time.

    >>> list(row_blocks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
