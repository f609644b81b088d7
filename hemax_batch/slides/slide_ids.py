"""Slide ids: the names of results folders, safe on any file system and stable from night to night.

An id is a readable ASCII slug of the file's stem. Where the slug lost something that tells names apart (letters that
are not ASCII, a tail beyond 80 characters), a hash of the full name follows. Where two slides still share an id, every
one of them gets a hash of its absolute path, so that ids do not depend on the order. And a path that already has
results keeps the id they were written under (`known_ids`), so that a second `smear.svs`, found a month later in
another folder, never renames or takes over the first one's results.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

MAX_ID_CHARS = 80
RESERVED = ("reviews",)  # folders that are not slides' lie there (review.retally)
_HASH_CHARS = 8
_DOUBLE_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.btf", ".ome.tf8", ".ome.tf2")


def assign_ids(
    paths: Sequence[Path], names: Sequence[str], known_ids: Mapping[str, str]
) -> list[str]:
    """An id per absolute path, distinct even where case is ignored; `known_ids` maps paths to ids already given.

    `names` are what the slides are called (usually `stem(path)`).

    >>> assign_ids([Path("/a/smear 1.svs"), Path("/b/other.tif")], ["smear 1", "other"], {})
    ['smear_1', 'other']
    """
    wanted = [slug(name) for name in names]
    newcomers = [i for i, path in enumerate(paths) if str(path) not in known_ids]
    crowd = Counter(wanted[i].casefold() for i in newcomers)
    ids = [known_ids.get(str(path), name) for path, name in zip(paths, wanted, strict=True)]
    taken = {given.casefold() for given in (*RESERVED, *known_ids.values())}
    for i in newcomers:
        if wanted[i].casefold() in taken or crowd[wanted[i].casefold()] > 1:
            ids[i] = _with_hash(wanted[i], str(paths[i]))
    # a file may be called like another's id with its hash; a longer hash settles it
    crowd = Counter(
        given.casefold() for given in (*known_ids.values(), *(ids[i] for i in newcomers))
    )
    for i in newcomers:
        if crowd[ids[i].casefold()] > 1:
            ids[i] = _with_hash(wanted[i], str(paths[i]), 32)
    return ids


def stem(path: Path) -> str:
    """The file's name without its ending, `.ome.tif` and the like included."""
    for double in _DOUBLE_SUFFIXES:
        if path.name.lower().endswith(double):
            return path.name[: -len(double)]
    return path.stem


def slug(name: str) -> str:
    """A readable ASCII form of `name`: letters, digits, `.`, `-`, `_`; at most 80 characters.

    Never empty, never starting with `.`, `-` or `=`, never looking like a file (`x.csv`), since files lie beside it.

    >>> slug("fluorescence (387)"), slug("=cmd"), slug("cells.csv")
    ('fluorescence_387', 'cmd', 'cells_csv')
    """
    plain = unicodedata.normalize("NFKD", name)
    ascii_only = plain.encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", ascii_only).strip("._-") or "slide"
    safe = re.sub(r"\.(?=[A-Za-z][A-Za-z0-9]{0,7}$)", "_", safe)
    # combining accents may go (é → e), a letter with no ASCII form may not go unnoticed
    lost = any(
        not c.isascii() and not unicodedata.combining(c) for c in plain
    ) or not ascii_only.strip(" ._-=")
    return _with_hash(safe, name) if lost or len(safe) > MAX_ID_CHARS else safe


def _with_hash(name: str, of: str, hash_chars: int = _HASH_CHARS) -> str:
    digest = hashlib.sha256(of.encode("utf-8", "surrogateescape")).hexdigest()[:hash_chars]
    return f"{name[: MAX_ID_CHARS - hash_chars - 1].rstrip('._-')}-{digest}"
