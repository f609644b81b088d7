"""Write `cells.parquet`: the columns of `cells.csv` with types, for pandas, polars, R and DuckDB."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ResultsError
from ..outputs.tables import CELL_COLUMNS, read_table
from ..review.load_results import REMEDY, load_record
from ..vocabulary import ATTRIBUTE_NAMES, CLAIM

_TEXTS = {
    "slide",
    "sample_id",
    "class",
    *ATTRIBUTE_NAMES,
    "zone",
    "left_out",
    "review_reasons",
    "explanation",
}
_TRUTHS = {"in_differential", "review"}
_ROWS = 50_000  # in memory at a time


def write(path: Path, folder: Path) -> None:
    """Write the table of the slide's results in `folder`. Unreadable results raise ResultsError."""
    record = load_record(folder)
    schema = pa.schema(
        [(name, _type_of(name)) for name in CELL_COLUMNS],
        metadata={"slide": record.slide_id, "mpp": str(record.mpp), "claim": CLAIM},
    )
    if not (folder / "cells.csv").is_file():
        raise ResultsError(f"{folder / 'cells.csv'}: is missing; {REMEDY}")
    rows = read_table(folder / "cells.csv")
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while part := list(islice(rows, _ROWS)):
            columns = [
                pa.array([_value(name, row[name]) for row in part], _type_of(name))
                for name in CELL_COLUMNS
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _type_of(name: str) -> pa.DataType:
    if name in _TEXTS:
        return pa.string()
    return pa.int64() if name == "cell_id" else pa.bool_() if name in _TRUTHS else pa.float64()


def _value(name: str, text: str) -> str | bool | int | float | None:
    if name in _TEXTS:
        return text
    if name in _TRUTHS:
        return text == "true"
    return None if text == "" else int(text) if name == "cell_id" else float(text)
