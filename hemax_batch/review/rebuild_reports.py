"""`hemax-batch report`: write the reports and the index again from results alone, without slide or model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import HemaxError, OutputError, UsageError, exit_code_for
from ..results.contained_files import refuse_links
from ..results.folder import ResultsFolder
from ..results.lock import OutputLock
from .index import write_index
from .report import write_report


def rebuild_reports(root: Path, slide_ids: tuple[str, ...], echo: Callable[[str], None]) -> int:
    """Write the reports of all slides, or of `slide_ids`, and the index. Return the exit code.

    A slide whose results cannot be read is reported and never stops the others. Missing results raise UsageError.
    A folder that a run holds raises LockedError. A folder that cannot be written raises OutputError.
    """
    results = ResultsFolder(root)
    folders = results.folders()
    if not folders:
        raise UsageError(
            f"{results.root}: holds no results of hemax-batch; name the folder that --out named"
        )
    known = {folder.name for folder in folders}
    if unknown := [slide_id for slide_id in slide_ids if slide_id not in known]:
        raise UsageError(
            f"--slide {unknown[0]}: is not in {results.root}; there are {', '.join(sorted(known)[:8])}"
        )
    wanted = [folder for folder in folders if not slide_ids or folder.name in slide_ids]
    _create_state_folder(results)
    with OutputLock(results.state, 0.0):
        failed = sum(not _rebuild_one(folder, echo) for folder in wanted)
        echo(str(write_index(results)))
    return exit_code_for(failed, len(wanted))


def _create_state_folder(results: ResultsFolder) -> None:
    """Create `.hemax`. Results that were copied may lack it."""
    try:
        refuse_links(results.root, results.state)
        results.state.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{results.root}: cannot be written: {error.strerror}; check permissions and space"
        ) from error


def _rebuild_one(folder: Path, echo: Callable[[str], None]) -> bool:
    try:
        refuse_links(folder.parent, folder)
    except OutputError as error:  # of this slide alone
        echo(f"failed: {error}")
        return False
    try:
        echo(str(write_report(folder)))
    except OutputError:
        raise
    except HemaxError as error:
        echo(f"failed: {error}")
        return False
    return True
