"""Choose slide ids: names of results folders that are safe on any file system and do not change.

An id is a readable ASCII slug of the file's stem. A hash of the full name follows if the slug loses
letters that distinguish names (letters outside ASCII, characters after the 80th). If two slides
still share an id, each of them gets a hash of its absolute path, so ids do not depend on the order.
A path that already has results keeps its id (`known_ids`). A second `smear.svs` in another folder
therefore never renames or replaces the results of the first.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

MAX_ID_CHARS = 80
RESERVED = ("reviews",)  # folders of the results that belong to no slide (review.retally)
_HASH_CHARS = 8
#: Windows cannot open a folder of these names, whatever follows a dot.
_WINDOWS_DEVICES = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT") for k in range(10)))
)
_DOUBLE_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.btf", ".ome.tf8", ".ome.tf2")


def assign_ids(
    paths: Sequence[Path], names: Sequence[str], known_ids: Mapping[str, str]
) -> list[str]:
    """Assign an id to each absolute path. Ids differ even if case is ignored.

    Parameters
    ----------
    names
        Names of the slides, usually `stem(path)`.
    known_ids
        Ids that were given earlier, by path.

    >>> assign_ids([Path("/a/smear 1.svs"), Path("/b/other.tif")], ["smear 1", "other"], {})
    ['smear_1', 'other']
    """
    slugs = [slug(name) for name in names]
    new = [i for i, path in enumerate(paths) if str(path) not in known_ids]
    uses = Counter(slugs[i].casefold() for i in new)
    ids = [known_ids.get(str(path), name) for path, name in zip(paths, slugs, strict=True)]
    taken = {slide_id.casefold() for slide_id in (*RESERVED, *known_ids.values())}
    for i in new:
        if slugs[i].casefold() in taken or uses[slugs[i].casefold()] > 1:
            ids[i] = _with_hash(slugs[i], str(paths[i]))
    # A file may have the name of another slide's id with its hash. A longer hash resolves this.
    uses = Counter(
        slide_id.casefold() for slide_id in (*known_ids.values(), *(ids[i] for i in new))
    )
    for i in new:
        if uses[ids[i].casefold()] > 1:
            ids[i] = _with_hash(slugs[i], str(paths[i]), 32)
    return ids


def stem(path: Path) -> str:
    """Return the file's name without its ending. `.ome.tif` and the like are one ending."""
    for double in _DOUBLE_SUFFIXES:
        if path.name.lower().endswith(double):
            return path.name[: -len(double)]
    return path.stem


def slug(name: str) -> str:
    """Return a readable ASCII form of `name`: at most 80 letters, digits, `.`, `-` and `_`.

    The slug is never empty and never starts with `.`, `-` or `=`. It never looks like a file name
    (`x.csv`), because files lie beside the folder.

    >>> slug("fluorescence (387)"), slug("=cmd"), slug("cells.csv")
    ('fluorescence_387', 'cmd', 'cells_csv')
    >>> slug("CON")
    'slide_CON'
    """
    plain = unicodedata.normalize("NFKD", name)
    ascii_only = plain.encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", ascii_only).strip("._-") or "slide"
    safe = re.sub(r"\.(?=[A-Za-z][A-Za-z0-9]{0,7}$)", "_", safe)
    if safe.split(".")[0].upper() in _WINDOWS_DEVICES:
        safe = f"slide_{safe}"
    # An accent may be dropped (é → e). A letter without an ASCII form adds a hash.
    lost = any(
        not c.isascii() and not unicodedata.combining(c) for c in plain
    ) or not ascii_only.strip(" ._-=")
    return _with_hash(safe, name) if lost or len(safe) > MAX_ID_CHARS else safe


def _with_hash(name: str, hashed_text: str, hash_chars: int = _HASH_CHARS) -> str:
    """Append a hash of `hashed_text` to a name of at most 80 characters."""
    digest = hashlib.sha256(hashed_text.encode("utf-8", "surrogateescape")).hexdigest()[:hash_chars]
    return f"{name[: MAX_ID_CHARS - hash_chars - 1].rstrip('._-')}-{digest}"
