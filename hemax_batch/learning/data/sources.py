"""Which laboratories' pictures a network learnt from: one left out entirely, and no figure that it has seen before.

A picture can be in two data sets under two names. What is left out is therefore a source's pictures and every copy of
them elsewhere: what the data call a copy (`Example.original`), or what is the same file byte for byte. A copy that was
scaled or saved anew without saying so is not found.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from ...errors import DataError, WeightsError
from ...model.checkpoint import WeightsCard
from .examples import Example


def check_sources(examples: Iterable[Example], wanted: Collection[str]) -> None:
    """DataError for a source of which there is no picture; it names those there are."""
    available = Counter(e.source for e in examples)
    if unknown := [name for name in wanted if name not in available]:
        named = ", ".join(f"{source} ({n} images)" for source, n in available.items())
        raise DataError(
            f"no image is of source {', '.join(map(repr, unknown))}; there are: {named or 'no images'}"
        )


def exclude_sources(
    examples: list[Example], sources: Collection[str]
) -> tuple[list[Example], dict[str, dict[str, int]]]:
    """The examples without those of `sources` and without copies of them, and by source how many of either went.

    {"BCCD": {"images": 116, "copies": 0}}. DataError for an unknown source, and where nothing would remain.
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


def remove_copies(examples: list[Example], held_out: list[Example], echo=print) -> list[Example]:
    """The examples that show none of the pictures held out to be measured; says how many did. DataError where all do."""
    copies = find_copies(held_out, examples)
    kept = [e for e in examples if e.path not in copies]
    if copies and not kept:
        raise DataError(
            "nothing is left to learn from: every image of split train is a copy of one of split val"
        )
    if copies:
        echo(
            f"not learnt: {len(examples) - len(kept)} images of split train that are copies of images of split val"
        )
    return kept


def find_copies(examples: list[Example], others: list[Example]) -> dict[str, str]:
    """Which of `others` show the same picture as one of `examples`: path -> that one's source."""
    named = {e.original: e.source for e in examples if e.original}
    files = {Path(e.path).name: e.source for e in examples}
    sizes = {os.path.getsize(e.path) for e in examples} & {os.path.getsize(e.path) for e in others}
    same = {_digest(e.path): e.source for e in examples if os.path.getsize(e.path) in sizes}
    out = {}
    for e in others:
        # two files of one name are copies only where the data say so: every set has its 0001.png
        source = named.get(Path(e.path).name) or (
            e.original and (named.get(e.original) or files.get(e.original))
        )
        if not source and os.path.getsize(e.path) in sizes:
            source = same.get(_digest(e.path))
        if source:
            out[e.path] = source
    return out


def _digest(path: str) -> bytes:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


def trained_sources(trained: dict) -> dict[str, int]:
    """Real images that weights were trained on, by source, over all their trainings; `trained` as in their card."""
    counts = Counter(trained_sources(trained["before"])) if trained.get("before") else Counter()
    counts |= Counter(
        {source: n for source, n in trained.get("images", {}).items() if source != "synthetic"}
    )
    return dict(+counts)


def reject_mixed_sources(cards: Collection[WeightsCard]) -> None:
    """WeightsError where weights to average learnt from different sources: the mean has the last one's card, which would
    then be silent of some."""
    each = {card.path: sorted(trained_sources(card.trained)) for card in cards}
    if len({tuple(sources) for sources in each.values()}) > 1:
        text = "; ".join(
            f"{path}: {', '.join(sources) or 'none'}" for path, sources in each.items()
        )
        raise WeightsError(
            f"trained on different sources ({text}): only weights of the same ones can be averaged"
        )


def reject_trained_sources(card: WeightsCard, examples: Iterable[Example]) -> None:
    """DataError where some of `examples` are of split `train` of a source that the weights were trained on."""
    sources = trained_sources(card.trained)
    if seen := Counter(e.source for e in examples if e.split == "train" and e.source in sources):
        text = "; ".join(
            f"{n} images of {s}, and the card says `{s}: {sources[s]} images`"
            for s, n in seen.items()
        )
        raise DataError(
            f"{card.path}: trained on what it would be measured on ({text}); measure split val, or weights of "
            "`train --leave-out`"
        )


def select_examples(
    examples: list[Example], split: str, sources: Collection[str], card: WeightsCard
) -> list[Example]:
    """The examples of a split (or "all") and of `sources` (or of all, where none is named).

    DataError for an unknown source, one without an image of that split, and where "all" would measure what the weights
    were trained on.
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
    """DataError where weights to go on from were trained on a source that is to be left out."""
    sources = trained_sources(card.trained)
    if text := ", ".join(f"`{s}: {sources[s]} images`" for s in excluded if s in sources):
        raise DataError(
            f"{card.path}: cannot go on from weights that were trained on what is left out; the card says {text}"
        )
