"""Sources of training images: leaving sources out, and keeping measured images out of training.

An image can be in two data sets under two names. Leaving out a source therefore removes its images
and every copy in other sources. Copies are those that the data name (`Example.original`) and files
that are equal byte for byte. An undeclared copy that was rescaled or saved again is not found.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from ...errors import DataError, WeightsError
from ...model.checkpoint import WeightsCard
from .examples import Example


def check_sources(examples: Iterable[Example], wanted: Collection[str]) -> None:
    """Check that every wanted source has an image; the DataError names the available sources."""
    available = Counter(e.source for e in examples)
    if unknown := [name for name in wanted if name not in available]:
        named = ", ".join(f"{source} ({n} images)" for source, n in available.items())
        raise DataError(
            f"no image is of source {', '.join(map(repr, unknown))}; there are: {named or 'no images'}"
        )


def exclude_sources(
    examples: list[Example], sources: Collection[str]
) -> tuple[list[Example], dict[str, dict[str, int]]]:
    """Remove the examples of `sources` and their copies.

    Returns
    -------
    list of Example
        The remaining examples.
    dict
        Per source the removed images and copies, such as {"BCCD": {"images": 116, "copies": 0}}.

    Raises
    ------
    DataError
        A source is unknown, or nothing remains.
    """
    if not sources:
        return examples, {}
    check_sources(examples, sources)
    copies = find_copies(
        [e for e in examples if e.source in sources],
        [e for e in examples if e.source not in sources],
    )
    kept = [e for e in examples if e.source not in sources and e.path not in copies]
    if not kept:
        raise DataError(f"nothing is left to learn from without {', '.join(sources)}")
    images = Counter(e.source for e in examples)
    copied = Counter(copies.values())
    return kept, {
        source: {"images": images[source], "copies": copied[source]} for source in sources
    }


def remove_copies(
    examples: list[Example], held_out: list[Example], echo: Callable[[str], None] = print
) -> list[Example]:
    """Remove examples that show a held-out image, and report their number.

    Raises
    ------
    DataError
        All examples are copies.
    """
    copies = find_copies(held_out, examples)
    kept = [e for e in examples if e.path not in copies]
    if copies and not kept:
        raise DataError(
            "no training image is left: every image of split train is a copy of one of split val"
        )
    if copies:
        echo(
            f"not learnt: {len(examples) - len(kept)} images of split train that are copies of images of split val"
        )
    return kept


def find_copies(examples: list[Example], others: list[Example]) -> dict[str, str]:
    """Find which of `others` show the same image as one of `examples`.

    Returns
    -------
    dict
        Path of each copy, with the source of the image that it copies.
    """
    named = {e.original: e.source for e in examples if e.original}
    files = {Path(e.path).name: e.source for e in examples}
    sizes = {os.path.getsize(e.path) for e in examples} & {os.path.getsize(e.path) for e in others}
    same = {_digest(e.path): e.source for e in examples if os.path.getsize(e.path) in sizes}
    out = {}
    for e in others:
        # Equal file names alone do not make a copy: every data set has a 0001.png.
        source = named.get(Path(e.path).name) or (
            e.original and (named.get(e.original) or files.get(e.original))
        )
        if not source and os.path.getsize(e.path) in sizes:
            source = same.get(_digest(e.path))
        if source:
            out[e.path] = source
    return out


def _digest(path: str) -> bytes:
    """Return a file's SHA-256."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


def trained_sources(trained: dict[str, Any]) -> dict[str, int]:
    """Count the real images, by source, of all trainings in a card's `trained`."""
    counts = Counter(trained_sources(trained["before"])) if trained.get("before") else Counter()
    counts |= Counter(
        {source: n for source, n in trained.get("images", {}).items() if source != "synthetic"}
    )
    return dict(+counts)


def reject_mixed_sources(cards: Collection[WeightsCard]) -> None:
    """Raise WeightsError if weights that will be averaged were trained on different sources.

    The mean has the last one's card, which would omit some sources.
    """
    each = {card.path: sorted(trained_sources(card.trained)) for card in cards}
    if len({tuple(sources) for sources in each.values()}) > 1:
        text = "; ".join(
            f"{path}: {', '.join(sources) or 'none'}" for path, sources in each.items()
        )
        raise WeightsError(
            f"trained on different sources ({text}): only weights of the same ones can be averaged"
        )


def reject_trained_sources(card: WeightsCard, examples: Iterable[Example]) -> None:
    """Raise DataError if an example of split `train` is of a source of the weights' training."""
    sources = trained_sources(card.trained)
    known = Counter(e.source for e in examples if e.split == "train" and e.source in sources)
    if known:
        text = "; ".join(
            f"{n} images of {s}, and the card says `{s}: {sources[s]} images`"
            for s, n in known.items()
        )
        raise DataError(
            f"{card.path}: trained on what it would be measured on ({text}); measure split val, or weights of "
            "`train --leave-out`"
        )


def select_examples(
    examples: list[Example], split: str, sources: Collection[str], card: WeightsCard
) -> list[Example]:
    """Select the examples of a split (or "all") and of `sources` (all if none is named).

    Raises
    ------
    DataError
        A source is unknown or has no image of the split, or "all" includes training images.
    """
    check_sources(examples, sources)
    chosen = [
        e for e in examples if split in ("all", e.split) and (not sources or e.source in sources)
    ]
    if not chosen:
        raise DataError(
            f"no image of split {split!r}{' of source ' + ', '.join(sources) if sources else ''}"
        )
    if split == "all":
        reject_trained_sources(card, chosen)
    return chosen


def reject_start_weights(card: WeightsCard, excluded: Collection[str]) -> None:
    """Raise DataError if start weights were trained on a source that is left out."""
    sources = trained_sources(card.trained)
    if text := ", ".join(f"`{s}: {sources[s]} images`" for s in excluded if s in sources):
        raise DataError(
            f"{card.path}: cannot go on from weights that were trained on what is left out; the card says {text}"
        )
