"""What killed runs left behind, told from what is still of use and removed, so that nothing piles up over the years.

Earlier results that a kill left between two renames are another matter: `ResultsFolder.tidy` puts them back.
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

_ABANDONED_S = 30 * 86400.0  # a slide that no run has gone on with for so long is not coming back


def remove_stale_files(results: ResultsFolder) -> None:
    """Remove, as the run that holds the lock:

    - half-written files: in the state folder all, since none but the lock's holder writes there; beside the results
      those of processes that are gone;
    - drafts of locks, and probes, of processes that are gone;
    - journals of slides that are published from them (killed before these were cleared, and the slide not among the
      inputs any more), and those that nobody has come back to for 30 days.
    """
    for folder in (results.state / JOURNALS).glob(
        "*-*"
    ):  # first: removing a file in it would make it look used
        if _is_published(results, folder) or _is_abandoned(folder):
            _remove(results, folder)
    for path in (*results.state.rglob(".*.partial*"), *_files_of_dead_processes(results)):
        _remove(results, path)


def _remove(results: ResultsFolder, path: Path) -> None:
    with suppress(OSError):
        remove_tree(results.root, path)


def _files_of_dead_processes(results: ResultsFolder) -> Iterator[Path]:
    host = f".{socket.gethostname()}."
    candidates = [p for p in results.state.glob(".lock.*") if host in p.name]
    candidates += [*results.state.glob(".probe.*"), *results.state.glob("*.partial")]
    for path in (*candidates, *results.root.glob(".*.partial")):
        pid = path.name.removesuffix(".partial").rpartition(".")[2]
        if pid.isdigit() and process_start(int(pid)) is None:
            yield path


def _is_published(results: ResultsFolder, journal: Path) -> bool:
    slide_id, fingerprint = parse_journal_name(journal.name)
    record = results.record(slide_id)
    return (
        record is not None
        and record.fingerprint.startswith(fingerprint)
        and not record.unreadable_share
    )


def _is_abandoned(journal: Path) -> bool:
    try:
        return time.time() - journal.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False
