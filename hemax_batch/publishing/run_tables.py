"""Join the slides' tables to the tables over all slides, those of earlier runs included."""

from __future__ import annotations

import os
import shutil

from ..outputs.tables import CELL_COLUMNS, DIFFERENTIAL_COLUMNS
from ..results.atomic_files import as_output_error
from ..results.contained_files import create_file
from ..results.folder import ResultsFolder


def write_run_tables(results: ResultsFolder) -> None:
    """Write `differential.csv` and `cells.csv` over all slides in the folder, by id.

    Each file is put in place at once.
    """
    folders = [results.slide(record.slide_id) for record in results.records()]
    for name, columns in (("differential.csv", DIFFERENTIAL_COLUMNS), ("cells.csv", CELL_COLUMNS)):
        target = results.root / name
        partial = results.state / f"{name}.{os.getpid()}.partial"
        with as_output_error(target):
            with create_file(partial) as joined:
                joined.write((",".join(columns) + "\n").encode())
                for folder in folders:
                    with open(folder / name, "rb") as part:
                        part.readline()
                        shutil.copyfileobj(part, joined)
                joined.flush()
                os.fsync(joined.fileno())
            partial.replace(target)
