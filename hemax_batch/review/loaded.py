"""One slide's published results, read back and checked: what the report and the re-tally build on.

Whatever is missing, damaged, of another format or edited by hand is a ResultsError that names the file and the remedy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import ResultsError
from ..results.folder import RESULT_NAME

REMEDY = "run `hemax-batch run` on the slide again (with --overwrite)"


def result_sha256(folder: Path) -> str:
    """What a review is a review of: SHA-256 (hex) over the bytes of `cells.csv`, then those of `result.json`.

    ResultsError where either cannot be read.
    """
    digest = hashlib.sha256()
    for name in ("cells.csv", RESULT_NAME):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise ResultsError(f"{folder / name}: cannot be read: {error.strerror}; {REMEDY}") from error
    return digest.hexdigest()
