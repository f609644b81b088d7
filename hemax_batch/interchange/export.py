"""List the export formats and their packages, and write their files into the slides' folders."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import HemaxError, OutputError, UsageError, exit_code_for, one_line
from ..results.atomic_files import fsync_path
from ..results.contained_files import refuse_links
from ..results.folder import ResultsFolder
from ..results.lock import OutputLock


@dataclass(frozen=True)
class Format:
    """One export: its option, its file, its packages, and the module that holds `write`."""

    name: str
    file: str
    packages: tuple[str, ...]
    module: str


FORMATS = (
    Format("parquet", "cells.parquet", ("pyarrow",), "parquet"),
    Format("anndata", "cells.h5ad", ("anndata",), "anndata_table"),
    Format("fhir", "fhir.json", ("fhir.resources",), "fhir"),
    Format("dicom-ann", "annotations.dcm", ("highdicom", "pydicom"), "dicom_ann"),
)


class NotApplicable(Exception):
    """The export does not apply to this slide. The message says why."""


def select_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """Return the formats by name. A missing package raises UsageError."""
    wanted = set(names)
    chosen = tuple(f for f in FORMATS if f.name in wanted)
    for f in chosen:
        missing = [package for package in f.packages if not _is_installed(package)]
        if missing:
            raise UsageError(
                f"--{f.name} needs {', '.join(missing)}, which is not installed: pip install 'hemax-batch[interchange]'"
            )
    return chosen


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that holds it is absent
        return False


def export_all(
    root: Path, slide_ids: Iterable[str], formats: Iterable[Format], echo: Callable[[str], None],
    overwrite: bool = True, wait_lock_s: float = 0.0,
) -> int:  # fmt: skip
    """Export the named slides, or all slides. A slide that fails never stops the others.

    Without `overwrite`, only missing files are written. The result is the exit code: 0 all done, 3 some failed,
    4 all failed. A slide without results raises UsageError. A folder that a run holds raises LockedError.
    """
    results, wanted = ResultsFolder(root), set(slide_ids)
    results.require_existing()
    published = [record.slide_id for record in results.records()]
    if unknown := sorted(wanted - set(published)):
        raise UsageError(
            f"{root}: no results of {', '.join(map(repr, unknown))}; there are {', '.join(published[:8])}"
        )
    chosen, failed = [s for s in published if s in wanted or not wanted], 0
    with OutputLock(results.state, wait_lock_s):
        for slide_id in chosen:
            try:
                for f in formats:
                    _export(results, slide_id, f, echo, overwrite)
            except Exception as error:  # foreign writers may raise anything on odd slides
                failed += 1
                echo(
                    f"{slide_id}: failed: {error if isinstance(error, HemaxError) else f'{type(error).__name__}: {one_line(error)}'}"
                )
    return exit_code_for(failed, len(chosen))


def _export(
    results: ResultsFolder, slide_id: str, f: Format, echo: Callable[[str], None], overwrite: bool
) -> None:
    """Write one file aside and rename it. A format that does not apply is reported; it is not a failure."""
    target = results.slide(slide_id) / f.file
    if target.exists() and not overwrite:
        return
    partial = (
        results.state / f".{slide_id}.{os.getpid()}.partial.{f.file}"
    )  # some writers go by the ending
    refuse_links(results.root, results.slide(slide_id), results.state)
    try:
        importlib.import_module(f".{f.module}", __package__).write(partial, results.slide(slide_id))
        fsync_path(partial)
        partial.replace(target)
    except NotApplicable as reason:
        echo(f"{slide_id}: no {f.file}: {reason}")
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}; check space and permissions"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
