"""Remove what killed runs left behind, so that nothing accumulates over the years.

`ResultsFolder.recover_interrupted` restores earlier results that a kill left between two renames.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .contained_files import remove_tree
from .folder import ResultsFolder
from .journal import JOURNALS, parse_journal_name
from .lock import process_start

_ABANDONED_S = 30 * 86400.0  # no run continues a slide after this time


def remove_stale_files(results: ResultsFolder) -> None:
    """Remove files that no run needs. The caller holds the lock.

    - Half-written files: all in the state folder, because only the lock's holder writes there; beside
      the results, those of processes that have ended.
    - Drafts of locks, and probes, of processes that have ended.
    - Journals of published slides (the run was killed before it removed them), and journals that no run
      has used for 30 days.
    """
    # Journals come first, because removing a file in one would make it look used.
    for folder in (results.state / JOURNALS).glob("*-*"):
        if _is_published(results, folder) or _is_abandoned(folder):
            _remove(results, folder)
    for path in (*results.state.rglob(".*.partial*"), *_files_of_dead_processes(results)):
        _remove(results, path)


def _remove(results: ResultsFolder, path: Path) -> None:
    with suppress(OSError):
        remove_tree(results.root, path)


def _files_of_dead_processes(results: ResultsFolder) -> Iterator[Path]:
    """Yield files with the id of a process that has ended."""
    host = f".{socket.gethostname()}."
    candidates = [p for p in results.state.glob(".lock.*") if host in p.name]
    candidates += [*results.state.glob(".probe.*"), *results.state.glob("*.partial")]
    for path in (*candidates, *results.root.glob(".*.partial")):
        pid = path.name.removesuffix(".partial").rpartition(".")[2]
        if pid.isdigit() and process_start(int(pid)) is None:
            yield path


def _is_published(results: ResultsFolder, journal: Path) -> bool:
    """Return whether a slide was published from this journal with nothing unreadable."""
    slide_id, fingerprint = parse_journal_name(journal.name)
    record = results.record(slide_id)
    return (
        record is not None
        and record.fingerprint.startswith(fingerprint)
        and not record.unreadable_share
    )


def _is_abandoned(journal: Path) -> bool:
    """Return whether no run has used a journal for a long time."""
    try:
        return time.time() - journal.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False
